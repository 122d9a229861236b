//! Devices that are smaller than their volumes: they are not here yet, or are other disks, and nothing is written to
//! them and nothing of them is shown.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Kind,
    model::{Bytes, FsState, MountState},
    ops::{Access, MountVolume, VolumeView},
};

use super::{Nature, Teller, Town, mount_of};

/// One life of the hall over a backend that attaches.
fn hall<F: Future<Output = ()>>(life: impl FnOnce(Arc<Teller>) -> F) {
    Town::new(Nature { attaches: true, ..Nature::PLAIN }).live(life);
}

impl Teller {
    fn show_size(&self, volume: &VolumeView, size: Option<Bytes>) {
        self.machine.lock().unwrap().show_size(volume.volume.id, size);
    }
}

#[test]
fn a_volume_is_not_formatted_on_a_device_that_is_smaller_than_it_is() {
    hall(|house| async move {
        let made = house.make("db").await;
        let actual = made.volume.actual.unwrap();
        house.show_size(&made, Some(Bytes(actual.0 / 2)));
        let refusal = house.take("db", "c0ffee").await.unwrap_err();
        assert!(matches!(refusal.kind, Kind::Unavailable | Kind::Timeout), "{refusal}");
        assert!(refusal.message.contains("another disk"), "{refusal}");
        let seen = house.see("db").await;
        assert_eq!(seen.volume.filesystem.state, FsState::Blank, "it was begun with");
        assert_eq!(
            house.backend.lock().unwrap().bytes(made.volume.handle.as_ref().unwrap().as_str()),
            Some(&mut Vec::new())
        );
        // The size arrives.
        house.show_size(&made, Some(actual));
        house.take("db", "c0ffee").await.unwrap();
        assert_eq!(house.see("db").await.volume.filesystem.state, FsState::Formatted);
    });
}

#[test]
fn a_volume_is_not_mounted_from_a_device_that_is_smaller_than_it_is() {
    hall(|house| async move {
        let made = house.make("db").await;
        let (id, actual) = (made.volume.id, made.volume.actual.unwrap());
        house.take("db", "one").await.unwrap();
        house.host.write(id, "rows").unwrap();
        house.give("db", "one").await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(house.machine.lock().unwrap().mounts(), []);
        house.show_size(&made, Some(Bytes(actual.0 - 512)));
        let refusal = house.take("db", "two").await.unwrap_err();
        assert!(matches!(refusal.kind, Kind::Unavailable | Kind::Timeout), "{refusal}");
        assert_eq!(house.machine.lock().unwrap().mounts(), []);
        // A larger one has grown, and nobody has told yet.
        house.show_size(&made, Some(Bytes(actual.0 + 512)));
        house.take("db", "two").await.unwrap();
        assert_eq!(house.host.read(id).unwrap(), "FS:rows");
    });
}

#[test]
fn a_device_is_not_given_to_a_holder_while_it_is_smaller_than_its_volume() {
    hall(|house| async move {
        let made = house.make("db").await;
        let actual = made.volume.actual.unwrap();
        house.show_size(&made, Some(Bytes(actual.0 / 2)));
        let raw =
            || MountVolume { access: Access { raw: true, ..Access::default() }, ..mount_of("db", "one") };
        let refusal = house.hall.mount(&house.context(), raw()).await.unwrap_err();
        assert!(matches!(refusal.kind, Kind::Unavailable | Kind::Timeout), "{refusal}");
        assert!(house.see("db").await.mounts.iter().all(|mount| mount.state != MountState::Mounted));
        house.show_size(&made, None);
        house.hall.mount(&house.context(), raw()).await.unwrap();
        assert_eq!(house.see("db").await.mounts[0].state, MountState::Mounted);
    });
}
