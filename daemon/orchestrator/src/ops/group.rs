//! Groups of snapshots: cut one, or find the one that was; delete one that nothing depends on. What is cut is found by
//! its snapshots alone, in the records or, where those are lost, at its backend.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Kind, Outcome},
    hall::Role,
    house::{House, Verdict},
    journal::contended,
    mark::{SnapshotMark, kept_group},
    model::{
        BackendName, Dependant, Group, GroupId, GroupRef, GroupState, Handle, Intent, Member, Place,
        Snapshot, SnapshotState, VolumeId, VolumeState,
    },
    ops::{Context, CreateGroup, DeleteGroup, GroupView, ListPage, create::holds_something},
    ports::{
        backend::{Page, Which},
        store::Durability,
    },
    records::{self, keys},
};

/// What is there of a group.
enum Found {
    /// Nothing.
    Nothing,
    /// All of it.
    Whole(GroupView),
    /// What an attempt has left that nobody can have heard of: its last snapshot, which is cut last, is missing.
    Unfinished(Vec<Snapshot>),
    /// What was whole once and is not any more.
    Broken(Vec<Snapshot>),
}

impl House {
    pub(crate) async fn create_group(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &CreateGroup,
    ) -> Result<Outcome<GroupView>, Error> {
        let about = |error: Error| about(format!("group {}", wish.name), error);
        let volumes = self.sources(wish).await.map_err(about)?;
        for _ in 0..64 {
            let name = keys::group_name(&kept_group(&wish.name));
            let id = self.journal.record::<GroupId>(name).await?.value;
            let Some(id) = id else {
                if self.recognise_group(wish, &volumes).await.map_err(about)? {
                    continue;
                }
                match self.cut_group(ctx, wish, &volumes).await {
                    Err(error) if error.kind == Kind::Busy && error.is_final() => continue,
                    answer => return answer.map(Outcome::Changed).map_err(about),
                }
            };
            let watcher = self.drivers.watch(Subject::Group(id));
            if let Some(group) = self.journal.group(id).await?.value {
                match group.state {
                    GroupState::Deleting => self.settle(ctx, watcher, &["delete-group"], gone).await,
                    GroupState::Creating
                        if group.members.iter().map(|one| one.volume).eq(volumes.clone()) =>
                    {
                        self.settle(ctx, watcher, &["cut-group"], ended).await
                    }
                    GroupState::Creating => Err(other_volumes()),
                }
                .map_err(about)?;
                continue;
            }
            match self.group_found(id, None).await.map_err(about)? {
                Found::Whole(view) if self.is_of(&view, &volumes).await? => {
                    return Ok(Outcome::Unchanged(view));
                }
                Found::Whole(_) => return Err(about(other_volumes())),
                Found::Broken(_) => {
                    return Err(about(Error::precondition(
                        "it exists and some of its snapshots are gone: delete what is left of it first",
                    )));
                }
                Found::Unfinished(left) => {
                    self.delete_members(id, &left, &BTreeSet::new()).await.map_err(about)?;
                    self.settle(ctx, watcher, &["delete-group"], gone).await.map_err(about)?;
                }
                Found::Nothing => match self.cut_group(ctx, wish, &volumes).await {
                    Err(error) if error.kind == Kind::Busy && error.is_final() => {}
                    answer => return answer.map(Outcome::Changed).map_err(about),
                },
            }
        }
        Err(about(contended()))
    }

    /// The volumes that are meant.
    async fn sources(self: &Arc<Self>, wish: &CreateGroup) -> Result<BTreeSet<VolumeId>, Error> {
        if wish.volumes.is_empty() || wish.volumes.len() > Group::MOST {
            return Err(Error::invalid(format!(
                "it is to have {} volumes: give it at least one and at most {}",
                wish.volumes.len(),
                Group::MOST
            )));
        }
        let mut volumes = BTreeSet::new();
        for volume in &wish.volumes {
            let id =
                self.require_volume(volume).await.map_err(|error| error.about(format!("volume {volume}")))?;
            self.learn_filesystem(id).await?;
            if !volumes.insert(id) {
                return Err(Error::invalid(format!("the volume {volume} is named twice")));
            }
        }
        Ok(volumes)
    }

