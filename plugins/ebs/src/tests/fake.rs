//! An EC2 in memory, as far as this backend asks it. It has what makes the real one hard: things that are made are not to
//! be seen for a while, client tokens stay bound to what is gone, everything takes its time by the clock of the test, and
//! some of it never ends. A test can let EC2 refuse a request, or cut the component off before or after any (`wire.rs`); the
//! blocks of its snapshots are `direct.rs`.

use std::{collections::BTreeMap, fmt::Write as _};

use super::direct::Direct;

pub(super) type Form = BTreeMap<String, String>;
pub(super) type Answer = Result<String, (u16, &'static str)>;

/// A volume.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) made: u64,
    pub(super) state: &'static str,
    pub(super) gib: u64,
    pub(super) kind: String,
    pub(super) iops: u64,
    pub(super) throughput: u64,
    pub(super) zone: String,
    snapshot: String,
    encrypted: bool,
    multi: bool,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) attachments: Vec<Attached>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) machine: String,
    pub(super) device: String,
    pub(super) state: &'static str,
    since: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) volume: String,
    pub(super) gib: u64,
    pub(super) made: u64,
    pub(super) state: &'static str,
    pub(super) description: String,
    pub(super) tags: BTreeMap<String, String>,
    /// Whether blocks are written to it, so that time does not complete it.
    pub(super) open: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) state: &'static str,
    since: u64,
    form: Form,
}

/// The region.
#[derive(Debug, Default)]
pub(super) struct Ec2 {
    pub(super) now: u64,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    /// The machines, and their states.
    pub(super) machines: BTreeMap<String, &'static str>,
    pub(super) changes: BTreeMap<String, Change>,
    pub(super) tokens: BTreeMap<String, (Form, String)>,
    pub(super) counter: u64,
    /// What was asked for, in order.
    pub(super) asked: Vec<String>,
    /// How long what is made is not to be seen.
    pub(super) unseen: u64,
    /// How long a volume is being made, attached or detached, and changed.
    pub(super) slow: u64,
    /// Device names on which attaching never ends.
    pub(super) stuck: Vec<String>,
    /// Whether detaching never ends, unless it is forced.
    pub(super) jammed: bool,
    /// Whether volumes and snapshots fail as they are made.
    pub(super) failing: bool,
    /// How many volumes there may be; zero for any number.
    pub(super) quota: usize,
    /// How many things are on a page; zero for all.
    pub(super) page: usize,
    /// What the next requests of an action are answered with.
    pub(super) refusals: Vec<(&'static str, u16, &'static str)>,
    pub(super) fast: Vec<(String, String)>,
    /// The blocks of the snapshots.
    pub(super) direct: Direct,
}

impl Ec2 {
    pub(super) fn id(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{kind}-{:08x}", self.counter)
    }

    /// Lets time do its work.
    pub(super) fn settle(&mut self) {
        let (now, slow) = (self.now, self.slow);
        for volume in self.volumes.values_mut() {
            if volume.state == "creating" && now >= volume.made + slow {
                volume.state = if self.failing { "error" } else { "available" };
            }
            for one in &mut volume.attachments {
                let over = now >= one.since + slow;
                if one.state == "attaching" && over && !self.stuck.contains(&one.device) {
                    one.state = "attached";
                }
                if one.state == "detaching" && over && !self.jammed {
                    one.state = "detached";
                }
            }
            volume.attachments.retain(|one| one.state != "detached");
            if matches!(volume.state, "available" | "in-use") {
                volume.state = if volume.attachments.is_empty() { "available" } else { "in-use" };
            }
        }
        for (id, change) in &mut self.changes {
            if change.state == "modifying" && now >= change.since + slow {
                change.state = "optimizing";
                if let Some(volume) = self.volumes.get_mut(id) {
                    let number = |name: &str| change.form.get(name).and_then(|text| text.parse().ok());
                    volume.gib = number("Size").unwrap_or(volume.gib);
                    volume.iops = number("Iops").unwrap_or(volume.iops);
                    volume.throughput = number("Throughput").unwrap_or(volume.throughput);
                    volume.kind =
                        change.form.get("VolumeType").cloned().unwrap_or_else(|| volume.kind.clone());
                }
            }
        }
        for snapshot in self.snapshots.values_mut() {
            if snapshot.state == "pending" && !snapshot.open && now >= snapshot.made + slow {
                snapshot.state = if self.failing { "error" } else { "completed" };
            }
        }
    }

