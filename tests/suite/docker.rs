//! The Docker door: what dockerd is like (`peer`), what the door answers to bytes (`door`), and the two
//! together, from `docker volume create` to a crash of either (`volumes`, `restarts`, `managed`).

mod peer;
mod wire;
