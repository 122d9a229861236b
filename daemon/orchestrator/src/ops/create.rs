//! Create: check the wish against its class and backend, record it under its name, wait until it is made.
//! Finding the volume there already is an answer too, if it satisfies the wish.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Kind, Outcome},
    family::Family,
    house::{House, Verdict},
    journal::contended,
    model::{
        Bytes, CapacityRange, Class, DataRoot, Dependant, Filesystem, Filling, FsState, Intent,
        SnapshotState, Source, Volume, VolumeId, VolumeState, Wanted,
    },
    ops::{Context, CreateVolume, SourceName, VolumeView},
    ports::{backend::Description, store::Durability},
    records::keys,
};

/// The steps whose failures are a create's.
const STEPS: [&str; 3] = ["create", "attach", "fill"];

impl House {
    pub(crate) async fn create(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &CreateVolume,
    ) -> Result<Outcome<VolumeView>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.name));
        // Each round either answers, or waits until something that is in the way is over.
        for _ in 0..64 {
            if let Some(id) = self.journal.volume_id(&wish.name).await? {
                let family = self.journal.family(id).await?.value;
                match family.volume.as_ref().map(|volume| volume.state) {
                    None => continue,
                    Some(VolumeState::Deleting) => self.until_gone(ctx, id).await.map_err(about)?,
                    Some(VolumeState::Creating) => {
                        self.compare(wish, &family).await.map_err(about)?;
                        let watcher = self.drivers.watch(Subject::Volume(id));
                        let view = self.settle(ctx, watcher, &STEPS, made).await.map_err(about)?;
                        return Ok(Outcome::Unchanged(view));
                    }
                    Some(VolumeState::Ready) if may_be_wished_again(&family) => {
                        match self.record_create(ctx, wish, family.volume.as_ref()).await {
                            Err(error) if error.kind == Kind::Busy && error.is_final() => {}
                            other => return other.map(Outcome::Unchanged).map_err(about),
                        }
                    }
                    Some(VolumeState::Ready | VolumeState::Lost) => {
                        self.compare(wish, &family).await.map_err(about)?;
                        return family.view().map(Outcome::Unchanged).ok_or_else(contended);
                    }
                }
                continue;
            }
            if self.recognise_volume(&wish.name).await? {
                continue;
            }
            match self.record_create(ctx, wish, None).await {
                Err(error) if error.kind == Kind::Busy => {}
                other => return other.map(Outcome::Changed).map_err(about),
            }
        }
        Err(about(contended()))
    }

    /// Waits until a volume that is being deleted is gone.
    pub(crate) async fn until_gone(self: &Arc<Self>, ctx: &Context, id: VolumeId) -> Result<(), Error> {
        let watcher = self.drivers.watch(Subject::Volume(id));
        self.settle(ctx, watcher, &["unmount", "detach", "delete"], |progress, _| match &progress.sight {
            Sight::Volume(family) if family.volume.is_none() => Verdict::Answer(Ok(())),
            _ => Verdict::Wait,
        })
        .await
    }

    /// Records the wish; over a volume that was found under the name, so that its backend says whether it is the one.
    async fn record_create(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &CreateVolume,
        found: Option<&Volume>,
    ) -> Result<VolumeView, Error> {
        let catalog = self.catalog();
        let class = catalog.class(wish.class.as_ref())?;
        let description = catalog.backend(&class.backend)?.describe();
        let source = self.resolve(wish, &class, &description).await?;
        let mut volume = self.volume(wish, &class, &description, source.as_ref()).await?;
        if let Some(found) = found {
            if found.backend != volume.backend {
                return Err(Error::already_exists(format!(
                    "it exists on another backend ({}): use that one, or remove it, or choose another name",
                    found.backend
                )));
            }
            volume = wished_again(volume, found);
        }
        let id = volume.id;

        let (families, snapshots) = match &volume.source {
            Some(Source::Volume(source)) => (vec![id, *source], Vec::new()),
            Some(Source::Snapshot(source)) => {
                let since = volume.filling.as_ref().and_then(|filling| filling.since);
                let lent = since.into_iter().flat_map(|since| [since.base, since.twin]);
                (vec![id], [*source].into_iter().chain(lent).collect())
            }
            Some(Source::File(_)) | None => (vec![id], Vec::new()),
        };
        let watcher = self.drivers.watch(Subject::Volume(id));
        self.journal
            .edit(&families, &snapshots, Durability::Durable, |draft, change| {
                match &volume.source {
                    Some(Source::Volume(source)) => {
                        let source = draft
                            .family(*source)
                            .volume
                            .as_mut()
                            .filter(|one| one.state == VolumeState::Ready)
                            .ok_or_else(gone)?;
                        holds_something(source)?;
                        source.dependants.insert(Dependant::Clone(id));
                    }
                    Some(Source::Snapshot(_) | Source::File(_)) | None => {}
                }
                for source in &snapshots {
                    let source =
                        draft.snapshot(*source).as_mut().filter(|one| one.state == SnapshotState::Ready);
                    source.ok_or_else(gone)?.dependants.insert(id);
                }
                let family = draft.family(id);
                match found {
                    Some(_) if may_be_wished_again(family) => {}
                    Some(_) => return Err(contended()),
                    None => {
                        let name = keys::volume_name(&volume.name);
                        change.guard_absent(name.clone());
                        change.put(name, &id);
                    }
                }
                family.volume = Some(volume.clone());
                Ok(())
            })
            .await?;
        self.settle(ctx, watcher, &STEPS, made).await
    }

    /// Checks a wish and makes the record that stands for it.
    async fn volume(
        &self,
        wish: &CreateVolume,
        class: &Class,
        description: &Description,
        source: Option<&Origin>,
    ) -> Result<Volume, Error> {
        let mut parameters = class.parameters.clone();
        let known: BTreeSet<&str> =
            description.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        for (name, value) in &wish.parameters {
            if !known.contains(name.as_str()) {
                let known: Vec<&str> = known.into_iter().collect();
                return Err(Error::invalid(format!(
                    "the backend {} has no parameter {name:?}: it has {}",
                    class.backend,
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                )));
            }
            parameters.insert(name.clone(), value.clone());
        }
        let places = self.places(wish, class, description)?;
        if let Some(directory) = wish.root.directory.as_deref().filter(|name| !matches!(*name, "" | "/")) {
            DataRoot::check_directory(directory)?;
        }
        let size = size(wish, class, description, source.map(|origin| origin.size))?;
        let filesystem = match source {
            Some(origin) => Filesystem { state: FsState::Formatted, ..origin.filesystem.clone() },
            None => Filesystem {
                fs: wish.fs.unwrap_or(class.fs),
                state: FsState::Blank,
                mount_options: class.mount_options.clone(),
                root: wish.root.over(&class.root),
            },
        };
        let now = self.now();
        Ok(Volume {
            id: VolumeId(self.ports.ids.next()),
            name: wish.name.clone(),
            class: class.name.clone(),
            backend: class.backend.clone(),
            generation: 0,
            made_as: None,
            wanted: Wanted { size, parameters, places },
            actual: None,
            actual_parameters: Default::default(),
            source: source.map(|origin| origin.source.clone()),
            filling: source.and_then(|origin| origin.filling.clone()),
            found: false,
            held_still: None,
            handle: None,
            connection: None,
            topology: self.places_of(&description.abilities, &BTreeMap::new()),
            state: VolumeState::Creating,
            filesystem,
            dependants: BTreeSet::new(),
            keeping: wish.keeping,
            labels: wish.labels.clone(),
            created: now,
            intent: Some(Intent::new(now)),
        })
    }

    /// Where the volume has to be usable, as far as its backend is to know; refused where it cannot be.
    fn places(
        &self,
        wish: &CreateVolume,
        class: &Class,
        description: &Description,
    ) -> Result<Vec<BTreeMap<String, String>>, Error> {
        let abilities = &description.abilities;
        if wish.many && !abilities.shared {
            return Err(Error::invalid(format!(
                "volumes of the backend {} are used by one node at a time: ask for an access mode of a single node",
                class.backend
            )));
        }
        if wish.places.is_empty() || wish.places.iter().any(|place| self.is_here(abilities, place)) {
            let mut places = wish.places.clone();
            for place in &mut places {
                place.remove(Volume::SEAT);
            }
            places.retain(|place| !place.is_empty());
            return Ok(places);
        }
        Err(Error::exhausted(format!(
            "volumes of the backend {} lie on node {}, and are wanted elsewhere: ask the daemon of that node",
            class.backend,
            self.node()
        )))
    }

    /// What a volume is to be a copy of.
    async fn resolve(
        self: &Arc<Self>,
        wish: &CreateVolume,
        class: &Class,
        description: &Description,
    ) -> Result<Option<Origin>, Error> {
        let abilities = description.abilities;
        let origin = match &wish.source {
            None => return Ok(None),
            Some(SourceName::Snapshot(name)) => {
                let unknown = || Error::not_found(format!("there is no snapshot \"{name}\" to make it from"));
                let id = self.find_snapshot(name).await?.ok_or_else(unknown)?;
                let snapshot = self.journal.snapshot(id).await?.value.ok_or_else(unknown)?;
                if snapshot.state != SnapshotState::Ready {
                    return Err(Error::precondition(format!(
                        "the snapshot \"{name}\" is not ready yet: try again later"
                    )));
                }
                let filling = match snapshot.backend == class.backend {
                    true => None,
                    false => Some(self.filling(&snapshot, &class.backend, description, &wish.name).await?),
                };
                Origin {
                    able: abilities.snapshots || filling.is_some(),
                    filling,
                    source: Source::Snapshot(id),
                    size: snapshot.size,
                    filesystem: snapshot.filesystem,
                    backend: snapshot.backend,
                }
            }
            Some(SourceName::File(path)) => {
                let export = self.ports.host.look_at_export(path).await?;
                let by_seed = abilities.snapshot_writing;
                let filling =
                    Filling { at: export.begin, ..Filling::wished(export.length, None, by_seed, false) };
                Origin {
                    source: Source::File(path.clone()),
                    size: export.size,
                    filesystem: Filesystem {
                        fs: export.fs,
                        state: FsState::Formatted,
                        mount_options: class.mount_options.clone(),
                        root: DataRoot { directory: export.directory, ..class.root.clone() },
                    },
                    backend: class.backend.clone(),
                    able: true,
                    filling: Some(filling),
                }
            }
            Some(SourceName::Volume(name)) => {
                let unknown = || Error::not_found(format!("there is no volume \"{name}\" to make it from"));
                let id = self.find_volume(name).await?.ok_or_else(unknown)?;
                self.learn_filesystem(id).await?;
                let volume = self.journal.family(id).await?.value.volume.ok_or_else(unknown)?;
                if volume.state != VolumeState::Ready {
                    return Err(Error::precondition(format!(
                        "the volume \"{name}\" is not ready: `kato volume why {name}`"
                    )));
                }
                Origin {
                    source: Source::Volume(id),
                    size: volume.actual.unwrap_or_default(),
                    filesystem: volume.filesystem,
                    backend: volume.backend,
                    able: abilities.clone,
                    filling: None,
                }
            }
        };
        if origin.backend != class.backend && origin.filling.is_none() {
            return Err(Error::invalid(format!(
                "it is to be made by class {} on backend {}, but its source lives on backend {}: name a class of that \
                 backend, or let `kato volume copy` move its bytes",
                class.name, class.backend, origin.backend
            )));
        }
        if !origin.able {
            return Err(Error::unsupported(format!(
                "the backend {} cannot make volumes from that",
                class.backend
            )));
        }
        if wish.fs.is_some_and(|fs| fs != origin.filesystem.fs) {
            return Err(Error::invalid("a copy has the filesystem of its source: leave the filesystem out"));
        }
        Ok(Some(origin))
    }

    /// Whether a volume that exists is what the wish asks for.
    async fn compare(self: &Arc<Self>, wish: &CreateVolume, family: &Family) -> Result<(), Error> {
        let Some(volume) = family.volume.as_ref().filter(|_| wish.exact) else { return Ok(()) };
        let differs = |what: &str, is: &dyn std::fmt::Display| {
            Err(Error::already_exists(format!(
                "it exists with another {what} ({is}): use that one, or remove it, or choose another name"
            )))
        };
        if wish.class.as_ref().is_some_and(|class| *class != volume.class) {
            return differs("class", &volume.class);
        }
        let size = volume.actual.unwrap_or(volume.wanted.size.required);
        if !wish.size.admits(size) {
            return differs("size", &size);
        }
        if wish.fs.is_some_and(|fs| fs != volume.filesystem.fs) {
            return differs("filesystem", &volume.filesystem.fs);
        }
        let root = &volume.filesystem.root;
        if wish.root.over(root) != *root {
            return differs("data root, owner or mode", &"of its own");
        }
        for (name, value) in &wish.parameters {
            let is = volume.wanted.parameters.get(name).map_or("nothing", String::as_str);
            if is != value {
                return differs(&format!("value of {name}"), &is);
            }
        }
        if !self.is_made_from(volume, wish.source.as_ref()).await? {
            return differs("source", &"it was not made from that");
        }
        let abilities = self.catalog().backend(&volume.backend)?.describe().abilities;
        if wish.many && !abilities.shared {
            return differs("access mode", &"it is used by one node at a time");
        }
        if !wish.places.is_empty() && !wish.places.iter().any(|place| lies_at(&volume.topology, place)) {
            return differs("place", &words(&volume.topology));
        }
        Ok(())
    }

    /// Whether a volume was made from what a wish names. What is gone since cannot be told apart from what it was made from,
    /// and whoever repeats a wish means the same.
    async fn is_made_from(
        self: &Arc<Self>,
        volume: &Volume,
        named: Option<&SourceName>,
    ) -> Result<bool, Error> {
        Ok(match (named, &volume.source) {
            (None, None) => true,
            (Some(SourceName::Snapshot(name)), Some(Source::Snapshot(source))) => {
                match self.find_snapshot(name).await? {
                    Some(found) => found == *source,
                    None => self.journal.snapshot(*source).await?.value.is_none(),
                }
            }
            (Some(SourceName::Volume(name)), Some(Source::Volume(source))) => {
                match self.find_volume(name).await? {
                    Some(found) => found == *source,
                    None => self.journal.family(*source).await?.value.volume.is_none(),
                }
            }
            (Some(SourceName::File(path)), Some(Source::File(source))) => path == source,
            _ => false,
        })
    }
}

