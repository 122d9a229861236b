//! The API's actions on snapshots and on the policies that cut them. A snapshot has no name and nobody's label: whoever cuts
//! one on request is not told which it is, and policies cut others meanwhile. It is named by its moment when something is
//! made of it.

use std::time::Duration;

use serde_json::json;

use super::{
    asked::Asked,
    error::Refusal,
    fault::Fault,
    server::Answer,
    world::{Policy, Snapshot, Volume, World},
};
use crate::clock::Moment;

/// How often a policy can cut, and how long that is.
const FREQUENCIES: [(&str, u64); 7] = [
    ("1min", 60),
    ("15min", 15 * 60),
    ("1hour", 3600),
    ("1day", 86_400),
    ("1week", 7 * 86_400),
    ("1month", 30 * 86_400),
    ("1year", 365 * 86_400),
];

/// How many snapshots a policy keeps at most.
const MOST: u64 = 256;

/// A policy that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    frequency: Option<&'static str>,
    count: Option<u64>,
}

impl Wish {
    pub(super) fn of(asked: &Asked) -> Result<Self, Refusal> {
        let known = |named: &str| {
            let found = FREQUENCIES.iter().find(|(name, _)| *name == named).map(|(name, _)| *name);
            found.ok_or_else(|| {
                Refusal::wrong(format!("Snapshot frequency {named} is not included in the list"))
            })
        };
        let frequency = asked.text(&["snapshot_frequency"]).map(known).transpose()?;
        let count = asked.number("snapshot_count")?;
        if count.is_some_and(|count| !(1..=MOST).contains(&count)) {
            return Err(Refusal::wrong(format!("Snapshot count must be between 1 and {MOST}")));
        }
        Ok(Self { frequency, count })
    }
}

fn period(frequency: &str) -> Duration {
    let seconds = FREQUENCIES.iter().find(|(name, _)| *name == frequency).map_or(60, |(_, seconds)| *seconds);
    Duration::from_secs(seconds)
}

impl World {
    pub(super) fn list_snapshots(&self, id: &str) -> Result<Answer, Refusal> {
        self.volume(id)?;
        let now = self.now();
        let own = self.snapshots.iter().filter(|(_, it)| it.volume == id && it.seen <= now);
        let all: Vec<_> = own.map(|(id, snapshot)| self.snapshot_json(id, snapshot)).collect();
        Ok(Answer::json(200, &json!({ "snapshots": all })))
    }

    pub(super) fn cut(&mut self, id: &str, fault: Option<&Fault>) -> Result<Answer, Refusal> {
        if !self.site.cuts_on_request {
            return Err(Refusal::not_found());
        }
        let now = self.now();
        if self.volume(id)?.state(now) != "active" {
            return Err(Refusal::wrong("Cannot snapshot a volume that is not active"));
        }
        let seen = self.seen(fault);
        self.add_snapshot(id, None, seen);
        Ok(Answer::empty(201))
    }

    fn add_snapshot(&mut self, id: &str, policy: Option<String>, seen: Moment) {
        let Some(volume) = self.volumes.get(id) else { return };
        let (file, size) = (volume.file.clone(), volume.size);
        let file = self.copy(&file, size);
        // No two are of one moment.
        let last = self.snapshots.values().map(|it| it.cut).max().unwrap_or_default();
        let cut = self.now().max(last + Duration::from_nanos(1));
        let snapshot = Snapshot { volume: id.to_owned(), policy, cut, seen, size, file };
        let new = self.id();
        self.snapshots.insert(new, snapshot);
    }

    pub(super) fn delete_snapshot(&mut self, id: &str, snapshot: &str) -> Result<Answer, Refusal> {
        self.volume(id)?;
        let now = self.now();
        let is_there = self.snapshots.get(snapshot).is_some_and(|it| it.volume == id && it.seen <= now);
        let gone = if is_there { self.snapshots.remove(snapshot) } else { None };
        Self::forget_file(&gone.ok_or_else(Refusal::not_found)?.file);
        Ok(Answer::empty(204))
    }

    /// The snapshot of a volume that was cut at this moment, as it was told.
    fn of_moment(&self, id: &str, timestamp: &str) -> Result<&Snapshot, Refusal> {
        let now = self.now();
        let mut own = self.snapshots.values().filter(|it| it.volume == id && it.seen <= now);
        own.find(|it| self.timestamp(it.cut) == timestamp)
            .ok_or_else(|| Refusal::wrong("Restore point is not a valid snapshot of this volume"))
    }

