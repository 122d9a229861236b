//! Changing the parameters of a volume.

use std::{collections::BTreeMap, time::Duration};

use kato_orchestrator::{
    Error, Kind, Outcome,
    model::{Bytes, CapacityRange},
    ops::{GrowVolume, ModifyVolume, Reach, VolumeView},
    testing::{Fault, Verb},
};

use super::{Teller, hall, name};

impl Teller {
    async fn change(&self, volume: &str, pairs: &[(&str, &str)]) -> Result<Outcome<VolumeView>, Error> {
        let parameters = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self.hall.modify(&self.context(), ModifyVolume { volume: name(volume).into(), parameters }).await
    }

    /// What the backend has.
    async fn at_the_backend(&self, volume: &str) -> BTreeMap<String, String> {
        let handle = self.see(volume).await.volume.handle.unwrap();
        self.backend.lock().unwrap().parameters(handle.as_str()).unwrap().clone()
    }

    fn next_change(&self, fault: Fault) {
        self.backend.lock().unwrap().fault(Verb::Modify, fault);
    }
}

fn tier(value: &str) -> BTreeMap<String, String> {
    [("tier".to_owned(), value.to_owned())].into()
}

#[test]
fn a_parameter_is_changed_at_the_backend_and_in_the_records() {
    hall(|house| async move {
        house.make("db").await;
        assert!(matches!(house.change("db", &[("tier", "fast")]).await, Ok(Outcome::Changed(_))));
        assert_eq!(house.at_the_backend("db").await, tier("fast"));
        let volume = house.see("db").await.volume;
        assert_eq!((volume.actual_parameters, volume.wanted.parameters), (tier("fast"), tier("fast")));
        assert!(matches!(house.change("db", &[("tier", "fast")]).await, Ok(Outcome::Unchanged(_))));
    });
}

#[test]
fn what_cannot_be_changed_is_refused_by_name_with_what_can() {
    hall(|house| async move {
        house.make("db").await;
        for (pairs, kind) in [
            (&[("zone", "b")][..], Kind::InvalidArgument),
            (&[("colour", "red")], Kind::InvalidArgument),
            (&[("tier", "fast"), ("colour", "red")], Kind::InvalidArgument),
            (&[], Kind::InvalidArgument),
        ] {
            let refusal = house.change("db", pairs).await.unwrap_err();
            assert_eq!(refusal.kind, kind, "{refusal}");
            assert!(refusal.message.contains("what can be changed is tier"), "{refusal}");
            if let Some((name, _)) = pairs.last() {
                assert!(refusal.message.contains(name), "{refusal}");
            }
        }
        assert_eq!(house.at_the_backend("db").await, BTreeMap::new());
        assert!(!house.see("db").await.volume.wants_modify());
        assert_eq!(house.change("never", &[("tier", "fast")]).await.unwrap_err().kind, Kind::NotFound);
    });
}

#[test]
fn a_refused_change_sets_the_wish_back_and_is_told() {
    hall(|house| async move {
        house.make("db").await;
        house.change("db", &[("tier", "fast")]).await.unwrap();
        house.next_change(Fault::Refuse(Error::invalid("there is no tier golden")));
        let refusal = house.change("db", &[("tier", "golden")]).await.unwrap_err();
        assert!(refusal.message.contains("golden"), "{refusal}");
        let volume = house.see("db").await.volume;
        assert_eq!((volume.actual_parameters, volume.wanted.parameters), (tier("fast"), tier("fast")));
        assert_eq!(volume.intent, None);
        house.change("db", &[("tier", "slow")]).await.unwrap();
    });
}

#[test]
fn a_change_whose_answer_was_lost_is_asked_for_again() {
    hall(|house| async move {
        house.make("db").await;
        house.next_change(Fault::LoseAnswer(Error::unavailable("the connection was cut").pending()));
        house.change("db", &[("tier", "fast")]).await.unwrap();
        assert_eq!(house.at_the_backend("db").await, tier("fast"));
    });
}

#[test]
fn one_change_is_made_at_a_time() {
    hall(|house| async move {
        house.make("db").await;
        house.next_change(Fault::Pending(5));
        let (first, second, ()) = tokio::join!(
            house.change("db", &[("tier", "fast")]),
            house.change("db", &[("tier", "fast")]),
            async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                let other = house.change("db", &[("tier", "slow")]).await.unwrap_err();
                assert_eq!(other.kind, Kind::Busy, "{other}");
                let size = CapacityRange::at_least(Bytes(3 << 30));
                let wish = GrowVolume { volume: name("db").into(), size, reach: Reach::Everywhere };
                assert_eq!(house.hall.grow(&house.context(), wish).await.unwrap_err().kind, Kind::Busy);
                assert!(!house.see("db").await.volume.wants_growth());
            }
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(house.at_the_backend("db").await, tier("fast"));
        house.backend.lock().unwrap().fault(Verb::Grow, Fault::Pending(5));
        let size = CapacityRange::at_least(Bytes(3 << 30));
        let (grown, ()) = tokio::join!(
            async {
                house
                    .hall
                    .grow(
                        &house.context(),
                        GrowVolume { volume: name("db").into(), size, reach: Reach::Everywhere },
                    )
                    .await
            },
            async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                assert_eq!(house.change("db", &[("tier", "slow")]).await.unwrap_err().kind, Kind::Busy);
            }
        );
        grown.unwrap();
        house.change("db", &[("tier", "slow")]).await.unwrap();
    });
}

#[test]
fn a_change_that_never_succeeds_traps_nobody() {
    hall(|house| async move {
        house.make("db").await;
        for _ in 0..1_000 {
            house.next_change(Fault::Refuse(Error::unavailable("the cloud is away").pending()));
        }
        assert_eq!(house.change("db", &[("tier", "fast")]).await.unwrap_err().kind, Kind::Timeout);
        house.take("db", "one").await.unwrap();
        house.give("db", "one").await;
        house.remove("db").await.unwrap();
    });
}

#[test]
fn a_change_waits_for_a_volume_that_is_being_made() {
    hall(|house| async move {
        house.backend.lock().unwrap().fault(Verb::Create, Fault::Pending(3));
        let (made, changed) = tokio::join!(house.try_make("db"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            house.change("db", &[("tier", "fast")]).await
        });
        made.unwrap();
        changed.unwrap();
        assert_eq!(house.at_the_backend("db").await, tier("fast"));
    });
}