/// Whether a place is one where a volume can be used, by what is known of either.
fn lies_at(topology: &BTreeMap<String, String>, place: &BTreeMap<String, String>) -> bool {
    place.iter().all(|(word, value)| topology.get(word).is_none_or(|is| is == value))
}

fn words(place: &BTreeMap<String, String>) -> String {
    let words: Vec<_> = place.iter().map(|(word, value)| format!("{word} {value}")).collect();
    if words.is_empty() { "anywhere".to_owned() } else { words.join(", ") }
}

/// Whether a volume was found rather than made by a wish that we know, and nobody has begun to use it.
fn may_be_wished_again(family: &Family) -> bool {
    let found =
        family.volume.as_ref().is_some_and(|volume| volume.found && volume.state == VolumeState::Ready);
    found && family.attachments.is_empty() && family.mounts.is_empty() && family.publications.is_empty()
}

/// What is wished, over what was found under its name. What is on it stays.
fn wished_again(wish: Volume, found: &Volume) -> Volume {
    let state = match found.filesystem.state {
        FsState::Blank => wish.filesystem.state,
        begun => begun,
    };
    Volume {
        id: found.id,
        generation: found.generation,
        made_as: found.made_as.clone(),
        handle: found.handle.clone(),
        connection: found.connection.clone(),
        topology: found.topology.clone(),
        dependants: found.dependants.clone(),
        created: found.created,
        filesystem: Filesystem { state, ..wish.filesystem },
        ..wish
    }
}

