//! A cluster in memory: what `rbd`, `rados` and `ceph` do to images, snapshots, the trash, locks and metadata, with the
//! numbers that they exit with. It was written beside a cluster with Ceph 16.2.15.

use std::collections::{BTreeMap, BTreeSet};

use kato_plugin_sdk::{
    commands::Output,
    testing::{Holes, Program},
    types::Error,
};
use serde_json::{Value, json};

use crate::clock;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snap {
    pub(super) name: String,
    original: String,
    size: u64,
    pub(super) deleted: bool,
    children: BTreeSet<String>,
    serial: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) features: String,
    pub(super) data_pool: Option<String>,
    pub(super) meta: BTreeMap<String, String>,
    pub(super) snaps: Vec<Snap>,
    /// The parent's id and the snapshot's serial number.
    pub(super) parent: Option<(String, u64)>,
    /// Until when it is to be kept; empty when that is over.
    pub(super) trash: Option<String>,
    /// Only its name is there.
    pub(super) half: bool,
    pub(super) touched: bool,
    /// Locker and cookie.
    pub(super) claims: Vec<(String, String)>,
    pub(super) shared: bool,
    pub(super) watchers: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Ceph {
    /// By id.
    pub(super) images: BTreeMap<String, Image>,
    /// Objects with locks on them whose image is not there.
    pub(super) strays: BTreeSet<String>,
    pub(super) blocked: Vec<String>,
    /// Those whose entries somebody made, for an hour.
    pub(super) short: Vec<String>,
    pub(super) mgr: Vec<String>,
    pub(super) mgr_may_be_asked: bool,
    pub(super) tasks: Vec<String>,
    /// Whether the file with the key is there.
    pub(super) key: bool,
    /// Commands that end with this number whatever they are for.
    pub(super) broken: BTreeMap<&'static str, i32>,
    pub(super) quota: u64,
    next: u64,
}

impl Default for Ceph {
    fn default() -> Self {
        Self {
            images: BTreeMap::new(),
            strays: BTreeSet::new(),
            blocked: Vec::new(),
            short: Vec::new(),
            mgr: vec!["127.0.0.1:0/99".into()],
            mgr_may_be_asked: true,
            tasks: Vec::new(),
            key: true,
            broken: BTreeMap::new(),
            quota: 0,
            next: 4096,
        }
    }
}

type Answer = Result<String, i32>;

impl Ceph {
    pub(super) fn id(&self, name: &str) -> Option<String> {
        let found = self.images.iter().find(|(_, image)| image.trash.is_none() && image.name == name);
        found.map(|(id, _)| id.clone())
    }

    pub(super) fn image(&mut self, name: &str) -> &mut Image {
        let id = self.id(name).unwrap_or_else(|| panic!("no image {name}"));
        self.images.get_mut(&id).unwrap()
    }

    /// Everything that is there, without ids and other numbers that differ from run to run.
    pub(super) fn state(&self) -> Vec<String> {
        let mut state: Vec<_> = self
            .images
            .iter()
            .map(|(id, image)| {
                let named = |id: &String| self.images.get(id).map_or("?", |image| image.name.as_str());
                let snaps: Vec<_> =
                    image.snaps.iter().map(|snap| (&snap.original, snap.size, snap.deleted)).collect();
                let (Image { size, features, meta, trash, half, claims, .. }, parent) =
                    (image, &image.parent);
                let name = image.name.replace(id, "ID");
                let parent = parent.as_ref().map(|(id, _)| named(id).replace(id, "ID"));
                let claims: Vec<_> = claims.iter().map(|(_, cookie)| cookie).collect();
                format!("{name} {size} {features} {meta:?} {snaps:?} {parent:?} {trash:?} {half} {claims:?}")
            })
            .collect();
        state.sort_unstable();
        state.extend(self.strays.iter().map(|name| format!("stray {name}")));
        state
    }

