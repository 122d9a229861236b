//! Rebuilds records that were lost, from four sources: the marks on what the backends list say *that* a thing is
//! ours and what it is called; a dump says what a mark has no room for (labels, sources, parameters); what the
//! backends say now (handle, size, place) overrules both; and the survey of this node says what stands mounted.
//!
//! **A running container keeps its mount.** A volume that stands mounted here gets its mount, and a holder, in
//! the same batch as its record: there is no moment at which it could be deleted. Who holds it is *unknown*, as is
//! whether those whom a dump names still do: all of them are doubtful, and reaped as doubtful holders are, when
//! nobody else has had the path for long enough. The mount is recorded as wished, not as there: the driver finds it
//! standing, and if it went meanwhile makes it again, so that no path is ever told at which nothing is mounted.
//!
//! **Nothing is invented.** What a dump knows and no backend has is reported, for it may have been deleted since.
//! Tombstones are not taken from a dump: since it was written their tokens may have come to mean something alive. A
//! mark of another cluster is never touched.
//!
//! The records of one host are the only ones that know its volumes, so its own survey is the whole of it; it
//! comes first, and without it nothing is rebuilt. Everything is written lazily and flushed at the end: repeating
//! a recovery finds the same.

mod dump;
mod known;
mod rebuild;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) use self::rebuild::Sources;
use self::{
    dump::Remembered,
    known::{Known, Standing},
};
use crate::{
    Catalog, Finding, Mark, SnapshotMark,
    doctor::{all_of, finding, shots_of},
    drivers::Subject,
    error::{Error, Kind},
    family::Family,
    house::House,
    model::{
        BackendName, ClusterId, Dependant, FsState, Handle, HolderId, Publication, PublicationState, Purpose,
        Snapshot, SnapshotName, SnapshotState, Source, Target, Timestamp, Volume, VolumeId, VolumeName,
        VolumeState,
    },
    ops::{RecoverRecords, mount::stand_on},
    ports::{
        Backend,
        backend::{Made, Shot},
        store::Durability,
    },
    records::keys,
};

/// Told how far it is, for people.
pub(crate) type Tell<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Makes records for what is ours and no record knows.
pub(crate) async fn recover(
    house: &Arc<House>,
    wish: &RecoverRecords,
    tell: Tell<'_>,
) -> Result<Vec<Finding>, Error> {
    if let Some(news) = house.believe(wish.dry_run).await? {
        tell(news);
    }
    tell("looking at what is mounted here".to_owned());
    let survey = house.ports.host.survey().await?;
    tell("reading the records that there are".to_owned());
    let mut recovery = Recovery {
        house,
        wish,
        catalog: house.catalog(),
        known: Known::read(house).await?,
        remembered: Remembered::default(),
        standing: Standing::of(survey),
        listed: BTreeSet::new(),
        foreign: BTreeMap::new(),
        findings: Vec::new(),
    };
    recovery.remember(tell);
    let heard = recovery.volumes(tell).await?;
    recovery.snapshots(&heard, tell).await?;
    recovery.keep_mounts().await?;
    recovery.report_the_rest(&heard);
    if !wish.dry_run {
        house.ports.store.flush().await?;
    }
    Ok(recovery.findings)
}

struct Recovery<'a> {
    house: &'a Arc<House>,
    wish: &'a RecoverRecords,
    catalog: Arc<Catalog>,
    known: Known,
    remembered: Remembered,
    standing: Standing,
    /// What the backends have of ours, by our ids.
    listed: BTreeSet<u128>,
    foreign: BTreeMap<(BackendName, ClusterId), u64>,
    findings: Vec<Finding>,
}