/// What a volume is to be a copy of, found.
struct Origin {
    source: Source,
    size: Bytes,
    filesystem: Filesystem,
    backend: crate::model::BackendName,
    able: bool,
    /// Where it is on another backend, what is to be done to have its bytes.
    filling: Option<Filling>,
}

/// Refuses to copy what has no filesystem yet: the copy could never be told from one that lost it.
pub(super) fn holds_something(volume: &Volume) -> Result<(), Error> {
    match volume.filesystem.state {
        FsState::Formatted => Ok(()),
        FsState::Formatting => Err(Error::busy("its filesystem is being made: try again in a moment")),
        FsState::Blank => Err(Error::precondition(
            "it was never mounted, so there is nothing in it yet: make an empty volume instead",
        )),
    }
}

fn gone() -> Error {
    Error::precondition("what it is to be made from is being removed")
}

/// How large the volume is to be: as asked, or as its source, or as the class says; within all limits.
fn size(
    wish: &CreateVolume,
    class: &Class,
    description: &Description,
    source: Option<Bytes>,
) -> Result<CapacityRange, Error> {
    let mut size = wish.size;
    if size.limit.is_some_and(|limit| limit < size.required) {
        return Err(Error::out_of_range("the size's limit is below what is required"));
    }
    let least = source.unwrap_or_default();
    if size.required.0 == 0 {
        size.required = if source.is_some() { least } else { class.default_size };
    }
    if size.required < least {
        return Err(Error::out_of_range(format!(
            "a size of {} is smaller than its source of {least}: ask for at least that",
            size.required
        )));
    }
    if size.required.0 > 0 && size.required < description.min_size {
        if wish.size.required.0 > 0 && size.limit.is_some_and(|limit| limit < description.min_size) {
            return Err(Error::out_of_range(format!(
                "the backend makes volumes of {} and more",
                description.min_size
            )));
        }
        size.required = description.min_size;
    }
    let fs = wish.fs.unwrap_or(class.fs);
    if source.is_none() && size.required.0 > 0 && size.required < fs.least() {
        if size.limit.is_some_and(|limit| limit < fs.least()) {
            return Err(Error::out_of_range(format!(
                "a filesystem of {fs} needs {} at least: allow more, or choose another filesystem",
                fs.least()
            )));
        }
        size.required = fs.least();
    }
    let most = [class.max_size, description.max_size].into_iter().flatten().min();
    if let Some(most) = most.filter(|most| size.required > *most) {
        return Err(Error::out_of_range(format!(
            "a size of {} is larger than the {most} that class {} allows",
            size.required, class.name
        )));
    }
    if size.limit.is_some_and(|limit| limit < size.required) {
        return Err(Error::out_of_range(format!(
            "the size's limit is below the smallest possible, {}",
            size.required
        )));
    }
    Ok(size)
}

/// A create's goal: the volume is there, or its record is gone because it was refused.
fn made(progress: &Progress, failure: Option<&Error>) -> Verdict<VolumeView> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    match family.volume.as_ref().map(|volume| volume.state) {
        Some(VolumeState::Creating) => Verdict::Wait,
        Some(VolumeState::Ready | VolumeState::Lost) => Verdict::Answer(family.view().ok_or_else(contended)),
        Some(VolumeState::Deleting) | None => Verdict::Answer(Err(failure.cloned().unwrap_or_else(|| {
            Error::precondition("it was removed by somebody else while it was being made")
        }))),
    }
}
