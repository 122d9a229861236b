//! The plain file work behind the contract's `files` interface: everything beneath a granted directory,
//! everything flushed, nothing that follows a symlink. It knows no guest and blocks freely; `imports/files.rs`
//! decides what may be asked and keeps it off the guests' threads.
//!
//! `beneath.rs` is how any path is opened; `content.rs` small files and names; `tree.rs` how a whole tree is
//! copied, `copies.rs` the copies that go on between calls; `remove.rs` takes trees away in slices;
//! `extents.rs` tells where data is and where two files differ, in the words of `fiemap.rs`; `order.rs` is about how often a
//! change has to be flushed, `space.rs` about sizes, `quota.rs` about limits, and `turns.rs` keeps them out of each other's way.

pub(crate) mod beneath;
pub(crate) mod content;
pub(crate) mod copies;
pub(crate) mod extents;
mod fiemap;
mod order;
pub(crate) mod quota;
pub(crate) mod remove;
pub(crate) mod space;
mod tree;
pub(crate) mod turns;
