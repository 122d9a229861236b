//! The API in memory, as far as this backend asks it, and the way there. It has what makes the real one hard: it makes
//! another volume for each request that it hears, lets a second machine in, clones with whatever is written on the source,
//! cuts snapshots without saying which, and everything takes its time by the clock of the test. A test can let it refuse a
//! request, put a proxy before it, or cut the component off before or after any.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use kato_plugin_sdk::{
    http::{Request, Response, Transport},
    testing::Cut,
    types::Error,
};
use serde_json::{Value, json};

pub(super) const PROJECT: &str = "0b6b0c44-2222-4333-8444-aabbccddeeff";
pub(super) const BASE: &str = "http://api.test/metal/v1";
const PLANS: [(&str, &str); 2] = [("storage_1", "87728148"), ("storage_2", "d6570cfb")];
const FACILITIES: [(&str, &str); 2] = [("tst1", "77c1d3e0"), ("tst2", "88d2e4f1")];

/// A volume.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) made: u64,
    pub(super) gib: u64,
    pub(super) plan: usize,
    pub(super) facility: usize,
    pub(super) cycle: String,
    pub(super) description: String,
    pub(super) customdata: Value,
    pub(super) locked: bool,
    /// Their ids and machines.
    pub(super) attachments: Vec<(String, String)>,
    /// Their ids, frequencies and counts.
    pub(super) policies: Vec<(String, String, u64)>,
    /// Their ids and moments.
    pub(super) snapshots: Vec<(String, String)>,
    /// What it was cloned from, and the moment of that.
    pub(super) source: Option<(String, String)>,
}

/// What the next requests of a method and a part of a path meet.
pub(super) type Meeting = (&'static str, &'static str, Meet);