    pub(super) fn restore(&mut self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let attached = self.attachments_of(id).next().is_some();
        self.volume(id)?;
        let moment =
            asked.text(&["restore_point"]).ok_or_else(|| Refusal::wrong("Restore point can't be blank"))?;
        let from = self.of_moment(id, moment)?.file.clone();
        if attached {
            return Err(Refusal::wrong("Cannot restore a volume while it is attached"));
        }
        let size = self.volume(id)?.size;
        let file = self.copy(&from, size);
        let volume = self.volume_mut(id)?;
        let before = std::mem::replace(&mut volume.file, file.clone());
        let iqn = volume.iqn.clone();
        self.units.change(&iqn, |unit| unit.file = file);
        Self::forget_file(&before);
        Ok(Answer::json(200, &self.volume_json(id, &asked.shape())))
    }

    /// Makes a volume of another or of its snapshot. It comes with what was written on that one, too.
    pub(super) fn clone_volume(
        &mut self,
        id: &str,
        asked: &Asked,
        fault: Option<&Fault>,
    ) -> Result<Answer, Refusal> {
        let (from, size) = match asked.text(&["snapshot_timestamp"]) {
            Some(moment) => self.of_moment(id, moment).map(|it| (it.file.clone(), it.size))?,
            None => self.volume(id).map(|volume| (volume.file.clone(), volume.size))?,
        };
        let source = self.volume(id)?;
        if source.state(self.now()) != "active" {
            return Err(Refusal::wrong("Cannot clone a volume that is not active"));
        }
        let (description, customdata) = (source.description.clone(), source.customdata.clone());
        let (facility, plan, billing_cycle) = (source.facility, source.plan, source.billing_cycle.clone());
        let file = self.copy(&from, size);
        let copy = Volume {
            description,
            size,
            facility,
            plan,
            billing_cycle,
            customdata,
            file,
            ..self.blank(fault)
        };
        let new = self.add_volume(copy);
        Ok(Answer::json(201, &self.volume_json(&new, &asked.shape())))
    }

    pub(super) fn create_policy(&mut self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.volume(id)?;
        let wish = Wish::of(asked)?;
        if wish.frequency.is_none() {
            return Err(Refusal::wrong("Snapshot frequency can't be blank"));
        }
        let new = self.add_policy(id, wish);
        Ok(Answer::json(201, &self.policy_json(&new)))
    }

    pub(super) fn add_policy(&mut self, id: &str, wish: Wish) -> String {
        let now = self.now();
        let frequency = wish.frequency.unwrap_or("1day");
        let policy = Policy {
            volume: id.to_owned(),
            frequency,
            count: wish.count.unwrap_or(1),
            created: now,
            updated: now,
            next: now + period(frequency),
        };
        let new = self.id();
        self.policies.insert(new.clone(), policy);
        new
    }

    pub(super) fn update_policy(&mut self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let now = self.now();
        let wish = Wish::of(asked)?;
        let policy = self.policies.get_mut(id).ok_or_else(Refusal::not_found)?;
        policy.frequency = wish.frequency.unwrap_or(policy.frequency);
        policy.count = wish.count.unwrap_or(policy.count);
        policy.updated = now;
        policy.next = now + period(policy.frequency);
        Ok(Answer::json(200, &self.policy_json(id)))
    }

    /// Its snapshots stay.
    pub(super) fn delete_policy(&mut self, id: &str) -> Result<Answer, Refusal> {
        self.policies.remove(id).ok_or_else(Refusal::not_found)?;
        Ok(Answer::empty(204))
    }

    /// Lets policies cut whose time has come, and forget what is too much. What they missed while nobody looked counts for
    /// one cut.
    pub(super) fn settle_policies(&mut self, now: Moment) {
        let mut due = Vec::new();
        for (id, policy) in self.policies.iter_mut().filter(|(_, policy)| policy.next <= now) {
            policy.next = now + period(policy.frequency);
            due.push((id.clone(), policy.volume.clone(), policy.count));
        }
        for (policy, volume, count) in due {
            self.add_snapshot(&volume, Some(policy.clone()), now);
            let mut own: Vec<_> =
                self.snapshots.iter().filter(|(_, it)| it.policy.as_ref() == Some(&policy)).collect();
            own.sort_by_key(|(_, it)| std::cmp::Reverse(it.cut));
            let old: Vec<_> = own.into_iter().skip(usize::try_from(count).unwrap_or(usize::MAX)).collect();
            let old: Vec<_> = old.into_iter().map(|(id, _)| id.clone()).collect();
            for id in old {
                if let Some(snapshot) = self.snapshots.remove(&id) {
                    Self::forget_file(&snapshot.file);
                }
            }
        }
    }

    /// A moment as snapshots tell it: seconds since 1970 with up to nine decimals, without those at the end that are zero.
    pub(super) fn timestamp(&self, moment: Moment) -> String {
        let since = self.clock.since_1970(moment);
        let text = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// The bytes of a volume or a snapshot.
    pub(super) fn bytes_of(&self, id: &str) -> Option<std::path::PathBuf> {
        let of_volume = self.volumes.get(id).map(|volume| volume.file.clone());
        of_volume.or_else(|| self.snapshots.get(id).map(|snapshot| snapshot.file.clone()))
    }
}