    /// Takes up what stands at the backend under this name and no record knows, whether whole or not.
    async fn recognise_group(
        self: &Arc<Self>,
        wish: &CreateGroup,
        volumes: &BTreeSet<VolumeId>,
    ) -> Result<bool, Error> {
        let mut which = Vec::new();
        let mut home = None;
        for id in volumes {
            let Some(volume) = self.journal.family(*id).await?.value.volume else { continue };
            let Some(handle) = &volume.handle else { continue };
            let token = Group::token(self.cluster, &wish.name, handle, 0);
            which.push(Which { token, handle: None });
            home.get_or_insert(volume.backend);
        }
        let Some(home) = home else { return Ok(false) };
        let backend = self.backend(&home).await?;
        let Some(ability) = backend.snapshots() else { return Ok(false) };
        let found = ability.inspect_snapshots(which).await?;
        let marks = found.into_iter().flatten().filter_map(|shot| SnapshotMark::decode(&shot.mark).ok());
        let groups: BTreeSet<GroupId> =
            marks.filter_map(|mark| mark.group).map(|place| place.group).collect();
        for group in &groups {
            self.take_up_group(&home, *group).await?;
        }
        Ok(!groups.is_empty())
    }

    async fn cut_group(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &CreateGroup,
        volumes: &BTreeSet<VolumeId>,
    ) -> Result<GroupView, Error> {
        let id = GroupId(self.ports.ids.next());
        let watcher = self.drivers.watch(Subject::Group(id));
        self.record_group(id, wish, volumes).await?;
        self.settle(ctx, watcher, &["cut-group"], ended).await?;
        match self.group_found(id, None).await? {
            Found::Whole(view) => Ok(view),
            _ => Err(Error::precondition("it was removed by somebody else while it was being cut")),
        }
    }

    async fn record_group(
        self: &Arc<Self>,
        id: GroupId,
        wish: &CreateGroup,
        volumes: &BTreeSet<VolumeId>,
    ) -> Result<(), Error> {
        let (now, catalog, kept) = (self.now(), self.catalog(), kept_group(&wish.name));
        let name = keys::group_name(&kept);
        let seen = self.journal.record::<GroupId>(name.clone()).await?;
        let volumes: Vec<VolumeId> = volumes.iter().copied().collect();
        let of = u8::try_from(volumes.len()).unwrap_or(u8::MAX);
        self.journal
            .edit_group(id, &volumes, &[], Durability::Durable, |draft, change| {
                let mut members = Vec::with_capacity(volumes.len());
                let mut home: Option<BackendName> = None;
                for (index, volume) in (0u8..).zip(&volumes) {
                    let family = draft.family(*volume);
                    let elsewhere = family.attachments.keys().find(|node| *node != self.node()).cloned();
                    let volume = family.volume.as_mut().filter(|one| one.state == VolumeState::Ready);
                    let volume = volume.ok_or_else(|| Error::not_found("a volume of it is gone"))?;
                    let about = |error: Error| error.about(format!("volume {}", volume.name));
                    let home = home.get_or_insert_with(|| volume.backend.clone());
                    if *home != volume.backend {
                        return Err(about(Error::invalid(format!(
                            "it lives in backend {}, and others of the group in {home}: one moment is cut in one \
                             backend",
                            volume.backend
                        ))));
                    }
                    let abilities = catalog.backend(&volume.backend)?.describe().abilities;
                    if self.config.role != Role::All {
                        return Err(about(Error::unsupported(
                            "this daemon has no mounts that it could hold still: ask one that does all of the work",
                        )));
                    }
                    // Whoever writes to what is attached is known.
                    let held_here = abilities.cuts_groups() || (abilities.snapshots && abilities.attachments);
                    if !held_here {
                        return Err(about(Error::unsupported(format!(
                            "the backend {} cannot cut several volumes at one moment",
                            volume.backend
                        ))));
                    }
                    if let Some(node) = elsewhere {
                        return Err(about(Error::precondition(format!(
                            "it is attached to {node}, and nobody else can hold it still: cut the group there, or stop \
                             what uses it"
                        ))));
                    }
                    holds_something(volume).map_err(about)?;
                    let handle: &Handle = volume.handle.as_ref().ok_or_else(contended)?;
                    let place = Place { group: id, name: kept.clone(), index, of };
                    members.push(Member {
                        volume: volume.id,
                        snapshot: place.snapshot(),
                        token: Group::token(self.cluster, &wish.name, handle, 0),
                        handle: None,
                    });
                    volume.dependants.insert(Dependant::Group(id));
                }
                change.touch(&seen, name.clone(), &id);
                draft.group = Some(Group {
                    id,
                    name: wish.name.clone(),
                    backend: home.ok_or_else(contended)?,
                    seat: Some(self.node().clone()),
                    generation: 0,
                    members,
                    state: GroupState::Creating,
                    parameters: wish.parameters.clone(),
                    labels: wish.labels.clone(),
                    created: now,
                    intent: Intent::new(now),
                });
                Ok(())
            })
            .await
            .map(drop)
    }

