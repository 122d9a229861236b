//! A pod's start and end on the node: stage, publish, unpublish, unstage. Of blank volumes, which get their filesystem
//! then, and of the same volumes again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_csi::protocol::Volume;

use super::{
    Scene,
    caller::{Caller, Kind, Places, SIZE},
};
use crate::{
    Fallible,
    clock::{Run, together},
    raw::figures,
    table::{Row, Table, ratio},
    yardstick::{allocate, lend_image},
};

/// Stage, publish, unpublish, unstage.
const WHAT: &str = "ext4 stage to unstage";

pub(super) fn rows(scene: &Scene<'_>, table: &mut Table) -> Fallible {
    let flushes = flushes(scene)?;
    for (at_once, count) in [(1, 10), (8, 32), (64, 64)] {
        let count = scene.effort.of(count, at_once.min(4));
        let at_once = at_once.min(count);
        let set = Set::make(scene, at_once, count)?;
        let row = |what: &str, ours: &Run, yardstick: &str, other: &Run| Row {
            what: format!("{what}, {at_once} at once"),
            ours: figures(ours),
            yardstick: format!("{yardstick} {}", figures(other)),
            ratio: ratio(ours.median(), other.median()),
            aim: None,
        };
        let (ours, bare) = (set.ours(&scene.daemon.csi())?, set.bare(flushes.blank, true)?);
        table.row(&row(&format!("{WHAT} of a blank one, {} flushes", flushes.blank), &ours, "bare", &bare));
        let (mut ours, mut bare, mut null) = (Run::default(), Run::default(), Run::default());
        for _ in 0..scene.rounds() {
            ours.add(set.ours(&scene.daemon.csi())?);
            bare.add(set.bare(flushes.again, false)?);
            null.add(set.ours(scene.null.socket())?);
        }
        table.row(&row(&format!("{WHAT}, {} flushes", flushes.again), &ours, "bare", &bare));
        table.row(&row(WHAT, &ours, "null", &null));
        set.remove()?;
    }
    Ok(())
}

/// How often the journal is flushed for one loan.
struct Flushes {
    blank: usize,
    again: usize,
}

fn flushes(scene: &Scene<'_>) -> Fallible<Flushes> {
    let set = Set::make(scene, 1, scene.effort.of(3, 1))?;
    let mut caller = Caller::open(&scene.daemon.csi())?;
    let mut count = || {
        scene.daemon.flushes_of(set.volumes.len(), |piece| {
            let (volume, places) = set.volumes.get(piece).ok_or("there is no such volume")?;
            caller.lend(volume, places)
        })
    };
    let flushes = Flushes { blank: count()?, again: count()? };
    set.remove()?;
    Ok(flushes)
}

/// Volumes of the daemon's, and as many bare images.
struct Set<'a> {
    scene: &'a Scene<'a>,
    at_once: usize,
    volumes: Vec<(Volume, Places)>,
    images: Vec<PathBuf>,
    mounts: PathBuf,
}

impl<'a> Set<'a> {
    fn make(scene: &'a Scene<'a>, at_once: usize, count: usize) -> Fallible<Self> {
        let mut caller = Caller::open(&scene.daemon.csi())?;
        let pods = scene.ground.folder("pods")?;
        let images = scene.ground.folder("bare/images")?;
        let volumes = (0..count).map(|piece| {
            let volume = caller.create(&format!("loan-{piece}"), Kind::Ext4)?;
            Ok((volume, Places::prepare(&pods, &piece.to_string())?))
        });
        Ok(Self {
            scene,
            at_once,
            volumes: volumes.collect::<Fallible<_>>()?,
            images: (0..count)
                .map(|piece| allocate(&images, &piece.to_string(), SIZE.into()))
                .collect::<Fallible<_>>()?,
            mounts: scene.ground.folder("bare/stages")?,
        })
    }

    /// Every volume once, through a door.
    fn ours(&self, socket: &Path) -> Fallible<Run> {
        together(
            self.at_once,
            self.volumes.len(),
            |_| Caller::open(socket),
            |caller, piece| {
                let (volume, places) = self.volumes.get(piece).ok_or("there is no such volume")?;
                caller.lend(volume, places)
            },
        )
    }

    /// Every image once, by hand.
    fn bare(&self, flushes: usize, blank: bool) -> Fallible<Run> {
        together(
            self.at_once,
            self.images.len(),
            |_| Ok(()),
            |(), piece| {
                self.scene.append(flushes)?;
                let image = self.images.get(piece).ok_or("there is no such image")?;
                lend_image(image, &self.mounts, &piece.to_string(), blank)
            },
        )
    }

    fn remove(self) -> Fallible {
        let mut caller = Caller::open(&self.scene.daemon.csi())?;
        for (volume, _) in &self.volumes {
            caller.delete(volume)?;
        }
        Ok(self.images.iter().try_for_each(fs::remove_file)?)
    }
}
