//! What the house remembers of a configured backend: what it *is*, so that another one under the same name
//! (an unmounted data folder, a different account) is never believed when it says that a volume is absent.

use super::{BackendName, Timestamp};

/// What a backend is, in its own stable words: account and region, fsid and pool, a marker file's UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub String);

/// What is remembered of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRecord {
    /// What the operator calls it.
    pub name: BackendName,
    /// What it was when it was first used, or last rebound.
    pub fingerprint: Fingerprint,
    /// The plugin's name, for people.
    pub plugin: String,
    /// When it was first used or last rebound.
    pub bound: Timestamp,
}
