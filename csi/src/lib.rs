//! Front door: the Container Storage Interface. The room is empty: there is no server here yet, nothing
//! listens, and the daemon has no `[csi]` table to switch one on.
//!
//! What will live here has the shape of the other front door: `server` (gRPC on a unix socket), `convert`
//! (between the generated types and the hall's), `error` (kind to status, per call), and one file per service:
//! `identity`, `controller`, `group`, `snapshot_metadata`, `node`. Like `docker-plugin` it will know one
//! object, the [`kato_orchestrator::Orchestrator`], and no adapter. Read `docker-plugin/src/lib.rs` to see what
//! a door is like.

/// What the operator decides for this door: nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {}