    /// Whether a group is one of these volumes.
    async fn is_of(&self, view: &GroupView, volumes: &BTreeSet<VolumeId>) -> Result<bool, Error> {
        let mut handles = BTreeSet::new();
        for id in volumes {
            handles.insert(self.journal.family(*id).await?.value.volume.and_then(|volume| volume.handle));
        }
        Ok(view.snapshots.iter().map(|one| one.volume_handle.clone()).collect::<BTreeSet<_>>() == handles)
    }

    /// The id that is meant, and the backend to ask where no record knows it.
    async fn meant(&self, which: &GroupRef) -> Result<Option<(GroupId, Option<BackendName>)>, Error> {
        Ok(match which {
            GroupRef::Id(backend, id) => Some((*id, Some(backend.clone()))),
            GroupRef::Name(name) => {
                let id = self.journal.record::<GroupId>(keys::group_name(&kept_group(name))).await?.value;
                id.map(|id| (id, None))
            }
        })
    }

    pub(crate) async fn find_group(self: &Arc<Self>, which: &GroupRef) -> Result<GroupView, Error> {
        let about = |error| about(format!("group {which}"), error);
        let unknown =
            || about(Error::not_found("there is no such group of snapshots: `kato group ls` shows all"));
        let (id, backend) = self.meant(which).await?.ok_or_else(unknown)?;
        match self.group_found(id, backend.as_ref()).await.map_err(about)? {
            Found::Whole(view) if backend.is_none_or(|backend| view.backend == backend) => Ok(view),
            Found::Broken(_) => Err(about(Error::precondition(
                "some of its snapshots are gone: delete what is left of it, and cut another",
            ))),
            Found::Unfinished(_) => Err(about(Error::busy("it is being cut or deleted: try again"))),
            Found::Whole(_) | Found::Nothing => Err(unknown()),
        }
    }

