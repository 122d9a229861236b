//! Our answers beside moto's, as Amazon's client reads them: for the same calls, which fields there are. Where the two are
//! known to differ it is written down here, with why. moto decides nothing: it takes no notice of client tokens, lets a
//! second instance have a volume, attaches at once, shrinks volumes, and knows blocks of 512 bytes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use kato_tests::aws::Aws;
use serde_json::{Value, json};

use super::{
    super::boto::{Boto, python},
    ZONE, merge, text,
};

/// Fields that one has and the other has not, and why.
const KNOWN: &[(&str, &str, &str)] = &[
    ("AvailabilityZoneId", "ours", "moto's volumes have the name of a zone alone"),
    ("CompletionTime", "ours", "moto does not tell when a snapshot was completed"),
    ("DeleteOnTermination", "ours", "moto's volumes do not say what becomes of them with their instance"),
    ("EndTime", "theirs", "moto ends a modification as it begins"),
    ("GroupName", "ours", "moto's zones are of no group"),
    ("MultiAttachEnabled", "ours", "moto knows no volume that is shared"),
    ("NetworkBorderGroup", "ours", "moto's zones are of no group"),
    ("OptInStatus", "ours", "moto's zones are open to everybody"),
    ("OriginalIops", "ours", "moto modifies the size alone"),
    ("OriginalMultiAttachEnabled", "ours", "moto modifies the size alone"),
    ("OriginalThroughput", "ours", "moto modifies the size alone"),
    ("OriginalVolumeType", "ours", "moto modifies the size alone"),
    ("SnapshotId", "ours", "a volume of no snapshot says so with an empty text, and moto's with none"),
    ("TargetIops", "ours", "moto modifies the size alone"),
    ("TargetMultiAttachEnabled", "ours", "moto modifies the size alone"),
    ("TargetThroughput", "ours", "moto modifies the size alone"),
    ("TargetVolumeType", "ours", "moto modifies the size alone"),
    ("Throughput", "ours", "moto's gp3 has no throughput where none is asked for"),
];

/// moto, on a port of its own.
struct Moto {
    process: Child,
    endpoint: String,
}

impl Moto {
    fn start() -> Self {
        let mut process = Command::new(python())
            .args(["-I", "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            // Any image will do, so it need not read which ones Amazon has.
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
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
    let place = json!({ "AvailabilityZone": ZONE });
    let run = json!({ "ImageId": "ami-12345678", "MinCount": 1, "MaxCount": 1, "Placement": place });
    let run = boto.ec2("run_instances", run).unwrap();
    let theirs = tour(&mut boto, &text(&run["Instances"][0]["InstanceId"]), || ());

    let mut differ = BTreeSet::new();
    for ((method, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let (mut of_us, mut of_them) = (BTreeSet::new(), BTreeSet::new());
        fields(ours, method, &mut of_us);
        fields(theirs, method, &mut of_them);
        differ.extend(of_us.difference(&of_them).map(|field| (field.clone(), "ours")));
        differ.extend(of_them.difference(&of_us).map(|field| (field.clone(), "theirs")));
    }
    let is_of = |(field, who): &(String, &str), (name, whose, _): &(&str, &str, &str)| {
        field.rsplit('.').next() == Some(*name) && who == whose
    };
    let news: Vec<_> = differ.iter().filter(|found| !KNOWN.iter().any(|known| is_of(found, known))).collect();
    assert!(news.is_empty(), "not known to differ: {news:?}");
    let past: Vec<_> = KNOWN.iter().filter(|known| !differ.iter().any(|found| is_of(found, known))).collect();
    assert!(past.is_empty(), "they differ no more: {past:?}");
}