    /// A copy of a snapshot that somebody else made, tags and all.
    pub(super) fn copy_snapshot(&mut self, id: &str, copy: &str, form: &[(&str, &str)]) {
        let mut snapshot = self.snapshots[id].clone();
        for (name, value) in form {
            match *name {
                "VolumeId" => snapshot.volume = (*value).to_owned(),
                _ => snapshot.description = (*value).to_owned(),
            }
        }
        self.snapshots.insert(copy.to_owned(), snapshot);
    }

    /// The same snapshot, cut again a little later.
    pub(super) fn twin(&mut self, id: &str) -> String {
        let mut snapshot = self.snapshots[id].clone();
        snapshot.made += 1;
        let twin = self.id("snap");
        self.snapshots.insert(twin.clone(), snapshot);
        twin
    }

    pub(super) fn answer(&mut self, form: &Form) -> Answer {
        self.settle();
        let action = form["Action"].as_str();
        let refused = self.refusals.iter().position(|refusal| refusal.0 == action);
        if let Some(at) = refused {
            let (_, status, code) = self.refusals.remove(at);
            return Err((status, code));
        }
        match action {
            "CreateVolume" => self.create(form),
            "DeleteVolume" => self.delete(form),
            "DescribeVolumes" => self.describe_volumes(form),
            "DescribeVolumeStatus" => self.describe_status(form),
            "CreateTags" => {
                let tags = tags(form, "Tag");
                let volume =
                    self.volumes.get_mut(&form["ResourceId.1"]).ok_or((400, "InvalidVolume.NotFound"))?;
                volume.tags.extend(tags);
                Ok(String::new())
            }
            "AttachVolume" => self.attach(form),
            "DetachVolume" => self.detach(form),
            "ModifyVolume" => self.modify(form),
            "DescribeVolumesModifications" => {
                let ids = values(form, "volume-id").unwrap_or_default();
                let items = self.changes.iter().filter(|(id, _)| ids.contains(id));
                Ok(list("volumeModificationSet", items.map(|(id, change)| spell_change(id, change))))
            }
            "DescribeInstances" => self.describe_instances(form),
            "CreateSnapshot" => self.cut(form),
            "DeleteSnapshot" => {
                self.snapshots.remove(&form["SnapshotId"]).ok_or((400, "InvalidSnapshot.NotFound"))?;
                Ok(String::new())
            }
            "DescribeSnapshots" => self.describe_snapshots(form),
            "EnableFastSnapshotRestores" => {
                self.fast.push((form["SourceSnapshotId.1"].clone(), form["AvailabilityZone.1"].clone()));
                Ok(String::new())
            }
            _ => Err((400, "InvalidAction")),
        }
    }

    fn create(&mut self, form: &Form) -> Answer {
        if self.quota > 0
            && self.volumes.values().filter(|volume| volume.state != "deleted").count() >= self.quota
        {
            return Err((400, "VolumeLimitExceeded"));
        }
        let token = form["ClientToken"].clone();
        if let Some((known, id)) = self.tokens.get(&token) {
            return if known == form {
                Ok(spell_volume(id, &self.volumes[id]))
            } else {
                Err((400, "IdempotentParameterMismatch"))
            };
        }
        let id = self.id("vol");
        let text = |name: &str| form.get(name).cloned().unwrap_or_default();
        let number = |name: &str, default| form.get(name).map_or(default, |text| text.parse().unwrap());
        let flag = |name: &str| form.get(name).is_some_and(|text| text == "true");
        let volume = Volume {
            made: self.now,
            state: "creating",
            gib: form["Size"].parse().unwrap(),
            kind: text("VolumeType"),
            iops: number("Iops", 3_000),
            throughput: number("Throughput", 125),
            zone: text("AvailabilityZone"),
            snapshot: text("SnapshotId"),
            encrypted: flag("Encrypted"),
            multi: flag("MultiAttachEnabled"),
            tags: tags(form, "TagSpecification.1.Tag"),
            attachments: Vec::new(),
        };
        let answer = spell_volume(&id, &volume);
        self.volumes.insert(id.clone(), volume);
        self.tokens.insert(token, (form.clone(), id));
        Ok(answer)
    }

