//! What needs Amazon: `model`, which asks the kit's own EC2 and EBS whether they are what they pretend to be, by Amazon's
//! own client (`boto`).

mod boto;
mod model;
