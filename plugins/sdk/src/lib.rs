//! Write a storage backend for Káto.
//!
//! A backend is a WebAssembly component that exports `identity` and `volumes` of `kato:storage`, and beyond
//! those one interface for each thing that it can do. This crate holds the bindings of that contract and the
//! little that every backend needs; a backend depends on nothing else. The contract itself, `wit/v1`, says
//! what each function has to promise: read it first.
//!
//! ```
//! use kato_plugin_sdk::{
//!     identity::{self, Description, Status},
//!     types::{Configuration, Error, Volume, VolumePage, Which},
//!     volumes::{self, Created, Deleted, Wish},
//! };
//!
//! struct Backend;
//!
//! impl identity::Guest for Backend {
//!     fn describe(_: Configuration) -> Result<Description, Error> {
//!         Err(Error::unsupported("say here what this backend is"))
//!     }
//!
//!     fn check(_: Configuration) -> Result<Status, Error> {
//!         Ok(Status { fingerprint: "account 7, region eu-1".into(), note: String::new() })
//!     }
//! }
//!
//! impl volumes::Guest for Backend {
//!     fn create(_: Configuration, wish: Wish, _: Option<Vec<u8>>) -> Result<Created, Error> {
//!         Err(Error::unavailable(format!("find or make the volume of {} here", wish.token)))
//!     }
//!
//!     fn delete(_: Configuration, _: Which, _: Option<Vec<u8>>) -> Result<Deleted, Error> {
//!         Ok(Deleted::Done)
//!     }
//!
//!     fn inspect(_: Configuration, which: Vec<Which>) -> Result<Vec<Option<Volume>>, Error> {
//!         Ok(which.iter().map(|_| None).collect())
//!     }
//!
//!     fn list(_: Configuration, _: Option<String>) -> Result<VolumePage, Error> {
//!         Ok(VolumePage { items: Vec::new(), next: None })
//!     }
//!
//!     fn remark(_: Configuration, _: Which, _: String) -> Result<(), Error> {
//!         Err(Error::unsupported("marks cannot be changed here"))
//!     }
//! }
//!
//! kato_plugin_sdk::export!(Backend);
//! # fn main() {}
//! ```
//!
//! With abilities beyond these it reads `export!(Backend with grow, snapshots)`. `export!` also puts the crate's `plugin.toml` into the component. An ability that is implemented but not
//! named there is not offered: `offers` in `plugin.toml` is compared with what the component exports when it
//! is loaded. Build with `cargo build --release --target wasm32-wasip2`; the result is the component. Logic is
//! tested with plain `cargo test`, with [`testing`] in the place of the host.

#![warn(missing_docs)]

pub mod capacity;
pub mod commands;
pub mod configuration;
pub mod digests;
pub mod error;
pub mod files;
#[cfg(feature = "http")]
pub mod http;
pub mod log;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transfers;
pub mod worlds;

pub use worlds::{
    attachments::exports::kato::storage::attachments,
    base::{
        exports::kato::storage::{identity, volumes},
        kato::storage::types,
    },
    capacity::exports::kato::storage::capacity as room,
    clone::exports::kato::storage::clone,
    extents::exports::kato::storage::extents,
    fencing::exports::kato::storage::fencing,
    groups::exports::kato::storage::groups,
    grow::exports::kato::storage::grow,
    health::exports::kato::storage::health,
    modify::exports::kato::storage::modify,
    polling::exports::kato::storage::polling,
    snapshot_data::exports::kato::storage::snapshot_data,
    snapshot_writing::exports::kato::storage::snapshot_writing,
    snapshots::exports::kato::storage::snapshots,
};

/// Makes a component of a type: exports `identity` and `volumes`, and the named abilities, and embeds the
/// crate's `plugin.toml` as the custom section `kato:manifest`.
///
/// The abilities are `attachments`, `capacity`, `clone`, `extents`, `fencing`, `groups`, `grow`,
/// `health`, `modify`, `polling`, `snapshot_data`, `snapshot_writing` and `snapshots`. One that is named but not implemented does not compile.
#[macro_export]
macro_rules! export {
    ($type:ident $(with $($ability:ident),+ $(,)?)?) => {
        const _: () = { $crate::worlds::base::export!($type with_types_in $crate::worlds::base); };
        $($(const _: () = {
            $crate::worlds::$ability::export!($type with_types_in $crate::worlds::$ability);
        };)+)?
        $crate::manifest!(concat!(env!("CARGO_MANIFEST_DIR"), "/plugin.toml"));
    };
}

/// Embeds a file as the custom section `kato:manifest`. Part of [`export!`].
#[doc(hidden)]
#[macro_export]
macro_rules! manifest {
    ($path:expr) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            #[used]
            #[unsafe(link_section = "kato:manifest")]
            static MANIFEST: [u8; include_bytes!($path).len()] = *include_bytes!($path);
        };
    };
}