/// What another does right after a request of a method and a part of a path.
type Behind = (&'static str, &'static str, fn(&mut Api));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meet {
    /// A refusal of the API's own.
    Refused(u16, &'static str),
    /// Something before it that answers with a page.
    Page(u16),
    /// It is answered as lost, and done so much later.
    Late(u64),
}

/// The cloud.
#[derive(Debug, Default)]
pub(super) struct Api {
    pub(super) now: u64,
    pub(super) disks: BTreeMap<String, Disk>,
    /// The machines and their states.
    pub(super) machines: BTreeMap<String, &'static str>,
    /// The volumes and machines with a session between them.
    pub(super) sessions: BTreeSet<(String, String)>,
    /// How long a volume is being made.
    pub(super) slow: u64,
    /// Whether clones begin with what is written on their source.
    pub(super) inherits: bool,
    /// Whether references are never told in full.
    pub(super) plain: bool,
    /// Whether volumes tell their portals.
    pub(super) tells: bool,
    /// Whether customdata is kept.
    pub(super) forgets: bool,
    /// How many volumes a page has at most; zero for as many as are asked for.
    pub(super) page: usize,
    /// The machine that the metadata service speaks of, and what it knows of by then.
    pub(super) here: String,
    pub(super) known: BTreeSet<String>,
    pub(super) meetings: Vec<Meeting>,
    pub(super) asked: Vec<String>,
    pub(super) behind: Option<Behind>,
    pub(super) counter: u64,
    pub(super) late: Vec<(u64, String, String, Value)>,
}

type Answer = Result<Value, (u16, String)>;

fn refused<T>(status: u16, text: &str) -> Result<T, (u16, String)> {
    Err((status, text.to_owned()))
}

fn date(ms: u64) -> String {
    format!("2019-03-04T{:02}:{:02}:{:02}Z", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60)
}

impl Api {
    /// Ids do not sort by age.
    pub(super) fn id(&mut self) -> String {
        self.counter += 1;
        format!(
            "{:08x}-1111-4222-8333-{:012x}",
            self.counter.wrapping_mul(0x9e37_79b1) % (1 << 32),
            self.counter
        )
    }

    fn disk(&mut self, id: &str) -> Result<&mut Disk, (u16, String)> {
        self.disks.get_mut(id).ok_or_else(|| (404, "Not found".to_owned()))
    }

    /// A snapshot, by a policy or on request.
    pub(super) fn snapshot(&mut self, volume: &str) -> String {
        let id = self.id();
        // Each has a moment of its own, and zeroes at its end are dropped.
        let moment = format!("{}.{:09}", 1_551_679_200 + self.now / 1_000, self.counter * 10);
        let moment = moment.trim_end_matches('0').to_owned();
        self.disks.get_mut(volume).unwrap().snapshots.push((id.clone(), moment));
        id
    }

    /// A volume of somebody else's.
    pub(super) fn foreign(&mut self, description: &str) -> String {
        let id = self.id();
        self.disks.insert(
            id.clone(),
            Disk {
                made: self.now,
                gib: 100,
                plan: 0,
                facility: 0,
                cycle: "hourly".into(),
                description: description.into(),
                customdata: json!({}),
                locked: false,
                attachments: Vec::new(),
                policies: Vec::new(),
                snapshots: Vec::new(),
                source: None,
            },
        );
        id
    }

    /// A copy of a volume, as somebody at the portal makes it too.
    pub(super) fn clone_of(&mut self, id: &str, moment: &str) -> String {
        let mut disk = self.disks[id].clone();
        if !self.inherits {
            disk.description.clear();
            disk.customdata = json!({});
        }
        disk.made = self.now;
        disk.attachments.clear();
        disk.snapshots.clear();
        disk.source = Some((id.to_owned(), moment.to_owned()));
        let clone = self.id();
        self.disks.insert(clone.clone(), disk);
        clone
    }

    fn answer(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query: &BTreeMap<_, _> = &query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match (method, segments.as_slice()) {
            ("GET", ["projects", PROJECT, "storage"]) => self.list(query),
            ("POST", ["projects", PROJECT, "storage"]) => self.create(body),
            ("GET", ["storage", id]) => {
                self.disk(id)?;
                Ok(self.spell(id, query.contains_key("include")))
            }
            ("PATCH", ["storage", id]) => self.change(id, body),
            ("DELETE", ["storage", id]) => {
                let disk = self.disk(id)?;
                if !disk.attachments.is_empty() || disk.locked {
                    return refused(422, "Cannot delete");
                }
                self.disks.remove(*id);
                Ok(Value::Null)
            }
            ("GET", ["storage", id, "attachments"]) => {
                let disk = self.disk(id)?.clone();
                let attachments =
                    disk.attachments.iter().map(|(one, machine)| self.attachment(one, machine, false));
                Ok(json!({ "attachments": attachments.collect::<Vec<_>>() }))
            }
            ("POST", ["storage", id, "attachments"]) => {
                let machine = body["device_id"].as_str().unwrap().to_owned();
                let new = self.id();
                if !self.machines.contains_key(&machine) {
                    return refused(404, "Not found");
                }
                let disk = self.disk(id)?;
                if disk.attachments.iter().any(|(_, one)| *one == machine) {
                    return refused(422, "Instance is already attached to this volume");
                }
                disk.attachments.push((new.clone(), machine.clone()));
                Ok(self.attachment(&new, &machine, false))
            }
            ("DELETE", ["storage", "attachments", id]) => self.detach(id),
            ("GET", ["storage", id, "snapshots"]) => {
                // In no order.
                let snapshots = self.disk(id)?.snapshots.iter().rev().map(|(one, moment)| {
                    json!({ "id": one, "status": "available", "timestamp": moment, "volume": { "href": format!("/storage/{id}") } })
                });
                Ok(json!({ "snapshots": snapshots.collect::<Vec<_>>() }))
            }
            ("POST", ["storage", id, "snapshots"]) => {
                self.disk(id)?;
                self.snapshot(id);
                Ok(Value::Null)
            }
            ("DELETE", ["storage", id, "snapshots", snapshot]) => {
                let snapshots = &mut self.disk(id)?.snapshots;
                let before = snapshots.len();
                snapshots.retain(|(one, _)| one != snapshot);
                if snapshots.len() == before { refused(404, "Not found") } else { Ok(Value::Null) }
            }
            ("POST", ["storage", id, "clone"]) => {
                let moment = body["snapshot_timestamp"].as_str().unwrap_or_default().to_owned();
                assert_eq!(query.get("snapshot_timestamp").copied().unwrap_or_default(), moment);
                let disk = self.disk(id)?;
                if !moment.is_empty() && disk.snapshots.iter().all(|(_, one)| *one != moment) {
                    return refused(422, "Snapshot not found");
                }
                let clone = self.clone_of(id, &moment);
                Ok(self.spell(&clone, false))
            }
            ("POST", ["storage", id, "snapshot-policies"]) => {
                let new = self.id();
                let count = query["snapshot_count"].parse().unwrap();
                let policy = (new, query["snapshot_frequency"].to_owned(), count);
                self.disk(id)?.policies.push(policy);
                Ok(json!({}))
            }
            ("DELETE", ["storage", "snapshot-policies", id]) => {
                for disk in self.disks.values_mut() {
                    disk.policies.retain(|(one, ..)| one != id);
                }
                Ok(Value::Null)
            }
            ("GET", ["devices", id]) => {
                let state = *self.machines.get(*id).ok_or_else(|| (404, "Not found".to_owned()))?;
                let volumes =
                    self.disks.iter().filter(|(_, disk)| disk.attachments.iter().any(|(_, one)| one == id));
                let volumes: Vec<_> =
                    volumes.map(|(id, _)| json!({ "href": format!("/storage/{id}") })).collect();
                Ok(json!({ "id": id, "state": state, "volumes": volumes }))
            }
            _ => panic!("nobody asks for {method} {path}"),
        }
    }

    fn list(&mut self, query: &BTreeMap<&str, &str>) -> Answer {
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
        let per_page = number("per_page").unwrap_or(10);
        assert!((1..=1_000).contains(&per_page));
        let per_page = if self.page == 0 { per_page } else { per_page.min(self.page) };
        let page = number("page").unwrap_or(1);
        let ids: Vec<_> = self.disks.keys().cloned().collect();
        let some = ids.iter().skip((page - 1) * per_page).take(per_page);
        let volumes: Vec<_> = some.map(|id| self.spell(id, query.contains_key("include"))).collect();
        let href = |page: usize| json!({ "href": format!("/projects/{PROJECT}/storage?page={page}") });
        let next = if page * per_page < ids.len() { href(page + 1) } else { Value::Null };
        Ok(json!({ "volumes": volumes, "meta": { "self": href(page), "next": next, "total": ids.len() } }))
    }

    fn create(&mut self, body: &Value) -> Answer {
        let index = |list: [(&str, &str); 2], name: &str| {
            let asked = body[name].as_str().unwrap_or_default();
            list.iter()
                .position(|(word, id)| *word == asked || *id == asked)
                .ok_or_else(|| (422, format!("bad {name}")))
        };
        let (plan, facility) = (index(PLANS, "plan")?, index(FACILITIES, "facility")?);
        let policies: Vec<_> = body["snapshot_policies"].as_array().cloned().unwrap_or_default();
        let id = self.foreign(body["description"].as_str().unwrap());
        for policy in policies {
            let frequency = policy["snapshot_frequency"].as_str().unwrap().to_owned();
            let new = (self.id(), frequency, policy["snapshot_count"].as_u64().unwrap());
            self.disks.get_mut(&id).unwrap().policies.push(new);
        }
        let disk = self.disks.get_mut(&id).unwrap();
        (disk.gib, disk.plan, disk.facility) = (body["size"].as_u64().unwrap(), plan, facility);
        disk.cycle = body["billing_cycle"].as_str().unwrap().into();
        Ok(self.spell(&id, false))
    }

    fn change(&mut self, id: &str, body: &Value) -> Answer {
        let forgets = self.forgets;
        let disk = self.disk(id)?;
        for (name, value) in body.as_object().unwrap() {
            let text = value.as_str().unwrap_or_default();
            match name.as_str() {
                "description" => disk.description = text.to_owned(),
                "customdata" if forgets => {}
                "customdata" => disk.customdata = value.clone(),
                "billing_cycle" => disk.cycle = text.to_owned(),
                "plan_id" => {
                    let found = PLANS.iter().position(|(slug, id)| *slug == text || *id == text);
                    disk.plan = found.ok_or_else(|| (422, "bad plan".to_owned()))?;
                }
                "size" => {
                    let gib = value.as_u64().unwrap();
                    assert!(gib > disk.gib && disk.attachments.is_empty(), "{gib}");
                    disk.gib = gib;
                }
                _ => panic!("nobody changes {name}"),
            }
        }
        Ok(self.spell(id, false))
    }

    fn detach(&mut self, id: &str) -> Answer {
        for (volume, disk) in &mut self.disks {
            let Some(at) = disk.attachments.iter().position(|(one, _)| one == id) else { continue };
            if self.sessions.contains(&(volume.clone(), disk.attachments[at].1.clone())) {
                return refused(422, "Cannot detach since volume is actively being used on your server");
            }
            disk.attachments.remove(at);
            return Ok(json!({}));
        }
        refused(404, "Not found")
    }

    fn attachment(&self, id: &str, machine: &str, full: bool) -> Value {
        let mut device = json!({ "href": format!("/devices/{machine}") });
        if full && !self.plain {
            device["id"] = machine.into();
            device["iqn"] = format!("iqn.2019-03.net.packet:device.{machine}").into();
        }
        json!({ "id": id, "href": format!("/storage/attachments/{id}"), "device": device })
    }

    fn spell(&self, id: &str, full: bool) -> Value {
        let (disk, full) = (&self.disks[id], full && !self.plain);
        let attachments = disk.attachments.iter().map(|(one, machine)| match full {
            true => self.attachment(one, machine, true),
            false => json!({ "href": format!("/storage/attachments/{one}") }),
        });
        let policies = disk.policies.iter().map(|(one, frequency, count)| match full {
            true => json!({ "id": one, "snapshot_frequency": frequency, "snapshot_count": count }),
            false => json!({ "href": format!("/storage/snapshot-policies/{one}") }),
        });
        let (code, facility) = FACILITIES[disk.facility];
        let mut facility = json!({ "href": format!("/facilities/{facility}") });
        if full {
            facility["code"] = code.into();
        }
        let age = self.now - disk.made;
        let state =
            if age >= self.slow { "active" } else { ["queued", "provisioning"][usize::from(age > 1_000)] };
        let (slug, plan) = PLANS[disk.plan];
        let mut value = json!({
            "id": id, "name": format!("volume-{}", short(id)), "description": disk.description, "size": disk.gib,
            "locked": disk.locked, "billing_cycle": disk.cycle, "state": state, "created_at": date(disk.made),
            "facility": facility, "plan": { "id": plan, "slug": slug }, "customdata": disk.customdata,
            "attachments": attachments.collect::<Vec<_>>(), "snapshot_policies": policies.collect::<Vec<_>>(),
        });
        if self.tells {
            value["access"] = access(id);
        }
        value
    }

    fn metadata(&self) -> Value {
        let known = self.disks.keys().filter(|id| self.known.contains(*id)).map(|id| {
            let mut entry = access(id);
            entry["name"] = format!("volume-{}", short(id)).into();
            entry
        });
        json!({ "id": self.here, "iqn": "iqn.2019-03.net.packet:device.here", "volumes": known.collect::<Vec<_>>() })
    }
}

/// The beginning of an id.
pub(super) fn short(id: &str) -> &str {
    id.split('-').next().unwrap()
}

fn access(id: &str) -> Value {
    json!({ "ips": ["10.144.40.17", "10.144.56.17"], "iqn": format!("iqn.2013-05.com.daterainc:tc:01:sn:{}", short(id)) })
}

/// The way to the API, for one component.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    api: Rc<RefCell<Api>>,
    cut: Rc<RefCell<(u64, Option<Cut>)>>,
}

