//! Write a storage backend for Káto.
//!
//! A backend is a WebAssembly component that exports `identity` and `volumes` of `kato:storage`, and beyond
//! those one interface for each thing that it can do. This crate holds the bindings of that contract and the
//! little that every backend needs; a backend depends on nothing else. The contract itself, `wit/v1`, says
//! what each function has to promise: read it first.
//!
//! ```ignore
//! use kato_plugin_sdk::{identity, types::*, volumes};
//!
//! struct Backend;
//!
//! impl identity::Guest for Backend { /* describe, check */ }
//! impl volumes::Guest for Backend { /* create, delete, inspect, list, remark */ }
//! impl kato_plugin_sdk::grow::Guest for Backend { /* grow */ }
//!
//! kato_plugin_sdk::export!(Backend with grow);
//! ```
//!
//! `export!` also puts the crate's `plugin.toml` into the component. An ability that is implemented but not
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
pub mod worlds;

pub use worlds::{
    attachments::exports::kato::storage::attachments,
    base::{
        exports::kato::storage::{identity, volumes},
        kato::storage::types,
    },
    block_data::exports::kato::storage::block_data,
    capacity::exports::kato::storage::capacity as room,
    clone::exports::kato::storage::clone,
    fencing::exports::kato::storage::fencing,
    groups::exports::kato::storage::groups,
    grow::exports::kato::storage::grow,
    health::exports::kato::storage::health,
    modify::exports::kato::storage::modify,
    snapshots::exports::kato::storage::snapshots,
};

/// Makes a component of a type: exports `identity` and `volumes`, and the named abilities, and embeds the
/// crate's `plugin.toml` as the custom section `kato:manifest`.
///
/// The abilities are `attachments`, `block_data`, `capacity`, `clone`, `fencing`, `groups`, `grow`, `health`,
/// `modify` and `snapshots`. One that is named but not implemented does not compile.
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
