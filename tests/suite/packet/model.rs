//! Whether the kit's API tells the truth, asked as its clients asked it: every one's spelling, what is refused and in which
//! words, what becomes visible when, and that what goes wrong on command goes wrong.

use std::{thread, time::Duration};

use kato_tests::{
    machine::until,
    packet::{Action, Device, Fault, Packet, Site},
};
use serde_json::{Value, json};

use super::client::{Client, Initiator, Reply};

/// A site of which nothing takes long.
fn prompt() -> Site {
    Site { pace: 0.0, attach_lag: Duration::ZERO, detach_lag: Duration::ZERO, ..Site::default() }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Makes a volume of the smallest kind with this besides.
fn make(packet: &Packet<'_>, client: &Client, more: Value) -> Reply {
    let mut body = json!({ "facility": "tst1", "plan": "storage_1", "size": 1, "billing_cycle": "hourly" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.post(&format!("/projects/{}/storage", packet.project()), body)
}

fn made(packet: &Packet<'_>, client: &Client, more: Value) -> String {
    let id = text(&make(packet, client, more).with(201)["id"]).to_owned();
    until("a volume to be active", || {
        (client.get(&format!("/storage/{id}")).with(200)["state"] == "active").then_some(())
    });
    id
}

fn attach(client: &Client, volume: &str, device: &Device) -> Reply {
    client.post(&format!("/storage/{volume}/attachments"), json!({ "device_id": device.id() }))
}

#[test]
fn every_clients_spelling_is_taken() {
    let packet = Packet::start_with(prompt());
    let client = Client::of(&packet);
    let facility = text(&client.get("/facilities").with(200)["facilities"][0]["id"]).to_owned();
    let plan = text(&client.get("/plans").with(200)["plans"][1]["id"]).to_owned();
    for body in [
        json!({ "facility": "tst1", "plan": "storage_2", "size": 3 }),
        json!({ "facility_id": "tst1", "plan_id": "storage_2", "size": "3", "locked": "false" }),
        json!({ "facility_id": facility, "plan_id": plan, "size": 3, "snapshot_policies": null }),
        json!({ "facility": facility, "plan": plan, "size": 3,
                "snapshot_policies": { "snapshot_frequency": "1day", "snapshot_count": 7 } }),
        json!({ "facility": "tst1", "plan": "storage_2", "size": 3, "snapshot_policies": [
                { "snapshot_frequency": "1day", "snapshot_count": "7", "id": "", "href": "" },
                { "snapshot_frequency": "1hour", "snapshot_count": 24, "id": "", "href": "" } ] }),
    ] {
        let wished = match &body["snapshot_policies"] {
            Value::Null => 0,
            Value::Array(all) => all.len(),
            _ => 1,
        };
        let path = format!("/metal/v1//projects/{}/storage/?include=facility", packet.project());
        let volume = client.post(&path, body).with(201);
        assert_eq!((&volume["size"], &volume["plan"]["slug"]), (&json!(3), &json!("storage_2")));
        assert_eq!((&volume["facility"]["code"], &volume["locked"]), (&json!("tst1"), &json!(false)));
        assert_eq!(volume["snapshot_policies"].as_array().unwrap().len(), wished);
        assert_eq!(
            text(&volume["name"]),
            format!("volume-{}", text(&volume["id"]).split('-').next().unwrap())
        );
    }
    let form = "facility=tst1&plan=storage_1&size=1&description=a+b";
    let path = format!("/projects/{}/storage", packet.project());
    let volume = client.say("POST", &path, "application/x-www-form-urlencoded", form).unwrap().with(201);
    assert_eq!(volume["description"], "a b");
    let path = format!("//storage/{}/", text(&volume["id"]));
    for method in ["PUT", "PATCH"] {
        let body = json!({ "description": method, "plan_id": "storage_2", "customdata": { "a": 1 } });
        let volume = client.ask(method, &path, &body).with(200);
        assert_eq!((&volume["description"], &volume["plan"]["slug"]), (&json!(method), &json!("storage_2")));
        assert_eq!(client.get(&format!("{path}customdata")).with(200), json!({ "a": 1 }));
    }
    client.delete(&path);
    assert_eq!(packet.volumes().len(), 5);
}

#[test]
fn whoever_may_not_or_asks_for_what_cannot_be_is_told_so() {
    let packet = Packet::start_with(Site { minimum: 10, ..prompt() });
    let client = Client::of(&packet);
    let stranger = Client::with_token(&packet, "somebody's");
    let list = format!("/projects/{}/storage", packet.project());
    assert!(stranger.get(&list).with(401)["error"].is_string());
    client.get(&format!("/projects/{}/storage", packet.other_project())).refusal(403);
    for (method, path) in [("GET", "/storage/nobody"), ("DELETE", "/storage/nobody"), ("POST", "/nowhere")] {
        let reply = client.ask(method, path, &Value::Null);
        reply.refusal(404);
        assert!(reply.header("content-type").unwrap().starts_with("application/json"));
        assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
    }
    for wrong in [
        json!({ "size": 9 }),
        json!({ "size": 10_001 }),
        json!({ "size": "large" }),
        json!({ "size": 10, "plan": "storage_snapshot" }),
        json!({ "size": 10, "facility": "tst3" }),
        json!({ "size": 10, "facility": "nowhere" }),
        json!({ "size": 10, "billing_cycle": "never" }),
        json!({ "size": 10, "snapshot_policies": { "snapshot_frequency": "2min" } }),
        json!({ "size": 10, "snapshot_policies": { "snapshot_frequency": "1day", "snapshot_count": 257 } }),
    ] {
        make(&packet, &client, wrong).refusal(422);
    }
    let id = made(&packet, &client, json!({ "size": 10 }));
    let path = format!("/storage/{id}");
    client.patch(&path, json!({ "size": 9 })).refusal(422);
    client.patch(&path, json!({ "locked": true })).with(200);
    client.patch(&path, json!({ "description": "a" })).refusal(422);
    client.delete(&path).refusal(422);
    client.patch(&path, json!({ "locked": false })).with(200);
    let gone = client.delete(&path);
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    client.get(&path).refusal(404);
    client.delete(&path).refusal(404);
    assert_eq!(packet.volumes(), []);
    packet.rotate_token();
    client.get(&list).with(401);
}

#[test]
fn a_volume_comes_to_be_in_states_and_a_list_in_pages() {
    let packet = Packet::start_with(Site { looks: Some(3), page: 4, ..prompt() });
    let client = Client::of(&packet);
    let id = text(&make(&packet, &client, json!({ "description": "first" })).with(201)["id"]).to_owned();
    let path = format!("/storage/{id}");
    let states: Vec<_> = (0..4).map(|_| text(&client.get(&path).with(200)["state"]).to_owned()).collect();
    assert_eq!(states, ["queued", "queued", "provisioning", "active"]);
    for _ in 0..8 {
        make(&packet, &client, json!({ "description": "first" })).with(201);
    }

    let list = format!("/projects/{}/storage", packet.project());
    let (mut next, mut seen) = (format!("{list}?page=1&per_page=50"), Vec::new());
    for page in 1..=3 {
        let answer = client.get(&next).with(200);
        let meta = &answer["meta"];
        assert_eq!(
            (&meta["total"], &meta["current_page"], &meta["last_page"]),
            (&json!(9), &json!(page), &json!(3))
        );
        assert_eq!(meta["previous"].is_null(), page == 1);
        seen.extend(answer["volumes"].as_array().unwrap().iter().map(|it| text(&it["id"]).to_owned()));
        let Some(href) = meta["next"]["href"].as_str() else { break };
        assert!(href.starts_with(&list) && href.contains('?'), "{href}");
        next = format!("{href}&per_page=50");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 9, "all of them have one description, and are nine");
    assert_eq!(client.get(&format!("{list}?page=4")).with(200)["volumes"], json!([]));
    let events = client.get(&format!("/volumes/{id}/events")).with(200);
    assert_eq!(events["meta"]["total"], 0);
}

#[test]
fn the_api_lets_a_second_machine_in_and_nobody_go_who_has_a_session() {
    let packet = Packet::start_with(Site { detach_lag: Duration::from_secs(3600), ..prompt() });
    let client = Client::of(&packet);
    let [one, two] = ["node-a", "node-b"].map(|name| packet.add_device("tst1", name));
    let far = packet.add_device("tst2", "node-c");
    let id = made(&packet, &client, json!({}));
    attach(&client, &id, &far).refusal(422);
    client.post(&format!("/storage/{id}/attachments"), json!({ "device_id": "nobody" })).refusal(404);
    let attachment = attach(&client, &id, &one).with(201);
    assert_eq!(attach(&client, &id, &one).refusal(422), "Instance is already attached to this volume");
    attach(&client, &id, &two).with(201);

    // References are told in full where that is asked for.
    let path = format!("/storage/{id}");
    let bare = client.get(&path).with(200);
    assert_eq!(bare["attachments"].as_array().unwrap().len(), 2);
    assert!(bare["attachments"][0].get("id").is_none() && bare["plan"]["slug"] == "storage_1", "{bare}");
    let shown = client.get(&format!("{path}?include=attachments.device,nonsense&exclude=plan")).with(200);
    let iqns: Vec<_> =
        shown["attachments"].as_array().unwrap().iter().map(|it| text(&it["device"]["iqn"])).collect();
    assert!(iqns.contains(&one.iqn()) && iqns.contains(&two.iqn()), "{shown}");
    assert!(shown["plan"].get("slug").is_none() && shown["facility"].get("code").is_none());
    let device = client.get(&format!("/devices/{}", one.id())).with(200);
    assert_eq!(device["volumes"], json!([{ "href": path }]));

    // Whoever is logged in keeps it, and for a while whoever was.
    let portals = packet.target().portals();
    let initiator = Initiator::named(one.iqn());
    let iqn = text(&shown["access"]["iqn"]).to_owned();
    let mut command = initiator.command(&portals[0], &iqn, &["sleep 1500"]);
    let session = thread::spawn(move || command.output().unwrap());
    until("a session", || (packet.target().sessions().len() == 1).then_some(()));
    let detach = format!("/storage/attachments/{}", text(&attachment["id"]));
    let used = "Cannot detach since volume is actively being used on your server";
    assert_eq!(client.delete(&detach).refusal(422), used);
    session.join().unwrap();
    until("the session to end", || packet.target().sessions().is_empty().then_some(()));
    assert_eq!(client.delete(&detach).refusal(422), used);
    client.delete(&path).refusal(422);
    client.patch(&path, json!({ "size": 2 })).refusal(422);
    packet.pass_time(Duration::from_secs(3600));
    assert_eq!(client.delete(&detach).status, 204);
    client.get(&detach).refusal(404);

    // A machine that is off is asked nothing; one that has volumes is deleted by force alone.
    two.power_off();
    client.delete(&format!("/devices/{}", two.id())).refusal(422);
    assert_eq!(client.delete(&format!("/devices/{}?force_delete=true", two.id())).status, 204);
    assert!(packet.volumes()[0].devices.is_empty());
    client.delete(&path).refusal(422);
    packet.pass_time(Duration::from_secs(3600));
    assert_eq!(client.delete(&path).status, 204);
    assert_eq!((packet.volumes(), packet.target().sessions()), (vec![], vec![]));

    let strict = Packet::start_with(Site { strict: true, ..prompt() });
    let client = Client::of(&strict);
    let [one, two] = ["node-a", "node-b"].map(|name| strict.add_device("tst1", name));
    let id = made(&strict, &client, json!({}));
    attach(&client, &id, &one).with(201);
    attach(&client, &id, &two).refusal(422);
}

#[test]
fn the_metadata_service_tells_a_machine_of_its_own_volumes_and_some_time_late() {
    let packet = Packet::start_with(prompt());
    let client = Client::of(&packet);
    let [one, two] = ["node-a", "node-b"].map(|name| packet.add_device("tst1", name));
    let id = made(&packet, &client, json!({ "size": 2 }));
    packet.fault(Action::Attach, 1, Fault::KnownAfter(Duration::from_secs(3600)));
    attach(&client, &id, &one).with(201);
    assert_eq!(of_metadata(&one)["volumes"], json!([]));
    let initiator = Initiator::named(one.iqn());
    let [portal, _] = packet.target().portals();
    let iqn = packet.volumes()[0].iqn.clone();
    initiator.on(&portal, &iqn, &["read 0 512"]).unwrap_err();
    packet.pass_time(Duration::from_secs(3600));
    let told = of_metadata(&one);
    assert_eq!((text(&told["id"]), text(&told["iqn"])), (one.id(), one.iqn()));
    let volume = &told["volumes"][0];
    assert_eq!(text(&volume["name"]), format!("volume-{}", id.split('-').next().unwrap()));
    assert_eq!((text(&volume["iqn"]), &volume["capacity"]["size"]), (iqn.as_str(), &json!("2")));
    let ips: Vec<_> =
        volume["ips"].as_array().unwrap().iter().map(|ip| format!("{}:3260", text(ip))).collect();
    assert_eq!(ips, packet.target().portals());
    initiator.on(&portal, &iqn, &["read 0 512"]).unwrap();
    assert_eq!(of_metadata(&two)["volumes"], json!([]));
}

fn of_metadata(device: &Device) -> Value {
    let (address, path) = device.metadata().trim_start_matches("http://").split_once('/').unwrap();
    let client = Client::at(address);
    client.get(&format!("/{path}")).with(200)
}

#[test]
fn snapshots_have_moments_for_names_and_policies_cut_them_too() {
    let packet = Packet::start_with(prompt());
    let client = Client::of(&packet);
    let device = packet.add_device("tst1", "node-a");
    let id = made(&packet, &client, json!({ "description": "orders", "customdata": { "a": 1 } }));
    let attachment = attach(&client, &id, &device).with(201);
    let (initiator, iqn) = (Initiator::named(device.iqn()), packet.volumes()[0].iqn.clone());
    let [portal, _] = packet.target().portals();
    let write = |pattern: &str| {
        drop(initiator.on(&portal, &iqn, &[&format!("write -P {pattern} 0 4k"), "flush"]).unwrap())
    };
    write("0x41");
    let (path, shots) = (format!("/storage/{id}"), format!("/storage/{id}/snapshots"));
    let cut = client.post(&shots, Value::Null);
    assert_eq!((cut.status, cut.body.as_str()), (201, ""), "it does not say which it is");
    write("0x42");
    let list = || client.get(&shots).with(200)["snapshots"].as_array().unwrap().clone();
    let [shot] = list().try_into().unwrap();
    let moment = text(&shot["timestamp"]).to_owned();
    assert!(moment.split_once('.').is_some_and(|(_, part)| part.len() <= 9), "{shot}");
    assert_eq!((text(&shot["status"]), &shot["volume"]), ("available", &json!({ "href": path })));
    assert_eq!(packet.read(text(&shot["id"]), 0, 2), b"AA");

    // A copy has what was written on its source, too.
    let copy = client.post(&format!("{path}/clone?snapshot_timestamp={moment}"), Value::Null).with(201);
    assert_eq!((text(&copy["description"]), &copy["customdata"]), ("orders", &json!({ "a": 1 })));
    let twin = client.post(&format!("{path}/clone"), json!({})).with(201);
    let bytes = |volume: &Value| packet.read(text(&volume["id"]), 0, 2);
    assert_eq!((bytes(&copy), bytes(&twin)), (b"AA".to_vec(), b"BB".to_vec()));

    // What is attached is not put back.
    let back = |moment: &str| client.post(&format!("{path}/restore"), json!({ "restore_point": moment }));
    back(&moment).refusal(422);
    client.delete(&format!("/storage/attachments/{}", text(&attachment["id"])));
    back("1.5").refusal(422);
    assert_eq!(back(&moment).with(200)["id"], json!(id));
    assert_eq!(packet.read(&id, 0, 2), b"AA");
    attach(&client, &id, &device).with(201);
    initiator.on(&portal, &iqn, &["read -P 0x41 0 4k"]).unwrap();

    let policy = json!({ "snapshot_frequency": "1hour", "snapshot_count": 2 });
    let policy = client.post(&format!("{path}/snapshot-policies"), policy).with(201);
    for _ in 0..4 {
        packet.pass_time(Duration::from_secs(3600));
    }
    assert_eq!(list().len(), 3, "two of the policy's, and the one before it");
    let at = text(&policy["href"]).to_owned();
    client.ask("PUT", &format!("{at}?snapshot_frequency=1day&snapshot_count=1"), &Value::Null).with(200);
    packet.pass_time(Duration::from_secs(86_400));
    assert_eq!(list().len(), 2);
    assert_eq!(client.delete(&at).status, 204);
    packet.pass_time(Duration::from_secs(86_400));
    assert_eq!(list().len(), 2);
    assert_eq!(client.delete(&format!("{shots}/{}", text(&shot["id"]))).status, 204);
    client.delete(&format!("{shots}/{}", text(&shot["id"]))).refusal(404);

    let modern = Packet::start_with(Site { cuts_on_request: false, ..prompt() });
    let client = Client::of(&modern);
    let id = made(&modern, &client, json!({}));
    client.post(&format!("/storage/{id}/snapshots"), Value::Null).refusal(404);
}

#[test]
fn what_goes_wrong_on_command_goes_wrong_so_often_and_no_more() {
    let packet = Packet::start_with(prompt());
    let client = Client::of(&packet);
    let list = format!("/projects/{}/storage", packet.project());
    let body = json!({ "facility": "tst1", "plan": "storage_1", "size": 1 }).to_string();
    let create = || client.say("POST", &list, "application/json", &body);

    packet.fault(Action::CreateVolume, 1, Fault::LostAnswer);
    assert_eq!(create(), None);
    assert_eq!(packet.volumes().len(), 1, "it was made");
    for (fault, status, made) in [
        (Fault::ServerError, 500, 1),
        (Fault::Proxy(503), 503, 1),
        (Fault::Refused(422, "Quota exceeded"), 422, 1),
        (Fault::DoneButProxy, 502, 2),
        (Fault::DoneButServerError, 500, 3),
    ] {
        packet.fault(Action::CreateVolume, 1, fault.clone());
        let reply = create().unwrap();
        assert_eq!((reply.status, packet.volumes().len()), (status, made), "{fault:?}");
        let of_proxy = matches!(fault, Fault::Proxy(_) | Fault::DoneButProxy);
        assert_eq!(reply.header("x-request-id").is_none(), of_proxy);
        assert_eq!(reply.header("content-type").unwrap().starts_with("application/json"), !of_proxy);
    }
    for told in [false, true] {
        let room = Duration::from_secs(7);
        packet.fault(
            Action::ListVolumes,
            1,
            if told { Fault::ThrottledTold(room) } else { Fault::Throttled(room) },
        );
        let reply = client.get(&list);
        reply.refusal(429);
        assert_eq!(reply.header("retry-after"), told.then_some("7"));
        assert_eq!(reply.header("x-ratelimit-remaining"), Some("0"));
        let reset: u64 = reply.header("x-ratelimit-reset").unwrap().parse().unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!((now + 6..=now + 8).contains(&reset), "{reset} at {now}");
        client.get(&list).with(200);
    }
    packet.fault(Action::CreateVolume, 1, Fault::Stuck);
    let stuck = text(&create().unwrap().with(201)["id"]).to_owned();
    packet.fault(Action::CreateVolume, 1, Fault::NotFoundFor(Duration::from_secs(3600)));
    let late = text(&create().unwrap().with(201)["id"]).to_owned();
    client.get(&format!("/storage/{late}")).refusal(404);
    packet.pass_time(Duration::from_secs(3600));
    client.get(&format!("/storage/{late}")).with(200);
    assert_eq!(client.get(&format!("/storage/{stuck}")).with(200)["state"], "provisioning");
    packet.unstick();
    assert_eq!(client.get(&format!("/storage/{stuck}")).with(200)["state"], "active");
    assert_eq!((packet.faults_left(Action::CreateVolume), packet.calls(Action::CreateVolume)), (0, 8));

    let narrow = Packet::start_with(Site { rate: (3, Duration::from_secs(3600)), ..prompt() });
    let client = Client::of(&narrow);
    let statuses: Vec<_> = (0..5).map(|_| client.get("/plans")).map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}