    pub(crate) async fn list_groups(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<GroupView>, Error> {
        let (entries, next) = self.page_of(keys::GROUP_NAMES, after, limit).await?;
        let mut items = Vec::with_capacity(entries.len());
        for entry in &entries {
            let members = self.journal.members(records::decode(entry)?).await?;
            items.extend(view(members)?);
        }
        Ok(ListPage { items, next })
    }

    pub(crate) async fn delete_group(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &DeleteGroup,
    ) -> Result<Outcome<()>, Error> {
        let about = |error| about(format!("group {}", wish.group), error);
        let Some((id, backend)) = self.meant(&wish.group).await? else { return Ok(Outcome::Unchanged(())) };
        let watcher = self.drivers.watch(Subject::Group(id));
        let left = match self.group_found(id, backend.as_ref()).await.map_err(about)? {
            Found::Nothing => Vec::new(),
            Found::Whole(view) => view.snapshots,
            Found::Unfinished(left) | Found::Broken(left) => left,
        };
        let named = |one: &Snapshot| one.handle.as_ref().is_none_or(|handle| wish.members.contains(handle));
        if let Some(stranger) = left.iter().find(|one| !wish.members.is_empty() && !named(one)) {
            return Err(about(Error::invalid(format!(
                "the snapshot {} belongs to it and is not among those that are named: name all of them, or none",
                stranger.name
            ))));
        }
        let mut made_from = BTreeSet::new();
        for snapshot in &left {
            made_from.extend(self.living_copies(snapshot.id).await?);
        }
        if !self.delete_members(id, &left, &made_from).await.map_err(about)? {
            return Ok(Outcome::Unchanged(()));
        }
        self.settle(ctx, watcher, &["delete-group"], gone).await.map(Outcome::Changed).map_err(about)
    }

    /// Wishes that nothing of a group is left; false where nothing is.
    async fn delete_members(
        self: &Arc<Self>,
        id: GroupId,
        left: &[Snapshot],
        made_from: &BTreeSet<VolumeId>,
    ) -> Result<bool, Error> {
        let now = self.now();
        let snapshots: Vec<_> = left.iter().map(|snapshot| snapshot.id).collect();
        let (_, wished) = self
            .journal
            .edit_group(id, &[], &snapshots, Durability::Durable, |draft, change| {
                change.frees_space();
                if let Some(wish) = draft.group.as_mut() {
                    if wish.state == GroupState::Creating {
                        wish.state = GroupState::Deleting;
                        wish.intent = Intent { since: wish.intent.since, ..Intent::new(now) };
                    }
                    return Ok(true);
                }
                let mut members = Vec::with_capacity(snapshots.len());
                let mut wish = None;
                for id in &snapshots {
                    let Some(snapshot) = draft.snapshot(*id) else { continue };
                    let Some(place) = snapshot.group.clone() else { continue };
                    if let Some(volume) = snapshot.dependants.iter().find(|one| made_from.contains(one)) {
                        return Err(Error::in_use(format!(
                            "the volume {volume} is made from its snapshot {}: remove that first",
                            snapshot.name
                        )));
                    }
                    snapshot.state = SnapshotState::Deleting;
                    snapshot.intent = None;
                    members.push(Member {
                        volume: snapshot.volume,
                        snapshot: snapshot.id,
                        token: snapshot.token(self.cluster),
                        handle: snapshot.handle.clone(),
                    });
                    wish.get_or_insert_with(|| (place, snapshot.clone()));
                }
                let Some((place, first)) = wish else { return Ok(false) };
                draft.group = Some(Group {
                    id,
                    name: SnapshotMark::group_name(&place)?,
                    backend: first.backend,
                    seat: first.seat.or_else(|| Some(self.node().clone())),
                    generation: 0,
                    members,
                    state: GroupState::Deleting,
                    parameters: first.parameters,
                    labels: first.labels,
                    created: first.created,
                    intent: Intent::new(now),
                });
                Ok(true)
            })
            .await?;
        Ok(wished)
    }

    /// What is there of a group by the records and, where they do not know all of it, by its backend.
    async fn group_found(
        self: &Arc<Self>,
        id: GroupId,
        backend: Option<&BackendName>,
    ) -> Result<Found, Error> {
        if let Some(group) = self.journal.group(id).await?.value {
            let left = self.journal.members(id).await?;
            return Ok(if left.is_empty() && group.members.is_empty() {
                Found::Nothing
            } else {
                Found::Unfinished(left)
            });
        }
        let mut members = self.journal.members(id).await?;
        let missing = |members: &[Snapshot]| {
            members
                .first()
                .and_then(|one| one.group.as_ref())
                .is_none_or(|place| members.len() < usize::from(place.of))
        };
        let home = members.first().map(|one| one.backend.clone()).or_else(|| backend.cloned());
        if let Some(home) = home
            && missing(&members)
        {
            self.take_up_group(&home, id).await?;
            members = self.journal.members(id).await?;
        }
        let place = |one: &Snapshot| one.group.clone();
        let Some(last) = members.last().and_then(place) else { return Ok(Found::Nothing) };
        if !missing(&members) {
            return Ok(view(members)?.map_or(Found::Nothing, Found::Whole));
        }
        Ok(match last.index.saturating_add(1) < last.of {
            true => Found::Unfinished(members),
            false => Found::Broken(members),
        })
    }

    /// Whether a snapshot belongs to a group that is being cut or deleted just now: its records are being seen to.
    pub(crate) async fn is_of_unfinished_group(&self, mark: &SnapshotMark) -> Result<bool, Error> {
        match &mark.group {
            Some(place) => Ok(self.journal.group(place.group).await?.value.is_some()),
            None => Ok(false),
        }
    }

    /// Makes records of a group's snapshots that its backend has and no record knows.
    async fn take_up_group(self: &Arc<Self>, name: &BackendName, id: GroupId) -> Result<(), Error> {
        let backend = self.backend(name).await?;
        let Some(ability) = backend.snapshots() else { return Ok(()) };
        let mut page = None;
        loop {
            let Page { items, next } = ability.list_snapshots(page).await?;
            for shot in items {
                let mark = SnapshotMark::decode(&shot.mark).ok();
                let ours = mark.filter(|mark| mark.cluster == self.cluster).and_then(|mark| mark.group);
                if ours.is_some_and(|place| place.group == id)
                    && self.journal.snapshot_of_handle(name, &shot.handle).await?.is_none()
                {
                    match self.record_shot(name, &shot).await {
                        // Somebody else was faster, unless it still has no record: then the group only seems to lack it.
                        Err(error)
                            if error.kind == Kind::Busy
                                && self.journal.snapshot_of_handle(name, &shot.handle).await?.is_some() => {}
                        recorded => drop(recorded?),
                    }
                }
            }
            if next.is_none() {
                return Ok(());
            }
            page = next;
        }
    }
}

/// What these snapshots of one group make.
fn view(snapshots: Vec<Snapshot>) -> Result<Option<GroupView>, Error> {
    let first = snapshots.first().and_then(|one| Some((one.group.clone()?, one.backend.clone())));
    let Some((place, backend)) = first else { return Ok(None) };
    let (id, of) = (place.group, usize::from(place.of));
    Ok(Some(GroupView { id, name: SnapshotMark::group_name(&place)?, backend, of, snapshots }))
}

/// An error about a group keeps the volume that it is about.
fn about(group: String, error: Error) -> Error {
    match error.subject.is_empty() || error.subject == group {
        true => error.about(group),
        false => {
            let subject = format!("{group}, {}", error.subject);
            error.about(subject)
        }
    }
}

fn other_volumes() -> Error {
    Error::already_exists("it exists as a group of snapshots of other volumes: choose another name")
}

/// The wish is not there any more: it came true, or was refused.
fn ended(progress: &Progress, failure: Option<&Error>) -> Verdict<()> {
    match &progress.sight {
        Sight::Group(group) if group.is_none() => {
            Verdict::Answer(failure.map_or(Ok(()), |error| Err(error.clone())))
        }
        Sight::Group(group)
            if group.as_ref().as_ref().is_some_and(|one| one.state == GroupState::Deleting) =>
        {
            Verdict::Answer(Err(failure.cloned().unwrap_or_else(|| {
                Error::precondition("it was removed by somebody else while it was being cut")
            })))
        }
        _ => Verdict::Wait,
    }
}

fn gone(progress: &Progress, failure: Option<&Error>) -> Verdict<()> {
    match &progress.sight {
        // Also where its delete was refused: then it is kept, and nothing is wished of it any more.
        Sight::Group(group) if group.is_none() => {
            Verdict::Answer(failure.map_or(Ok(()), |error| Err(error.clone())))
        }
        _ => Verdict::Wait,
    }
}