impl Wire {
    pub(super) fn to(api: Rc<RefCell<Api>>) -> Self {
        Self { api, cut: Rc::default() }
    }

    /// Cuts the component off at a request from now.
    pub(super) fn cut(&self, cut: Option<Cut>) {
        *self.cut.borrow_mut() = (0, cut);
    }

    /// How many requests there were since then, those that were cut off too.
    pub(super) fn sent(&self) -> u64 {
        self.cut.borrow().0
    }

    fn carry(&self, request: &Request) -> Result<Response, Error> {
        assert!(request.headers.iter().all(|(name, _)| name == "accept" || name == "content-type"));
        let api = &mut *self.api.borrow_mut();
        if request.url == "http://metadata.test/metadata" {
            return Ok(reply(200, &api.metadata()));
        }
        let path = request.url.strip_prefix(BASE).unwrap();
        let (plain, _) = path.split_once('?').unwrap_or((path, ""));
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        for (due, method, path, body) in std::mem::take(&mut api.late) {
            if due <= api.now {
                api.answer(&method, &path, &body).unwrap();
            } else {
                api.late.push((due, method, path, body));
            }
        }
        api.asked.push(format!("{} {}", request.method, plain));
        let met = |(method, part, _): &Meeting| request.method == *method && plain.contains(part);
        let meeting = api.meetings.iter().position(met).map(|at| api.meetings.remove(at).2);
        let answer = match meeting {
            Some(Meet::Page(status)) => {
                let headers = vec![("content-type".into(), "text/html".into())];
                return Ok(Response { status, headers, body: b"<html>sorry</html>".into() });
            }
            Some(Meet::Late(ms)) => {
                api.late.push((api.now + ms, request.method.clone(), path.to_owned(), body));
                return Err(Error::unavailable("nobody answered"));
            }
            Some(Meet::Refused(status, text)) => refused(status, text),
            None => api.answer(&request.method, path, &body),
        };
        if let Some((.., act)) =
            api.behind.take_if(|(method, part, _)| request.method == *method && plain.contains(*part))
        {
            act(api);
        }
        Ok(match answer {
            Ok(Value::Null) => Response { status: 204, headers: Vec::new(), body: Vec::new() },
            Ok(value) => reply(200, &value),
            Err((status, text)) => {
                let mut response = reply(status, &json!({ "errors": [text] }));
                response.headers.push(("x-ratelimit-reset".into(), (api.now / 1_000 + 17).to_string()));
                response
            }
        })
    }
}

pub(super) fn reply(status: u16, body: &Value) -> Response {
    let headers = [("content-type", "application/json; charset=utf-8"), ("x-request-id", "r-1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Response { status, headers, body: body.to_string().into_bytes() }
}

impl Transport for Wire {
    fn send(&self, request: &Request) -> Result<Response, Error> {
        let (sent, cut) = {
            let mut state = self.cut.borrow_mut();
            state.0 += 1;
            *state
        };
        let away = || Err(Error::unavailable("the component was cut off"));
        match cut {
            Some(Cut::Before(at) | Cut::Within(at)) if sent >= at => return away(),
            Some(Cut::After(at)) if sent > at => return away(),
            _ => {}
        }
        let answer = self.carry(request);
        if matches!(cut, Some(Cut::After(at)) if sent == at) { away() } else { answer }
    }

    fn wait(&self, ms: u64) {
        self.api.borrow_mut().now += ms;
    }
}