    fn delete(&mut self, form: &Form) -> Answer {
        let volume = self.volumes.get_mut(&form["VolumeId"]).ok_or((400, "InvalidVolume.NotFound"))?;
        match volume.state {
            "deleted" => Err((400, "InvalidVolume.NotFound")),
            "in-use" => Err((400, "VolumeInUse")),
            "creating" => Err((400, "IncorrectState")),
            _ => {
                volume.state = "deleted";
                Ok("<return>true</return>".into())
            }
        }
    }

    fn describe_volumes(&mut self, form: &Form) -> Answer {
        let ids = values(form, "volume-id");
        let tokens = values(form, "tag:kato-token");
        let any = form.get("Filter.1.Name").is_some_and(|name| name == "tag-key");
        assert!(
            any || ids.as_ref().or(tokens.as_ref()).is_some_and(|values| values.len() <= 200),
            "{form:?}"
        );
        let found: Vec<_> = self
            .volumes
            .iter()
            .filter(|(_, volume)| volume.state != "deleted" && volume.made + self.unseen <= self.now)
            .filter(|(id, volume)| {
                let token = volume.tags.get("kato-token");
                ids.as_ref().is_none_or(|ids| ids.contains(id))
                    && tokens.as_ref().is_none_or(|tokens| token.is_some_and(|token| tokens.contains(token)))
                    && (!any || token.is_some())
            })
            .map(|(id, volume)| spell_volume(id, volume))
            .collect();
        Ok(self.paged("volumeSet", &found, form))
    }

    fn paged(&self, name: &str, found: &[String], form: &Form) -> String {
        let from: usize =
            form.get("NextToken").map_or(0, |token| token.trim_start_matches("page/").parse().unwrap());
        let most = if self.page == 0 { usize::MAX } else { self.page };
        let page: Vec<_> = found.iter().skip(from).take(most).cloned().collect();
        let more = found.len() > from.saturating_add(most);
        let next = if more { format!("<nextToken>page/{}</nextToken>", from + most) } else { String::new() };
        format!("{}{next}", list(name, page.into_iter()))
    }

    fn describe_status(&mut self, form: &Form) -> Answer {
        let ids: Vec<_> = (1..).map_while(|number| form.get(&format!("VolumeId.{number}"))).collect();
        if ids.iter().any(|id| self.volumes.get(*id).is_none_or(|volume| volume.state == "deleted")) {
            return Err((400, "InvalidVolume.NotFound"));
        }
        Ok(list(
            "volumeStatusSet",
            ids.iter().map(|id| {
                let status = if self.volumes[*id].tags.contains_key("ill") { "impaired" } else { "ok" };
                format!("<volumeId>{id}</volumeId><volumeStatus><status>{status}</status></volumeStatus>")
            }),
        ))
    }

    fn attach(&mut self, form: &Form) -> Answer {
        let (machine, device, id) = (&form["InstanceId"], &form["Device"], &form["VolumeId"]);
        if !self.machines.contains_key(machine) {
            return Err((400, "InvalidInstanceID.NotFound"));
        }
        let mut names = self.volumes.values().flat_map(|volume| &volume.attachments);
        if names.any(|one| one.machine == *machine && one.device == *device) {
            return Err((400, "InvalidParameterValue"));
        }
        let now = self.now;
        let volume = self.volumes.get_mut(id).ok_or((400, "InvalidVolume.NotFound"))?;
        match volume.state {
            "available" => {}
            "in-use" if volume.multi && volume.attachments.iter().all(|one| one.machine != *machine) => {}
            "in-use" => return Err((400, "VolumeInUse")),
            "deleted" => return Err((400, "InvalidVolume.NotFound")),
            _ => return Err((400, "IncorrectState")),
        }
        let one =
            Attached { machine: machine.clone(), device: device.clone(), state: "attaching", since: now };
        let answer = spell_attachment(&one);
        volume.attachments.push(one);
        Ok(answer)
    }

