//! How full a volume is, for whoever has it at a path. The only read that asks the node: no record knows.

use crate::{
    error::Error,
    house::House,
    model::{Bytes, HolderId, MountState, Target},
    ops::{Measure, MeasureVolume, mount::unknown},
};

impl House {
    pub(crate) async fn measure(&self, wish: &MeasureVolume) -> Result<Measure, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        let id = self.known_volume(&wish.volume).await?.ok_or_else(|| unknown(&wish.volume))?;
        let family = self.journal.family(id).await?.value;
        let holder = HolderId::parse(&wish.path)?;
        let key = (self.node().clone(), holder);
        let nowhere = || about(Error::not_found(format!("it is not at {} on this node", wish.path)));
        let publication = family.publications.get(&key).ok_or_else(nowhere)?;
        let mount = family.mounts.get(self.node()).ok_or_else(nowhere)?;
        if let MountState::Broken(why) = &mount.state {
            return Err(about(Error::precondition(format!("its mount is broken: {why}"))));
        }
        if mount.raw {
            let size = family.volume.as_ref().and_then(|volume| volume.actual);
            return Ok(Measure::Device(size.unwrap_or(Bytes(0))));
        }
        let path = match &publication.target {
            Target::Path(path) => path.clone(),
            Target::Shared => family.view().and_then(|view| view.path_on(self.node())).ok_or_else(nowhere)?,
        };
        self.ports.host.usage(&path).await.map(Measure::Filesystem).map_err(about)
    }
}
