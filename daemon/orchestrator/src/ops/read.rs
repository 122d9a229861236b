//! Reads come from the records alone: they answer with every backend down. Where records are shared and cannot be reached,
//! they come from what this node remembers of them.

use std::sync::Arc;

use crate::{
    drive::intents,
    error::Error,
    house::House,
    journal::Journal,
    model::{
        AttachmentState, Dependant, Fence, Intent, MountState, PublicationState, Snapshot, SnapshotId,
        VolumeId, VolumeName, VolumeRef, VolumeState,
    },
    ops::{ListPage, VolumeView, Why, mount::unknown},
    ports::store::Entry,
    records::{self, keys},
    replica::{Look, Replica},
};

/// What everything waits for then.
const AWAY: &str =
    "the records cannot be reached; this is what this node remembers of them. See whether etcd is well";

impl House {
    pub(crate) async fn inspect(&self, name: &VolumeName) -> Result<VolumeView, Error> {
        match self.look(self.inspect_in(&self.journal, name)).await {
            Look::Records(found) => found,
            Look::Away(replica) => Replica::recalled(self.inspect_in(replica.journal(), name).await),
        }
    }

    async fn inspect_in(&self, journal: &Journal, name: &VolumeName) -> Result<VolumeView, Error> {
        let id = journal.volume_id(name).await?.ok_or_else(|| unknown(name))?;
        let view = journal.family(id).await?.value.view();
        view.map(|view| self.with_complaint(view)).ok_or_else(|| unknown(name))
    }

    pub(crate) async fn find(self: &Arc<Self>, which: &VolumeRef) -> Result<VolumeView, Error> {
        let id = self.require_volume(which).await?;
        let view = self.journal.family(id).await?.value.view();
        view.map(|view| self.with_complaint(view)).ok_or_else(|| unknown(which))
    }

    fn with_complaint(&self, view: VolumeView) -> VolumeView {
        VolumeView { complaint: self.complaints.of(view.volume.id), ..view }
    }