    fn detach(&mut self, form: &Form) -> Answer {
        let (now, stopped) = (self.now, self.machines.get(&form["InstanceId"]) == Some(&"stopped"));
        let volume = self.volumes.get_mut(&form["VolumeId"]).ok_or((400, "InvalidVolume.NotFound"))?;
        let force = form.contains_key("Force");
        assert!(!force || stopped, "a detachment was forced on a machine that runs");
        let one = volume.attachments.iter_mut().find(|one| one.machine == form["InstanceId"]);
        let one = one.ok_or((400, "IncorrectState"))?;
        if force {
            one.state = "detached";
        } else if one.state == "detaching" {
            return Err((400, "IncorrectState"));
        } else {
            one.state = "detaching";
            one.since = now;
        }
        Ok(spell_attachment(one))
    }

    fn modify(&mut self, form: &Form) -> Answer {
        let id = form["VolumeId"].clone();
        if let Some(change) = self.changes.get(&id).filter(|change| change.state != "failed") {
            return Err((
                400,
                if change.state == "completed" {
                    "VolumeModificationRateExceeded"
                } else {
                    "IncorrectModificationState"
                },
            ));
        }
        let volume = &self.volumes[&id];
        let size = form.get("Size").map_or(volume.gib, |size| size.parse().unwrap());
        assert!(size >= volume.gib, "a volume was to be shrunk");
        let mut form = form.clone();
        for (name, value) in [
            ("Size", volume.gib.to_string()),
            ("VolumeType", volume.kind.clone()),
            ("Iops", volume.iops.to_string()),
            ("Throughput", volume.throughput.to_string()),
        ] {
            form.entry(name.to_owned()).or_insert(value);
        }
        let change = Change { state: "modifying", since: self.now, form };
        let answer = format!("<volumeModification>{}</volumeModification>", spell_change(&id, &change));
        self.changes.insert(id, change);
        Ok(answer)
    }

    fn describe_instances(&mut self, form: &Form) -> Answer {
        let ids = values(form, "instance-id");
        let found = self.machines.iter().filter(|(id, _)| ids.as_ref().is_none_or(|ids| ids.contains(id)));
        Ok(list(
            "reservationSet",
            found.map(|(id, state)| {
                let mut devices = vec![("/dev/xvda".to_owned(), "vol-ffffffff".to_owned())];
                for (volume, one) in
                    self.volumes.iter().flat_map(|(id, one)| one.attachments.iter().map(move |a| (id, a)))
                {
                    if one.machine == *id {
                        devices.push((one.device.clone(), volume.clone()));
                    }
                }
                let devices = devices.iter().map(|(device, volume)| {
                    format!("<deviceName>{device}</deviceName><ebs><volumeId>{volume}</volumeId></ebs>")
                });
                let machine = format!(
                    "<instanceId>{id}</instanceId><instanceState><name>{state}</name></instanceState>{}",
                    list("blockDeviceMapping", devices)
                );
                format!("<ownerId>123456789012</ownerId>{}", list("instancesSet", std::iter::once(machine)))
            }),
        ))
    }

    fn cut(&mut self, form: &Form) -> Answer {
        let id = self.id("snap");
        let volume = self.volumes.get(&form["VolumeId"]).ok_or((400, "InvalidVolume.NotFound"))?;
        let snapshot = Snapshot {
            volume: form["VolumeId"].clone(),
            gib: volume.gib,
            made: self.now,
            state: "pending",
            description: form["Description"].clone(),
            tags: tags(form, "TagSpecification.1.Tag"),
            open: false,
        };
        let answer = spell_snapshot(&id, &snapshot);
        self.snapshots.insert(id, snapshot);
        Ok(answer)
    }

