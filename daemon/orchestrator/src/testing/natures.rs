//! What the backend in memory can be besides the usual one: shared by nodes, growing only what nobody has, with snapshots
//! that take their time.

use super::{BackendWorld, FakeBackend};
use crate::ports::backend::{Cutting, Growing};

impl FakeBackend {
    /// The same, and it can be asked about much pending work at once.
    #[must_use]
    pub fn polled(mut self) -> Self {
        self.polls = true;
        self.description.abilities.polling = true;
        self
    }

    /// The same, with volumes that lie on the daemon's own host.
    #[must_use]
    pub fn bound(mut self) -> Self {
        self.description.abilities.node_bound = true;
        self
    }

    /// The same, and it can cut nodes off.
    #[must_use]
    pub fn fencing(mut self) -> Self {
        self.fences = true;
        self.description.abilities.fence = true;
        self
    }

    /// The same, and it lets nobody have a volume while somebody else uses it, let in or not, and not cut off.
    #[must_use]
    pub fn looking(self) -> Self {
        self.world().reach.looks = true;
        self
    }

    /// The same, and it does not tell where snapshots hold data.
    #[must_use]
    pub fn without_extents(mut self) -> Self {
        self.description.abilities.extents = false;
        self
    }

    /// The same, cutting in this way.
    #[must_use]
    pub fn cutting(mut self, cutting: Cutting) -> Self {
        self.cutting = cutting;
        self
    }

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