    pub(crate) async fn names(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<VolumeName>, Error> {
        match self.look(names_in(&self.journal, after, limit)).await {
            Look::Records(found) => found,
            Look::Away(replica) => Replica::recalled(names_in(replica.journal(), after, limit).await),
        }
    }

    pub(crate) async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<VolumeView>, Error> {
        match self.look(self.list_in(&self.journal, after, limit)).await {
            Look::Records(found) => found,
            Look::Away(replica) => Replica::recalled(self.list_in(replica.journal(), after, limit).await),
        }
    }

    async fn list_in(
        &self,
        journal: &Journal,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<VolumeView>, Error> {
        let (entries, next) = page_of(journal, keys::VOLUME_NAMES, after, limit).await?;
        let mut items = Vec::with_capacity(entries.len());
        for entry in &entries {
            // A volume that was removed since the page was read is simply not on it.
            if let Some(view) = journal.family(records::decode(entry)?).await?.value.view() {
                items.push(self.with_complaint(view));
            }
        }
        Ok(ListPage { items, next })
    }

    /// The families of volumes, read in one pass: what belongs to a volume stands behind it.
    pub(crate) async fn list_by_id(
        self: &Arc<Self>,
        after: Option<VolumeId>,
        limit: usize,
    ) -> Result<ListPage<VolumeView>, Error> {
        self.refill().await?;
        let limit = limit.clamp(1, 100_000);
        let after = after.map(keys::end_of_volume);
        let (families, more) = self.journal.families(after, limit).await?;
        let next = more.then(|| families.last().map(|family| family.id.to_string())).flatten();
        let items = families.into_iter().filter_map(|family| family.view());
        Ok(ListPage { items: items.map(|view| self.with_complaint(view)).collect(), next })
    }

    pub(crate) async fn list_snapshots_by_id(
        self: &Arc<Self>,
        after: Option<SnapshotId>,
        limit: usize,
    ) -> Result<ListPage<Snapshot>, Error> {
        self.refill().await?;
        let after = after.map(|id| id.to_string());
        let (entries, next) = self.page_of(keys::SNAPSHOTS, after.as_deref(), limit).await?;
        Ok(ListPage { items: entries.iter().map(records::decode).collect::<Result<_, _>>()?, next })
    }

    pub(crate) async fn list_snapshots(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<Snapshot>, Error> {
        let (entries, next) = self.page_of(keys::SNAPSHOT_NAMES, after, limit).await?;
        let mut items = Vec::with_capacity(entries.len());
        for entry in &entries {
            if let Some(snapshot) = self.journal.snapshot(records::decode(entry)?).await?.value {
                items.push(snapshot);
            }
        }
        Ok(ListPage { items, next })
    }

    pub(crate) async fn page_of(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<String>), Error> {
        page_of(&self.journal, prefix, after, limit).await
    }

    pub(crate) async fn why(&self, name: &VolumeName) -> Result<Why, Error> {
        match self.look(self.why_in(&self.journal, name)).await {
            Look::Records(found) => found,
            Look::Away(replica) => {
                let mut why = Replica::recalled(self.why_in(replica.journal(), name).await)?;
                why.waits.insert(0, AWAY.to_owned());
                Ok(why)
            }
        }
    }

    async fn why_in(&self, journal: &Journal, name: &VolumeName) -> Result<Why, Error> {
        let id = journal.volume_id(name).await?.ok_or_else(|| unknown(name))?;
        let family = journal.family(id).await?.value;
        let view = family.view().map(|view| self.with_complaint(view)).ok_or_else(|| unknown(name))?;
        let mut waits: Vec<String> = Vec::new();
        match view.volume.state {
            VolumeState::Creating => waits.push("it is being made".into()),
            VolumeState::Deleting => waits.push("it is being deleted".into()),
            VolumeState::Lost => waits.push("its backend says that it is gone".into()),
            VolumeState::Ready if view.volume.wants_growth() => {
                waits.push(format!("it is being grown to {}", view.volume.wanted.size.required));
            }
            VolumeState::Ready => {}
        }
        for mount in &view.mounts {
            match &mount.state {
                MountState::Mounting => waits.push(format!("it is being mounted on {}", mount.node)),
                MountState::Unmounting => waits.push(format!("it is being unmounted on {}", mount.node)),
                MountState::Broken(why) if family.is_going(&mount.node) => {
                    waits.push(format!("its mount on {} is broken and taken down: {why}", mount.node));
                }
                MountState::Broken(why) => waits.push(format!(
                    "its mount on {} is broken: {why}; it is made again when its holders have left, or by \
                     `kato volume repair --force {name}`, which takes it from them",
                    mount.node
                )),
                MountState::Mounted => {}
            }
        }
        for attachment in &view.attachments {
            let node = &attachment.node;
            match (attachment.state, attachment.fence) {
                (AttachmentState::Detaching, Fence::Wished) => waits.push(format!(
                    "it was taken from {node}, which may still write to it: its backend is to cut {node} off first"
                )),
                (AttachmentState::Detaching, Fence::Done) => {
                    waits.push(format!("{node} is cut off from it, and it is being detached there"));
                }
                (AttachmentState::Detaching, Fence::Unproven) => waits.push(format!(
                    "it was taken from {node} and is being detached there; nobody else gets it before that: stop the \
                     machine, or what uses the volume on it"
                )),
                (AttachmentState::Detaching, Fence::Unneeded)
                | (AttachmentState::Attaching | AttachmentState::Attached, _) => {}
            }
        }
        let lost = view.lost.iter();
        waits.extend(lost.filter(|lost| lost.mount.node == *self.node()).map(|lost| {
            format!(
                "it was taken from this node at {}: what is left of it here has to be gone first",
                lost.since
            )
        }));
        waits.extend(self.stalls.of(id));
        waits.extend(intents(&family).filter_map(|intent| self.tell(intent)));
        let holders = view
            .publications
            .iter()
            .map(|one| {
                if one.is_unknown() {
                    return format!(
                        "somebody unknown on {}: it stood mounted when the records were rebuilt at {}, and counts as held \
                         until no container has had it for {}",
                        one.node,
                        one.since,
                        in_words(self.config.reap_after)
                    );
                }
                let doubt = match (one.doubtful_since, one.state) {
                    (Some(since), _) => format!(", seems gone since {since}"),
                    (None, PublicationState::Leaving) => ", leaving".to_owned(),
                    (None, _) => String::new(),
                };
                format!("{} on {} (count {}, since {}{doubt})", one.holder, one.node, one.count, one.since)
            })
            .collect();
        let keeps = view
            .volume
            .dependants
            .iter()
            .map(|dependant| match dependant {
                Dependant::Attachment(node) => format!("it is attached to {node}"),
                Dependant::Snapshot(id) => format!("the snapshot {id} needs it"),
                Dependant::Group(id) => format!("the group {id} of snapshots is being cut"),
                Dependant::Clone(id) => format!("the volume {id} is made from it"),
            })
            .collect();
        let ails = view.complaint.iter().map(|complaint| complaint.to_string()).collect();
        Ok(Why { view, waits, holders, ails, keeps })
    }

    fn tell(&self, intent: &Intent) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(intent.note.clone());
        if let Some(failure) = &intent.last_error {
            parts.push(format!(
                "{} tries failed, the last at {}: {}",
                intent.attempts, failure.at, failure.message
            ));
            if !intent.is_parked() {
                parts.push(format!("the next try is at {}", intent.next_try));
            }
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// A page of an index. The token is the last name on the page: it survives restarts and deletes.
async fn page_of(
    journal: &Journal,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<Entry>, Option<String>), Error> {
    let limit = limit.clamp(1, 100_000);
    let after = after.map(|token| format!("{prefix}{token}"));
    let entries = journal.page(prefix, after.as_deref(), limit).await?;
    let next = (entries.len() == limit)
        .then(|| entries.last().and_then(|entry| entry.key.strip_prefix(prefix)).map(str::to_owned))
        .flatten();
    Ok((entries, next))
}

async fn names_in(
    journal: &Journal,
    after: Option<&str>,
    limit: usize,
) -> Result<ListPage<VolumeName>, Error> {
    let (entries, next) = page_of(journal, keys::VOLUME_NAMES, after, limit).await?;
    let items = entries
        .iter()
        .filter_map(|entry| keys::name_of(entry.key.strip_prefix(keys::VOLUME_NAMES)?))
        .map(|name| VolumeName::parse(&name))
        .collect::<Result<_, _>>()?;
    Ok(ListPage { items, next })
}

/// A time as people say it.
fn in_words(time: std::time::Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 120 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    }
}
