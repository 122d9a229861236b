//! The bindings, one small world for each interface of the contract, so that a component exports exactly what
//! it names in [`crate::export!`] and imports exactly what it calls. All of them share one set of types.
//! Nobody names this module: what is for authors stands at the crate's door.
#![doc(hidden)]
#![expect(clippy::error_impl_error, reason = "the contract calls its error so")]

pub mod base {
    wit_bindgen::generate!({
        path: "wit",
        world: "base",
        pub_export_macro: true,
        additional_derives: [PartialEq, Eq],
    });
}

pub mod digests {
    wit_bindgen::generate!({ path: "wit", world: "uses-digests" });
}

macro_rules! worlds {
    ($($name:ident = $world:literal),* $(,)?) => { $(
        pub mod $name {
            wit_bindgen::generate!({
                path: "wit",
                world: $world,
                pub_export_macro: true,
                additional_derives: [PartialEq, Eq],
                with: { "kato:storage/types@1.0.0": crate::types },
            });
        }
    )* };
}

worlds! {
    attachments = "with-attachments",
    capacity = "with-capacity",
    clone = "with-clone",
    commands = "uses-commands",
    extents = "with-extents",
    fencing = "with-fencing",
    files = "uses-files",
    groups = "with-groups",
    grow = "with-grow",
    health = "with-health",
    modify = "with-modify",
    polling = "with-polling",
    snapshot_data = "with-snapshot-data",
    snapshot_writing = "with-snapshot-writing",
    snapshots = "with-snapshots",
    transfers = "uses-transfers",
}
