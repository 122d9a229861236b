//! What the backend in memory can be besides the usual one: shared by nodes, growing only what nobody has, with snapshots
//! that take their time.

use super::{BackendWorld, FakeBackend};
use crate::ports::backend::Growing;

impl FakeBackend {
    /// The same, with volumes that several nodes may have at once.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.description.abilities.shared = true;
        self.world().reach.shared = true;
        self
    }

    /// The same, growing volumes only while no node is attached.
    #[must_use]
    pub fn growing_offline(mut self) -> Self {
        self.description.abilities.grow = Some(Growing::Offline);
        self
    }

    /// The same, with snapshots of which nothing can be made before [`BackendWorld::ripen`].
    #[must_use]
    pub fn ripening(mut self) -> Self {
        self.ripens = true;
        self
    }
}

impl BackendWorld {
    /// Lets all snapshots be ready.
    pub fn ripen(&mut self) {
        for (shot, _) in self.snapshots.values_mut() {
            shot.ready = true;
        }
    }
}