    fn describe_snapshots(&mut self, form: &Form) -> Answer {
        assert_eq!(form["Owner.1"], "self");
        let (ids, tokens) = (values(form, "snapshot-id"), values(form, "tag:kato-token"));
        let found: Vec<_> = self
            .snapshots
            .iter()
            .filter(|(id, snapshot)| {
                let token = snapshot.tags.get("kato-token");
                snapshot.made + self.unseen <= self.now
                    && ids.as_ref().is_none_or(|ids| ids.contains(id))
                    && tokens.as_ref().is_none_or(|tokens| token.is_some_and(|token| tokens.contains(token)))
            })
            .map(|(id, snapshot)| spell_snapshot(id, snapshot))
            .collect();
        Ok(self.paged("snapshotSet", &found, form))
    }
}

fn values(form: &Form, filter: &str) -> Option<Vec<String>> {
    (form.get("Filter.1.Name")? == filter)
        .then(|| (1..).map_while(|number| form.get(&format!("Filter.1.Value.{number}")).cloned()).collect())
}

fn tags(form: &Form, prefix: &str) -> BTreeMap<String, String> {
    let key = |number: u32| Some(form.get(&format!("{prefix}.{number}.Key"))?.clone());
    (1..)
        .map_while(|number| Some((key(number)?, form[&format!("{prefix}.{number}.Value")].clone())))
        .collect()
}

fn list(name: &str, items: impl Iterator<Item = String>) -> String {
    let items: String = items.map(|item| format!("<item>{item}</item>")).collect();
    format!("<{name}>{items}</{name}>")
}

fn spell_tags(tags: &BTreeMap<String, String>) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    list(
        "tagSet",
        tags.iter().map(|(key, value)| format!("<key>{key}</key><value>{}</value>", escaped(value))),
    )
}

fn date(ms: u64) -> String {
    format!(
        "1970-01-01T{:02}:{:02}:{:02}.{:03}Z",
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1000 % 60,
        ms % 1000
    )
}

fn spell_attachment(one: &Attached) -> String {
    let Attached { machine, device, state, .. } = one;
    format!("<instanceId>{machine}</instanceId><device>{device}</device><status>{state}</status>")
}

fn spell_volume(id: &str, volume: &Volume) -> String {
    let Volume { state, gib, kind, iops, throughput, zone, snapshot, encrypted, multi, .. } = volume;
    format!(
        "<volumeId>{id}</volumeId><size>{gib}</size><snapshotId>{snapshot}</snapshotId><availabilityZone>{zone}\
         </availabilityZone><status>{state}</status><createTime>{}</createTime>{}{}<volumeType>{kind}</volumeType>\
         <iops>{iops}</iops><throughput>{throughput}</throughput><encrypted>{encrypted}</encrypted>\
         <multiAttachEnabled>{multi}</multiAttachEnabled>",
        date(volume.made),
        list("attachmentSet", volume.attachments.iter().map(spell_attachment)),
        spell_tags(&volume.tags),
    )
}

fn spell_change(id: &str, change: &Change) -> String {
    let Change { state, form, .. } = change;
    let mut text = format!("<volumeId>{id}</volumeId><modificationState>{state}</modificationState>");
    for (name, tag) in [
        ("Size", "targetSize"),
        ("VolumeType", "targetVolumeType"),
        ("Iops", "targetIops"),
        ("Throughput", "targetThroughput"),
    ] {
        write!(text, "<{tag}>{}</{tag}>", form[name]).unwrap();
    }
    text
}

fn spell_snapshot(id: &str, snapshot: &Snapshot) -> String {
    format!(
        "<snapshotId>{id}</snapshotId><volumeId>{}</volumeId><status>{}</status><statusMessage>{}</statusMessage><startTime>\
         {}</startTime><ownerId>123456789012</ownerId><volumeSize>{}</volumeSize><description>{}</description>{}",
        snapshot.volume,
        snapshot.state,
        if snapshot.state == "error" { "it timed out" } else { "" },
        date(snapshot.made),
        snapshot.gib,
        snapshot.description,
        spell_tags(&snapshot.tags),
    )
}
