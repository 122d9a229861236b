//! Three hosts, each a machine with a network of its own and a cable to the middle, where one etcd of three members and
//! one Ceph are: what is written on one is there on another, hosts are cut off and come back, and the records are away,
//! full of gaps, or set back. `ground` is the region, `failover` the hosts that are lost, `records` the etcd that is.

mod failover;
mod ground;
mod records;
