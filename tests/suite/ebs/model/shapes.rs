//! Our answers beside moto's, as Amazon's client reads them: for the same calls, which fields there are. Where the two are
//! known to differ it is written down here, with why. moto decides nothing: it takes no notice of client tokens, lets a
//! second instance have a volume, attaches at once, shrinks volumes, and knows blocks of 512 bytes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use kato_tests::{aws::Aws, machine::until};
use serde_json::{Value, json};

use super::{
    super::boto::{Boto, python},
    ZONE, merge, text,
};

/// What one has and the other has not: the call, the field, and who has it.
const KNOWN: &[(&str, &str, &str)] = &[];

/// moto, on a port of its own.
struct Moto {
    process: Child,
    endpoint: String,
}

impl Moto {
    fn start() -> Self {
        let mut process = Command::new(python())
            .args(["-I", "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto starts");
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let endpoint = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "moto ended before it served");
            if let Some((_, address)) = line.split_once("Running on ") {
                break address.trim().to_owned();
            }
        };
        // What it says from now on is read by nobody, and must not hold it up.
        std::thread::spawn(move || std::io::copy(&mut said, &mut File::create("/dev/null").unwrap()).ok());
        Self { process, endpoint }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The fields of an answer, each by its way to it. Items of a list are alike.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields_of_it) => {
            for (name, inner) in fields_of_it {
                let at = format!("{at}.{name}");
                fields(inner, &at, found);
                found.insert(at);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, at, found)),
        _ => {}
    }
}

/// The same calls, of either.
fn tour(boto: &mut Boto, instance: &str, settle: impl Fn()) -> Vec<(&'static str, Value)> {
    let mut said = Vec::new();
    let mut ask = |method: &'static str, given: Value| {
        let answer = boto.ec2(method, given).unwrap_or_else(|no| panic!("{method}: {no:?}"));
        said.push((method, answer.clone()));
        settle();
        answer
    };
    let tags = |kind: &str| json!([{ "ResourceType": kind, "Tags": [{ "Key": "name", "Value": "db" }] }]);
    let given = json!({ "AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3", "TagSpecifications": tags("volume") });
    let volume = text(&ask("create_volume", given)["VolumeId"]);
    ask("create_tags", json!({ "Resources": [volume], "Tags": [{ "Key": "more", "Value": "x" }] }));
    ask("attach_volume", json!({ "VolumeId": volume, "InstanceId": instance, "Device": "/dev/sdf" }));
    ask("describe_volumes", json!({ "VolumeIds": [volume] }));
    ask("modify_volume", json!({ "VolumeId": volume, "Size": 2 }));
    ask("describe_volumes_modifications", json!({ "VolumeIds": [volume] }));
    let mut given = json!({ "VolumeId": volume, "Description": "of db" });
    merge(&mut given, json!({ "TagSpecifications": tags("snapshot") }));
    let snapshot = text(&ask("create_snapshot", given)["SnapshotId"]);
    ask("describe_snapshots", json!({ "SnapshotIds": [snapshot] }));
    ask("detach_volume", json!({ "VolumeId": volume, "InstanceId": instance }));
    ask("delete_volume", json!({ "VolumeId": volume }));
    ask("delete_snapshot", json!({ "SnapshotId": snapshot }));
    ask("describe_availability_zones", json!({}));
    said
}

#[test]
fn answers_have_the_fields_that_motos_have_but_for_what_is_known() {
    let (aws, moto) = (Aws::start(), Moto::start());
    let node = aws.add_instance(ZONE, "m5.large");
    let ours = tour(&mut Boto::of(&aws), node.id(), || aws.pass_time(std::time::Duration::from_secs(60)));

    let mut boto = Boto::at(&moto.endpoint, &aws.credentials());
    let images =
        until("moto to answer", || boto.ec2("describe_images", json!({ "Owners": ["amazon"] })).ok());
    let run = json!({ "ImageId": images["Images"][0]["ImageId"], "MinCount": 1, "MaxCount": 1,
                      "Placement": { "AvailabilityZone": ZONE } });
    let run = boto.ec2("run_instances", run).unwrap();
    let theirs = tour(&mut boto, &text(&run["Instances"][0]["InstanceId"]), || ());

    let mut differ = BTreeSet::new();
    for ((method, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let (mut of_us, mut of_them) = (BTreeSet::new(), BTreeSet::new());
        fields(ours, "", &mut of_us);
        fields(theirs, "", &mut of_them);
        differ.extend(of_us.difference(&of_them).map(|field| (*method, field.clone(), "ours")));
        differ.extend(of_them.difference(&of_us).map(|field| (*method, field.clone(), "theirs")));
    }
    let known: BTreeSet<_> =
        KNOWN.iter().map(|(method, field, who)| (*method, (*field).to_owned(), *who)).collect();
    assert_eq!(differ, known);
}
