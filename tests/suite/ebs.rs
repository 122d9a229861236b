//! What needs Amazon, of which the kit has a model: `model` asks that whether it is what it pretends to be, by Amazon's own
//! client (`boto`); `backend`, the suite that every backend is asked; `docker`, from a container to an empty account;
//! `copies`, bytes to EBS and back; `faults`, of Amazon's; `kills`, of the daemon; `calls`, how many requests it all takes.

#![expect(
    clippy::disallowed_methods,
    reason = "starts Amazon's client and moto, and measures how long an answer takes"
)]

mod backend;
mod boto;
mod calls;
mod copies;
mod docker;
mod faults;
mod ground;
mod kills;
mod model;
