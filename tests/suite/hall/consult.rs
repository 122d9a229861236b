//! What only a backend can know of its volumes: asked now and then, told where a volume is read, in nobody's way.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Consultation,
    ports::backend::Health,
    testing::{Fault, Verb},
};
use tokio::time::Instant;

use super::{Teller, hall, name};

impl Teller {
    async fn says(&self) -> Consultation {
        self.hall.backends().await.unwrap().remove(0).said.expect("it was never asked")
    }

    async fn ail(&self, volume: &str, health: Option<Health>) {
        let token = self.see(volume).await.volume.token(self.hall.cluster());
        self.backend.lock().unwrap().ail(&token, health);
        self.hall.consult().await.unwrap();
    }
}

fn degraded() -> Health {
    Health { reason: "CopyLost".into(), message: "one of its two copies is gone".into(), severe: false }
}

#[test]
fn what_a_backend_complains_of_is_told_until_it_is_well_again() {
    hall(|house| async move {
        house.make("db").await;
        house.make("other").await;
        house.hall.consult().await.unwrap();
        assert!(house.says().await.heard.is_ok());
        house.ail("db", Some(degraded())).await;
        assert_eq!(house.see("db").await.complaint, Some(degraded()));
        assert_eq!(house.see("other").await.complaint, None);
        let listed = house.hall.list(None, 10).await.unwrap().items;
        assert_eq!(listed.iter().filter(|view| view.complaint.is_some()).count(), 1);
        let why = house.hall.why(&name("db")).await.unwrap();
        assert!(why.ails[0].contains("one of its two copies is gone"), "{:?}", why.ails);
        assert!(why.waits.is_empty(), "it waits for nothing");
        assert_eq!(house.says().await.complaints, [(name("db"), degraded())]);
        assert_eq!(house.hall.gauges().await.unwrap().volumes_unwell, 1);
        house.take("db", "one").await.unwrap();
        house.give("db", "one").await;

        house.ail("db", None).await;
        assert_eq!(house.see("db").await.complaint, None);
        house.ail("db", Some(degraded())).await;
        house.remove("db").await.unwrap();
        house.hall.consult().await.unwrap();
        assert_eq!(house.hall.gauges().await.unwrap().volumes_unwell, 0);
    });
}

#[test]
fn a_backend_that_does_not_say_keeps_nobody_waiting_and_its_last_words_are_no_news() {
    hall(|house| async move {
        house.make("db").await;
        house.ail("db", Some(degraded())).await;
        house.backend.lock().unwrap().fault(Verb::Health, Fault::Hang);
        let begun = Instant::now();
        let consulting = house.hall.consult();
        let meanwhile = async {
            house.make("other").await;
            house.take("db", "one").await.unwrap();
            begun.elapsed()
        };
        let (consulted, meanwhile) = tokio::join!(consulting, meanwhile);
        consulted.unwrap();
        assert!(meanwhile < Duration::from_secs(5), "{meanwhile:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let said = house.says().await;
        assert!(said.heard.unwrap_err().contains("20 s") && said.complaints.is_empty());
        assert_eq!(house.see("db").await.complaint, None);
        house.hall.consult().await.unwrap();
        assert_eq!(house.see("db").await.complaint, Some(degraded()));
    });
}

#[test]
fn a_stranger_is_not_believed() {
    hall(|house| async move {
        house.make("db").await;
        house.backend.lock().unwrap().become_another("a stranger");
        tokio::time::sleep(Duration::from_secs(10)).await;
        house.ail("db", Some(degraded())).await;
        assert_eq!(house.see("db").await.complaint, None);
        assert!(house.says().await.heard.is_err());
        drop::<Arc<Teller>>(house);
    });
}