impl Recovery<'_> {
    /// Reads the dumps, if there are any.
    fn remember(&mut self, tell: Tell<'_>) {
        if self.wish.dumps.is_empty() {
            tell("there is no dump: what the marks have no room for is lost".to_owned());
        }
        for dump in &self.wish.dumps {
            let before = self.remembered.volumes.len();
            match self.remembered.take(dump, self.house) {
                Ok(()) => {
                    let more = self.remembered.volumes.len() - before;
                    tell(format!(
                        "the dump {} knows {} that no newer one knows",
                        dump.name,
                        many(more, "volume")
                    ));
                }
                Err(error) => {
                    let message = format!("it was not used: {}", error.message);
                    self.findings.push(finding("dump", format!("dump {}", dump.name), message, false));
                }
            }
        }
    }

    /// The volumes of all backends. Answers which backends could be asked.
    async fn volumes(&mut self, tell: Tell<'_>) -> Result<BTreeSet<BackendName>, Error> {
        let catalog = Arc::clone(&self.catalog);
        let mut heard = BTreeSet::new();
        for (name, why) in &catalog.broken {
            self.unreachable(name, why);
        }
        for (name, backend) in &catalog.backends {
            let listed = match self.house.check(name, backend).await {
                Ok(_) => all_of(backend).await,
                Err(error) => Err(error),
            };
            match listed {
                Ok(listed) => {
                    tell(format!("backend {name} lists {}", many(listed.len(), "volume")));
                    heard.insert(name.clone());
                    for (count, made) in listed.iter().enumerate() {
                        if count > 0 && count % 1_000 == 0 {
                            tell(format!("backend {name}: {count} of {}", listed.len()));
                        }
                        self.volume(name, backend, made).await?;
                    }
                }
                Err(error) => self.unreachable(name, &error.message),
            }
        }
        Ok(heard)
    }

    fn unreachable(&mut self, name: &BackendName, why: &str) {
        let message = format!("it cannot be used, so nothing was taken back from it: {why}");
        self.findings.push(finding("unreachable", format!("backend {name}"), message, false));
    }

    async fn volume(
        &mut self,
        backend: &BackendName,
        behind: &Arc<dyn Backend>,
        made: &Made,
    ) -> Result<(), Error> {
        let Ok(mark) = Mark::decode(&made.mark) else {
            self.unmarked(backend, &made.handle);
            return Ok(());
        };
        if mark.cluster != self.house.cluster {
            *self.foreign.entry((backend.clone(), mark.cluster)).or_default() += 1;
            return Ok(());
        }
        self.listed.insert(mark.id.0);
        if self.known.volumes.contains_key(&mark.id) {
            return Ok(());
        }
        if self.known.handles.contains(&(backend.clone(), made.handle.clone())) {
            // It was asked for again under its name after its record was lost, and found by its token.
            return Ok(());
        }
        let remembered = self.remembered.volumes.get(&mark.id);
        let said = || {
            let names = self.wish.names.iter().filter_map(|name| VolumeName::parse(name).ok());
            names.into_iter().find(|name| mark.fits(&made.mark, name))
        };
        let name = mark.name.clone().or_else(|| remembered.map(|volume| volume.name.clone())).or_else(said);
        let Some(name) = name else {
            self.nameless(backend, &made.handle);
            return Ok(());
        };
        if self.known.volume_names.contains(&name) {
            self.name_is_taken(format!("volume {name}"), backend, &made.handle);
            return Ok(());
        }
        let sources = Sources { house: self.house, catalog: &self.catalog, backend };
        let mut volume = sources.volume(&mark, made, name, remembered);
        if self.standing.is_mounted(&volume) {
            volume.filesystem.state = FsState::Formatted;
        }
        let keeps_source = behind.describe().abilities.clone_needs_source;
        self.adopt(volume, remembered.is_some(), keeps_source).await
    }

    /// Writes a volume's record, with its mount if it stands here.
    async fn adopt(&mut self, volume: Volume, from_dump: bool, keeps_source: bool) -> Result<(), Error> {
        let subject = format!("volume {}", volume.name);
        let stands = self.standing.has(&volume);
        let message = format!(
            "its record was made again from backend {}{}{}",
            volume.backend,
            if from_dump { " and the dump" } else { "" },
            if stands { "; it is mounted here, and held by somebody unknown" } else { "" },
        );
        let source = match &volume.source {
            Some(Source::Volume(id)) if keeps_source => Some(*id),
            _ => None,
        };
        let families: Vec<VolumeId> = [Some(volume.id), source].into_iter().flatten().collect();
        let written = match self.wish.dry_run {
            true => Ok(()),
            false => {
                let (house, now, remembered) = (self.house, self.house.now(), &self.remembered);
                house
                    .journal
                    .edit(&families, &[], Durability::Lazy, |draft, change| {
                        let name = keys::volume_name(&volume.name);
                        change.guard_absent(name.clone());
                        change.put(name, &volume.id);
                        let family = draft.family(volume.id);
                        family.volume = Some(volume.clone());
                        if stands {
                            hold_for_somebody(house, family, remembered, now)?;
                        }
                        if let Some(source) = source.and_then(|id| draft.family(id).volume.as_mut()) {
                            source.dependants.insert(Dependant::Clone(volume.id));
                        }
                        Ok(())
                    })
                    .await
                    .map(drop)
            }
        };
        if self.is_taken_meanwhile(&subject, &volume.backend, volume.handle.as_ref(), written)? {
            return Ok(());
        }
        if stands && !self.wish.dry_run {
            self.house.ring(Subject::Volume(volume.id), false);
        }
        self.recovered(subject, message);
        self.standing.kept.insert(volume.id);
        self.known.know(&volume);
        Ok(())
    }

    async fn snapshots(&mut self, heard: &BTreeSet<BackendName>, tell: Tell<'_>) -> Result<(), Error> {
        let catalog = Arc::clone(&self.catalog);
        for (name, backend) in catalog.backends.iter().filter(|(name, _)| heard.contains(*name)) {
            let Some(ability) = backend.snapshots() else { continue };
            match shots_of(ability).await {
                Ok(shots) => {
                    tell(format!("backend {name} lists {}", many(shots.len(), "snapshot")));
                    let needs_volume = backend.describe().abilities.snapshot_needs_volume;
                    for shot in &shots {
                        self.snapshot(name, shot, needs_volume).await?;
                    }
                }
                Err(error) => self.unreachable(name, &error.message),
            }
        }
        Ok(())
    }

    async fn snapshot(
        &mut self,
        backend: &BackendName,
        shot: &Shot,
        needs_volume: bool,
    ) -> Result<(), Error> {
        let Ok(mark) = SnapshotMark::decode(&shot.mark) else {
            self.unmarked(backend, &shot.handle);
            return Ok(());
        };
        if mark.cluster != self.house.cluster {
            *self.foreign.entry((backend.clone(), mark.cluster)).or_default() += 1;
            return Ok(());
        }
        self.listed.insert(mark.id.0);
        let is_known = self.known.snapshots.contains(&mark.id)
            || self.known.shots.contains(&(backend.clone(), shot.handle.clone()))
            || self.house.is_of_unfinished_group(&mark).await?;
        if is_known {
            return Ok(());
        }
        let remembered = self.remembered.snapshots.get(&mark.id);
        let said = || {
            let names = self.wish.names.iter().filter_map(|name| SnapshotName::parse(name).ok());
            names.into_iter().find(|name| mark.fits(&shot.mark, name))
        };
        let name =
            mark.name.clone().or_else(|| remembered.map(|snapshot| snapshot.name.clone())).or_else(said);
        let Some(name) = name else {
            self.nameless(backend, &shot.handle);
            return Ok(());
        };
        if self.known.snapshot_names.contains(&name) {
            self.name_is_taken(format!("snapshot {name}"), backend, &shot.handle);
            return Ok(());
        }
        let of = self.known.volumes.get(&mark.volume).cloned();
        let sources = Sources { house: self.house, catalog: &self.catalog, backend };
        let snapshot = sources.snapshot(&mark, shot, name, remembered, of)?;
        self.adopt_snapshot(snapshot, remembered.is_some(), needs_volume).await
    }

    async fn adopt_snapshot(
        &mut self,
        snapshot: Snapshot,
        from_dump: bool,
        needs_volume: bool,
    ) -> Result<(), Error> {
        let subject = format!("snapshot {}", snapshot.name);
        let message = format!(
            "its record was made again from backend {}{}",
            snapshot.backend,
            if from_dump { " and the dump" } else { "" }
        );
        let written = match self.wish.dry_run {
            true => Ok(()),
            false => self
                .house
                .journal
                .edit(&[snapshot.volume], &[snapshot.id], Durability::Lazy, |draft, change| {
                    let name = keys::snapshot_name(&snapshot.name);
                    change.guard_absent(name.clone());
                    change.put(name, &snapshot.id);
                    *draft.snapshot(snapshot.id) = Some(snapshot.clone());
                    if let Some(volume) = draft.family(snapshot.volume).volume.as_mut()
                        && needs_volume
                    {
                        volume.dependants.insert(Dependant::Snapshot(snapshot.id));
                    }
                    Ok(())
                })
                .await
                .map(drop),
        };
        if self.is_taken_meanwhile(&subject, &snapshot.backend, snapshot.handle.as_ref(), written)? {
            return Ok(());
        }
        if snapshot.state != SnapshotState::Ready && !self.wish.dry_run {
            self.house.ring(Subject::Snapshot(snapshot.id), false);
        }
        self.recovered(subject, message);
        self.known.snapshots.insert(snapshot.id);
        self.known.snapshot_names.insert(snapshot.name);
        Ok(())
    }

    /// What stands mounted here of volumes whose records were not lost, but say nothing of it.
    async fn keep_mounts(&mut self) -> Result<(), Error> {
        for id in self.standing.not_kept(&self.known.volumes) {
            let family = self.house.journal.family(id).await?.value;
            let Some(volume) = family.volume.filter(|_| !family.mounts.contains_key(self.house.node()))
            else {
                continue;
            };
            if !self.wish.dry_run {
                let (house, now, remembered) = (self.house, self.house.now(), &self.remembered);
                house
                    .journal
                    .edit_family(id, Durability::Lazy, |family, _| {
                        if family.volume.is_some() && !family.mounts.contains_key(house.node()) {
                            hold_for_somebody(house, family, remembered, now)?;
                        }
                        Ok(())
                    })
                    .await?;
                house.ring(Subject::Volume(id), false);
            }
            self.recovered(
                format!("volume {}", volume.name),
                "it is mounted here, which its records now say; it is held by somebody unknown".to_owned(),
            );
        }
        Ok(())
    }

    /// What a dump knows and nobody has, and what belongs to others.
    fn report_the_rest(&mut self, heard: &BTreeSet<BackendName>) {
        let mut gone = Vec::new();
        for volume in self.remembered.volumes.values() {
            let is_new = volume.handle.is_none() || volume.state == VolumeState::Deleting;
            if heard.contains(&volume.backend)
                && !is_new
                && self.remembered.expected.contains(&volume.id.0)
                && !self.listed.contains(&volume.id.0)
                && !self.known.volume_names.contains(&volume.name)
            {
                gone.push((format!("volume {}", volume.name), volume.backend.clone()));
            }
        }
        for snapshot in self.remembered.snapshots.values() {
            let is_new = snapshot.handle.is_none() || snapshot.state == SnapshotState::Deleting;
            if heard.contains(&snapshot.backend)
                && !is_new
                && self.remembered.expected.contains(&snapshot.id.0)
                && !self.listed.contains(&snapshot.id.0)
                && !self.known.snapshot_names.contains(&snapshot.name)
            {
                gone.push((format!("snapshot {}", snapshot.name), snapshot.backend.clone()));
            }
        }
        for (subject, backend) in gone {
            let message = format!(
                "the dump knows it, but backend {backend} does not have it: it was deleted since, or it is lost. No \
                 record was made"
            );
            self.findings.push(finding("missing", subject, message, false));
        }
        for ((backend, cluster), count) in std::mem::take(&mut self.foreign) {
            let message = format!(
                "{count} things on it belong to cluster {cluster} and were left alone. If that is this host as it was \
                 before its data folder was lost: stop the daemon, write {cluster} into the file `id` of the data \
                 folder, remove the folder `store` in it and the file that ends in `.id` beside it, and start again"
            );
            self.findings.push(finding("foreign", format!("backend {backend}"), message, false));
        }
    }

    fn unmarked(&mut self, backend: &BackendName, handle: &Handle) {
        self.findings.push(finding(
            "unmarked",
            format!("{backend}/{handle}"),
            "it carries no mark of ours, or a damaged one: nobody can say what it was, so it was left alone"
                .into(),
            false,
        ));
    }

    fn nameless(&mut self, backend: &BackendName, handle: &Handle) {
        self.findings.push(finding(
            "nameless",
            format!("{backend}/{handle}"),
            "its name was too long for its mark: say it, `kato recover --scan --name NAME`, and it is checked and \
             taken back"
                .into(),
            false,
        ));
    }

    fn name_is_taken(&mut self, subject: String, backend: &BackendName, handle: &Handle) {
        let message = format!(
            "{backend}/{handle} is one of this name too, but another has the name now: remove that one, then recover \
             again"
        );
        self.findings.push(finding("orphan", subject, message, false));
    }

    /// Whether somebody took the name while it was to be written.
    fn is_taken_meanwhile(
        &mut self,
        subject: &str,
        backend: &BackendName,
        handle: Option<&Handle>,
        written: Result<(), Error>,
    ) -> Result<bool, Error> {
        match (written, handle) {
            (Ok(()), _) => Ok(false),
            (Err(error), Some(handle)) if error.kind == Kind::Busy => {
                self.name_is_taken(subject.to_owned(), backend, handle);
                Ok(true)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn recovered(&mut self, subject: String, message: String) {
        let mut found = finding("recovered", subject, message, true);
        found.fixed = !self.wish.dry_run;
        self.findings.push(found);
    }
}

/// Records what stands here, and that somebody may hold it.
fn hold_for_somebody(
    house: &House,
    family: &mut Family,
    remembered: &Remembered,
    now: Timestamp,
) -> Result<(), Error> {
    let node = house.node();
    let id = family.id;
    let was = remembered.mounts.get(&id).filter(|mount| mount.boot_id == house.boot_id);
    stand_on(family, node, was.is_some_and(|mount| mount.read_only), &house.boot_id, now);
    if let (Some(attachment), Some(before)) =
        (family.attachments.get_mut(node), remembered.attachments.get(&id))
    {
        attachment.client = before.client.clone();
    }
    let before = remembered.holders.values().filter(|one| one.volume == id && was.is_some());
    let unknown = Publication {
        volume: id,
        node: node.clone(),
        holder: HolderId::parse(Publication::UNKNOWN)?,
        count: 1,
        target: Target::Shared,
        read_only: false,
        purpose: Purpose::Use,
        alone: false,
        group: None,
        state: PublicationState::Published,
        caller: None,
        since: now,
        doubtful_since: Some(now),
        intent: None,
    };
    for publication in before.cloned().chain([unknown]) {
        let doubtful = Publication {
            state: PublicationState::Published,
            // Of a process that could not be seen nothing is known now.
            caller: publication.caller.filter(|caller| caller.pid != 0),
            doubtful_since: Some(now),
            intent: None,
            ..publication
        };
        family.publications.insert((node.clone(), doubtful.holder.clone()), doubtful);
    }
    Ok(())
}

fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
