//! Keeps two kinds of tests apart. A machine of the kit begins with a copy of all mounts of this machine, and
//! keeps whatever is mounted then busy until it ends. So none begins while a test has something mounted here.
//! Most of these tests run one after the other anyway; this is for those that take minutes and run beside them.

#![expect(clippy::expect_used, reason = "a lock that cannot be had ends the test, in words")]

use std::fs::File;

use rustix::fs::{FlockOperation, flock};

/// The right to what was asked for, until it is dropped.
#[derive(Debug)]
pub struct Apart {
    _lock: File,
}

/// Waits until no machine begins, and keeps others from beginning.
#[must_use]
pub fn mounting() -> Apart {
    take(FlockOperation::LockShared)
}

/// Waits until nothing of any test is mounted here, and keeps it so.
#[must_use]
pub fn beginning() -> Apart {
    take(FlockOperation::LockExclusive)
}

fn take(how: FlockOperation) -> Apart {
    let path = std::env::temp_dir().join("kato-tests.lock");
    let lock = File::options().create(true).append(true).open(path).expect("a lock file");
    flock(&lock, how).expect("a lock");
    Apart { _lock: lock }
}
