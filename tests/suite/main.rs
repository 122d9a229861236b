//! The behaviour suites, one binary. `cargo xtask test NAME` runs the modules of a part.
//! Each module is compiled for tests alone, which is where unwrap and panic are allowed.

#[cfg(test)]
mod backend;
#[cfg(test)]
mod ceph;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod csi;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod docker;
#[cfg(test)]
mod ebs;
#[cfg(test)]
mod hall;
#[cfg(test)]
mod host;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod packet;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tidy;
