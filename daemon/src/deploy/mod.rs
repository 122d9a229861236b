//! What an orchestrator has to be told so that it runs this house: objects for Kubernetes, jobs for Nomad, JSON
//! for Mesos. Pure text work: it reaches no cluster and no daemon.
//!
//! **One source.** Everything is derived from the operator's own configuration (`site.rs`), and from what the
//! components that it names can do (`abilities.rs` asks them, here and now); nothing is written that no configured
//! backend can do. The pods read the same configuration, made fit for travelling by `carried.rs`. What is printed
//! for which reader is `kubernetes/`, `nomad.rs` and `mesos.rs`; all of them answer the same for the same input.

mod abilities;
pub(crate) mod base64;
mod carried;
pub(crate) mod kubernetes;
pub(crate) mod mesos;
pub(crate) mod nomad;
mod site;

pub(crate) use self::site::Site;

/// A file for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Where the daemon finds the key of the seal inside of its container.
pub(crate) const SEAL: &str = "/etc/kato-seal/key";

/// Where it finds the files that its configuration refers to.
pub(crate) const FILES: &str = "/etc/kato-files";
