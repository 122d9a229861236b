//! What needs Amazon: `model`, which asks the kit's own EC2 and EBS whether they are what they pretend to be, by Amazon's
//! own client (`boto`).

#![expect(
    clippy::disallowed_methods,
    reason = "starts Amazon's client and moto, and measures how long an answer takes"
)]

mod boto;
mod model;
