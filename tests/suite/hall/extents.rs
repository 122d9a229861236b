//! Where a snapshot holds data, and where two of one volume differ.

use kato_orchestrator::{
    Error, Kind,
    model::{Bytes, SnapshotName, SnapshotRef},
    ops::{CreateSnapshot, ListExtents},
    testing::{Fault, Verb},
};

use super::{Teller, hall, name};

fn by_name(snapshot: &str) -> SnapshotRef {
    SnapshotRef::Name(SnapshotName::parse(snapshot).unwrap())
}

impl Teller {
    /// Has a volume that holds these bytes, and cuts it.
    async fn holds(&self, volume: &str, bytes: &[u8], snapshot: &str) {
        self.make(volume).await;
        self.take(volume, "one").await.unwrap();
        self.give(volume, "one").await;
        let handle = self.see(volume).await.volume.handle.unwrap();
        let write = |bytes: &[u8]| {
            *self.backend.lock().unwrap().bytes(handle.as_str()).unwrap() = bytes.to_vec();
        };
        write(bytes);
        self.cut(snapshot, volume).await.unwrap();
        // The next user finds a filesystem again.
        write(b"FS:");
    }

    /// All pages, as where each extent begins and how long it is.
    async fn extents(
        &self,
        base: Option<&str>,
        snapshot: SnapshotRef,
        from: u64,
    ) -> Result<Vec<(u64, u64)>, Error> {
        let mut wish = ListExtents { snapshot, base: base.map(by_name), from: Bytes(from) };
        let mut all = Vec::new();
        loop {
            let view = self.hall.extents(&wish).await?;
            assert_eq!(view.size, Bytes::GIB);
            all.extend(view.page.extents.iter().map(|extent| (extent.offset.0, extent.length.0)));
            match view.page.next {
                Some(next) => wish.from = next,
                None => return Ok(all),
            }
        }
    }
}

#[test]
fn a_snapshot_is_told_by_pages_by_its_name_or_what_its_backend_calls_it() {
    hall(|house| async move {
        house.holds("db", &[1, 1, 0, 0, 2, 0, 3, 0, 0, 4, 4], "one").await;
        let all = [(0, 2), (4, 1), (6, 1), (9, 2)];
        assert_eq!(house.extents(None, by_name("one"), 0).await.unwrap(), all);
        assert_eq!(house.extents(None, by_name("one"), 10).await.unwrap(), [(10, 1)]);
        assert_eq!(house.extents(None, by_name("one"), Bytes::GIB.0).await.unwrap(), []);
        let known = house.hall.inspect_snapshot(&SnapshotName::parse("one").unwrap()).await.unwrap();
        let by_handle = SnapshotRef::Handle(known.backend, known.handle.unwrap());
        assert_eq!(house.extents(None, by_handle, 0).await.unwrap(), all);
        house.holds("db", &[1, 1, 0, 0, 2, 5, 3], "two").await;
        assert_eq!(house.extents(Some("one"), by_name("two"), 0).await.unwrap(), [(5, 1), (9, 2)]);
        assert_eq!(house.extents(Some("two"), by_name("one"), 6).await.unwrap(), [(9, 2)]);
    });
}

#[test]
fn what_cannot_be_told_is_refused_by_its_reason() {
    hall(|house| async move {
        house.holds("db", &[1], "one").await;
        house.holds("other", &[1], "stranger").await;
        for (base, snapshot, from, kind) in [
            (None, "never", 0, Kind::NotFound),
            (Some("never"), "one", 0, Kind::NotFound),
            (Some("stranger"), "one", 0, Kind::InvalidArgument),
            (None, "one", Bytes::GIB.0 + 1, Kind::OutOfRange),
        ] {
            let refusal = house.extents(base, by_name(snapshot), from).await.unwrap_err();
            assert!(refusal.kind == kind && refusal.is_final(), "{refusal}");
        }
        // One that is being cut has no bytes that are fixed.
        house.backend.lock().unwrap().fault(Verb::Cut, Fault::Pending(100));
        let wish = CreateSnapshot {
            name: SnapshotName::parse("late").unwrap(),
            volume: name("db").into(),
            parameters: Default::default(),
            labels: Default::default(),
            until_ready: true,
        };
        let late = house.hall.create_snapshot(&house.context(), wish).await.unwrap_err();
        assert!(!late.is_final(), "{late}");
        let refusal = house.extents(None, by_name("late"), 0).await.unwrap_err();
        assert_eq!(refusal.kind, Kind::Precondition, "{refusal}");
    });
}