    /// The mgr flattens what it was asked to.
    pub(super) fn flatten(&mut self) {
        for name in std::mem::take(&mut self.tasks) {
            let id = self.id(&name).unwrap();
            self.orphan(&id);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn open(&self, name: &str) -> Result<(String, &Image), i32> {
        let id = self.id(name).ok_or(2)?;
        let image = self.images.get(&id).filter(|image| !image.half).ok_or(2)?;
        Ok((id, image))
    }

    fn opened(&mut self, name: &str) -> Result<&mut Image, i32> {
        let (id, _) = self.open(name)?;
        self.images.get_mut(&id).ok_or(2)
    }

    /// Takes a child off its parent; a deleted snapshot goes with the last.
    fn orphan(&mut self, child: &str) {
        let Some((parent, serial)) = self.images.get_mut(child).and_then(|image| image.parent.take()) else {
            return;
        };
        if let Some(parent) = self.images.get_mut(&parent) {
            for snap in &mut parent.snaps {
                if snap.serial == serial {
                    snap.children.remove(child);
                }
            }
            parent.snaps.retain(|snap| !(snap.deleted && snap.children.is_empty()));
        }
    }

    fn drop_image(&mut self, id: &str) -> Answer {
        let image = self.images.get(id).ok_or(2)?;
        if !image.watchers.is_empty() {
            return Err(16);
        }
        if !image.snaps.is_empty() {
            return Err(39);
        }
        self.orphan(id);
        self.images.remove(id);
        Ok(String::new())
    }

    fn create(&mut self, holes: &Holes, parent: Option<(String, u64)>, size: u64) -> Result<String, i32> {
        let name = &holes["image"];
        if self.id(name).is_some() {
            return Err(17);
        }
        self.strays.remove(name);
        let id = format!("{:x}", self.number());
        let image = Image {
            name: name.clone(),
            size,
            features: holes["features"].clone(),
            data_pool: holes.get("data-pool").cloned(),
            parent,
            ..Image::default()
        };
        self.images.insert(id.clone(), image);
        Ok(id)
    }

    fn clone_image(&mut self, holes: &Holes, whole: bool) -> Answer {
        let (source, image) = self.open(&holes["source"])?;
        let snap =
            image.snaps.iter().find(|snap| !snap.deleted && snap.name == holes["snapshot"]).ok_or(2)?;
        let (serial, size, meta) = (snap.serial, snap.size, image.meta.clone());
        let id = self.create(holes, Some((source.clone(), serial)), size)?;
        if whole {
            self.images.get_mut(&id).unwrap().meta = meta;
            let snaps = &mut self.images.get_mut(&source).unwrap().snaps;
            snaps.iter_mut().find(|snap| snap.serial == serial).unwrap().children.insert(id);
        }
        Ok(String::new())
    }

    fn info(&self, id: &str) -> Answer {
        let image = self.images.get(id).filter(|image| !image.half).ok_or(2)?;
        let mut value = json!({
            "name": image.name, "id": id, "size": image.size, "objects": image.size >> 22, "format": 2,
            "snapshot_count": image.snaps.len(), "features": image.features.split(',').collect::<Vec<_>>(),
            "create_timestamp": "Thu Nov 26 10:41:10 2026",
            "modify_timestamp": if image.touched { "Thu Nov 26 11:41:10 2026" } else { "Thu Nov 26 10:41:10 2026" },
        });
        if let Some(pool) = &image.data_pool {
            value["data_pool"] = json!(pool);
        }
        if let Some((parent, serial)) = &image.parent {
            let above = &self.images[parent];
            let snap = above.snaps.iter().find(|snap| snap.serial == *serial).unwrap();
            value["parent"] = json!({
                "pool": "kato", "pool_namespace": "", "image": above.name, "id": parent, "snapshot": snap.name,
                "trash": above.trash.is_some(), "overlap": snap.size,
            });
        }
        Ok(value.to_string())
    }

    fn snap_list(&self, id: &str) -> Answer {
        let image = self.images.get(id).filter(|image| !image.half).ok_or(2)?;
        let told = |snap: &Snap| {
            let kind = if snap.deleted { "trash" } else { "user" };
            json!({"id": snap.serial, "name": snap.name, "size": snap.size, "namespace": {"type": kind}})
        };
        Ok(Value::Array(image.snaps.iter().map(told).collect()).to_string())
    }

    fn everything(&self) -> String {
        let mut all = Vec::new();
        for (id, image) in self.images.iter().filter(|(_, image)| image.trash.is_none() && !image.half) {
            all.push(json!({"image": image.name, "id": id, "size": image.size, "format": 2}));
            for snap in image.snaps.iter().filter(|snap| !snap.deleted) {
                all.push(json!({"image": image.name, "id": id, "snapshot": snap.name, "size": snap.size}));
            }
        }
        Value::Array(all).to_string()
    }

    fn dump(&self, id: &str) -> Answer {
        let image = self.images.get(id).filter(|image| !image.half).ok_or(2)?;
        let mut dump =
            "size\nvalue (8 bytes) :\n00000000  00 00 40 00 00 00 00 00   |..@.....|\n00000008\n\n"
                .to_owned();
        for (key, value) in &image.meta {
            dump.push_str(&format!("metadata_{key}\nvalue ({} bytes) :\n", value.len()));
            for (row, bytes) in value.as_bytes().chunks(16).enumerate() {
                let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let text = String::from_utf8_lossy(bytes);
                dump.push_str(&format!("{:08x}  {:<49} |{text}|\n", row * 16, hex.join(" ")));
            }
            dump.push_str(&format!("{:08x}\n\n", value.len()));
        }
        Ok(dump)
    }

    fn snap_remove(&mut self, id: &str, name: &str) -> Answer {
        let serial = self.number();
        let snaps = &mut self.images.get_mut(id).filter(|image| !image.half).ok_or(2)?.snaps;
        let at = snaps.iter().position(|snap| !snap.deleted && snap.name == name).ok_or(2)?;
        if snaps[at].children.is_empty() {
            snaps.remove(at);
        } else {
            snaps[at].deleted = true;
            snaps[at].name = format!("f5d06962-{serial}");
        }
        Ok(String::new())
    }

    fn lock(&mut self, holes: &Holes) -> Answer {
        let locker = format!("client.{}", self.number());
        let (name, shared) = (&holes["image"], holes["type"] == "shared");
        let Some(id) = self.id(name) else {
            self.strays.insert(name.clone());
            return Ok(String::new());
        };
        let image = self.images.get_mut(&id).unwrap();
        let free = image.claims.is_empty() || (shared && image.shared);
        if !free {
            return Err(16);
        }
        image.shared = shared;
        image.claims.push((locker, holes["node"].clone()));
        Ok(String::new())
    }

    fn locks(&self, name: &str) -> Answer {
        let image = self.id(name).map(|id| &self.images[&id]);
        if image.is_none() && !self.strays.contains(name) {
            return Err(2);
        }
        let claims = image.map(|image| image.claims.clone()).unwrap_or_default();
        let kind = match image {
            Some(image) if !claims.is_empty() => {
                if image.shared {
                    "shared"
                } else {
                    "exclusive"
                }
            }
            _ => "none",
        };
        let lockers: Vec<_> =
            claims.iter().map(|(name, cookie)| json!({"name": name, "cookie": cookie})).collect();
        Ok(json!({"name": "kato", "type": kind, "tag": "", "lockers": lockers}).to_string())
    }

    fn write(&mut self, holes: &Holes, key: String, value: String) -> Answer {
        self.opened(&holes["image"])?.meta.insert(key, value);
        Ok(String::new())
    }

    fn answer(&mut self, name: &str, holes: &Holes) -> Answer {
        let hole = |name: &str| holes.get(name).cloned().unwrap_or_default();
        match name {
            "rbd-create" | "rbd-create-in" => {
                let size = holes["size"].parse().unwrap();
                self.create(holes, None, size).map(|_| String::new())
            }
            "rbd-clone" | "rbd-clone-in" => self.clone_image(holes, true),
            "rbd-diff" | "rbd-diff-since" => {
                let (_, image) = self.open(&hole("image"))?;
                let cut =
                    |name: &str| image.snaps.iter().find(|snap| !snap.deleted && snap.name == name).ok_or(2);
                let (snap, base) =
                    (cut(&hole("snapshot"))?, holes.get("base").map(|base| cut(base)).transpose()?);
                // Each object of one that was written is there; between two moments the first of them was let go.
                let objects = (0..snap.size >> 22).filter(|_| image.touched).map(|object| {
                    let exists = if base.is_some() && object == 0 { "false" } else { "true" };
                    json!({"offset": object << 22, "length": 1 << 22, "exists": exists})
                });
                Ok(Value::Array(objects.collect()).to_string())
            }
            "rbd-info" => {
                let (id, _) = self.open(&hole("image"))?;
                self.info(&id)
            }
            "rbd-info-by-id" => self.info(&hole("id")),
            "rbd-list" => {
                let there = self.images.values().filter(|image| image.trash.is_none() && !image.half);
                Ok(json!(there.map(|image| &image.name).collect::<Vec<_>>()).to_string())
            }
            "rbd-list-all" => Ok(self.everything()),
            "rbd-mark" => self.write(holes, "kato.mark".into(), hole("mark")),
            "rbd-note" => self.write(holes, "kato.trash-days".into(), hole("days")),
            "rbd-mark-snapshot" => {
                let key = format!("kato.snapshot.{}", hole("snapshot"));
                self.write(holes, key, hole("mark"))
            }
            "rbd-unmark-snapshot" => {
                let key = format!("kato.snapshot.{}", hole("snapshot"));
                self.opened(&hole("image"))?.meta.remove(&key).map(|_| String::new()).ok_or(2)
            }
            "rbd-marks" => {
                let meta = &self.open(&hole("image"))?.1.meta;
                Ok(if meta.is_empty() { String::new() } else { json!(meta).to_string() })
            }
            "rbd-marks-by-id" => self.dump(&hole("id")),
            "rbd-resize" => {
                let size = hole("size").parse().unwrap();
                let image = self.opened(&hole("image"))?;
                if size <= image.size {
                    return Err(22);
                }
                image.size = size;
                Ok(String::new())
            }
            "rbd-remove" => {
                let name = hole("image");
                self.strays.remove(&name);
                let id = self.id(&name).ok_or(2)?;
                if self.images[&id].half {
                    self.images.remove(&id);
                    return Err(2);
                }
                self.drop_image(&id)
            }
            "rbd-status" => {
                let watchers = &self.open(&hole("image"))?.1.watchers;
                let told: Vec<_> =
                    watchers.iter().map(|address| json!({"address": address, "client": 1})).collect();
                Ok(json!({"watchers": told}).to_string())
            }
            "rbd-snapshot" => {
                let (serial, name) = (self.number(), hole("snapshot"));
                let image = self.opened(&hole("image"))?;
                if image.snaps.iter().any(|snap| snap.name == name) {
                    return Err(17);
                }
                let (original, size) = (name.clone(), image.size);
                image.snaps.push(Snap { name, original, size, serial, ..Snap::default() });
                Ok(String::new())
            }
            "rbd-snapshots-by-id" => self.snap_list(&hole("id")),
            "rbd-remove-snapshot" => self.snap_remove(&hole("id"), &hole("snapshot")),
            "rbd-trash" | "rbd-trash-until" => {
                self.opened(&hole("image"))?.trash = Some(hole("date"));
                Ok(String::new())
            }
            "rbd-trash-list" => {
                let there = self.images.iter().filter_map(|(id, image)| {
                    let status = match image.trash.as_deref()? {
                        "" => "expired at Thu Nov 26 10:41:11 2026".to_owned(),
                        date => format!("protected until {date}"),
                    };
                    Some(json!({"id": id, "name": image.name, "source": "USER", "status": status}))
                });
                Ok(Value::Array(there.collect()).to_string())
            }
            "rbd-purge" => {
                let id = hole("id");
                self.images.get(&id).filter(|image| image.trash.is_some()).ok_or(2)?;
                self.drop_image(&id)
            }
            "rbd-restore" => {
                if self.images.get(&hole("id")).is_none_or(|image| image.trash.is_none()) {
                    return Err(2);
                }
                if self.id(&hole("image")).is_some() {
                    return Err(17);
                }
                let image = self.images.get_mut(&hole("id")).unwrap();
                (image.trash, image.name) = (None, hole("image"));
                Ok(String::new())
            }
            "rbd-claim" => self.lock(holes),
            "rbd-claims" => self.locks(&hole("image")),
            "rbd-unclaim" => {
                let claim = (hole("locker"), hole("node"));
                let id = self.id(&hole("image")).ok_or(2)?;
                let claims = &mut self.images.get_mut(&id).unwrap().claims;
                let at = claims.iter().position(|one| *one == claim).ok_or(2)?;
                claims.remove(at);
                Ok(String::new())
            }
            "ceph-map" => {
                let pool = |name: &str, id: u64| json!({"pool_name": name, "pool": id});
                let fsid = "bcd776c0-dfea-45af-9ac8-b004cb8137a2";
                Ok(json!({"fsid": fsid, "pools": [pool("kato", 2), pool("ec", 3)]}).to_string())
            }
            "ceph-df" => {
                let pool = |name: &str, id: u64| {
                    let stats = json!({"stored": 1000, "max_avail": 1_u64 << 40, "quota_bytes": self.quota});
                    json!({"name": name, "id": id, "stats": stats})
                };
                Ok(format!("\n{}", json!({"pools": [pool("kato", 2), pool("ec", 3)]})))
            }
            "ceph-mgr" if !self.mgr_may_be_asked => Err(13),
            "ceph-mgr" => {
                let own = self.mgr.iter().map(|client| {
                    let (address, nonce) = client.split_once('/').unwrap();
                    json!({"type": "v2", "addr": address, "nonce": nonce.parse::<u64>().unwrap()})
                });
                Ok(json!({"active_clients": [{"name": "rbd_support", "addrvec": own.collect::<Vec<_>>()}]})
                    .to_string())
            }
            "ceph-blocklist" => {
                let client = hole("client");
                for image in self.images.values_mut() {
                    image.watchers.retain(|watcher| *watcher != client);
                }
                self.blocked.push(client);
                Ok(String::new())
            }
            "ceph-blocklisted" => {
                let entry = |client: &String| {
                    let days = if self.short.contains(client) { 0 } else { 3_650 };
                    json!({"addr": client, "until": clock::date(clock::now(), days)})
                };
                Ok(format!("{}\n[]", json!(self.blocked.iter().map(entry).collect::<Vec<_>>())))
            }
            "ceph-flatten" => {
                let (name, (_, image)) = (hole("image"), self.open(&hole("image"))?);
                image.parent.as_ref().ok_or(2)?;
                if !self.tasks.contains(&name) {
                    self.tasks.push(name);
                }
                Ok(String::new())
            }
            other => panic!("no command line is called {other}"),
        }
    }
}

impl Program for Ceph {
    fn run(&mut self, name: &str, holes: &Holes) -> Result<Output, Error> {
        for (hole, value) in holes {
            let word = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let free = matches!(hole.as_str(), "mark" | "client" | "features");
            assert!(free || (word && !value.starts_with(['-', '.', '_'])), "{name}: {hole} is {value:?}");
            assert!(
                !value.is_empty() && value.len() <= 256 && !value.starts_with([' ', '-']),
                "{name}: {hole}"
            );
        }
        let answer = match self.broken.get(name) {
            Some(errno) => Err(*errno),
            None if !self.key && name.starts_with("rbd-") => Err(2),
            None => self.answer(name, holes),
        };
        let rados = matches!(name, "rbd-claim" | "rbd-claims" | "rbd-unclaim" | "rbd-marks-by-id");
        Ok(match answer {
            Ok(stdout) => Output { status: 0, stdout, stderr: String::new() },
            Err(errno) => Output {
                status: if rados { 1 } else { errno },
                stdout: String::new(),
                stderr: format!("rbd: it failed: ({errno}) so\nerror {errno}: ({errno}) so\n"),
            },
        })
    }

    fn half(&mut self, name: &str, holes: &Holes) {
        match name {
            "rbd-create" => {
                if let Ok(id) = self.create(holes, None, 0) {
                    self.images.get_mut(&id).unwrap().half = true;
                }
            }
            "rbd-clone" => drop(self.clone_image(holes, false)),
            "rbd-remove" | "rbd-purge" => {
                let id = holes.get("id").cloned().or_else(|| self.id(&holes["image"]));
                let Some(id) =
                    id.filter(|id| self.images.get(id).is_some_and(|image| image.snaps.is_empty()))
                else {
                    return;
                };
                if name == "rbd-remove" && self.images[&id].watchers.is_empty() {
                    self.orphan(&id);
                    self.images.get_mut(&id).unwrap().half = true;
                }
            }
            _ => {}
        }
    }
}
