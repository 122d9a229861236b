//! Whether the kit's EC2 and EBS tell the truth, asked by Amazon's own client: what they refuse and in which words, what
//! becomes visible when, what a node sees of it, and that what goes wrong on command goes wrong as it does there. moto,
//! another model of the same services, is compared by the shapes of its answers alone.

mod blocks;
mod devices;
mod faults;
mod shapes;

use std::time::Duration;

use kato_tests::{
    aws::{Aws, Site},
    machine::until,
};
use serde_json::{Value, json};

use super::boto::Boto;

/// A zone of the region.
const ZONE: &str = "eu-central-1a";

/// Makes a volume and waits until it can be used.
fn volume(aws: &Aws, boto: &mut Boto, more: Value) -> String {
    let mut given = json!({ "AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3" });
    merge(&mut given, more);
    let id = text(&boto.ec2("create_volume", given).unwrap()["VolumeId"]);
    come(aws, || state(aws, &id) == "available");
    id
}

fn state(aws: &Aws, volume: &str) -> String {
    aws.volumes().into_iter().find(|it| it.id == volume).map(|it| it.state).unwrap_or_default()
}

/// Lets time pass until something has come.
fn come(aws: &Aws, has: impl Fn() -> bool) {
    until("the model to come to it", || {
        aws.pass_time(Duration::from_secs(1));
        has().then_some(())
    });
}

/// How a volume is attached to its first instance.
fn attached(aws: &Aws, volume: &str) -> String {
    let found = aws.volumes().into_iter().find(|it| it.id == volume).unwrap();
    found.attachments.first().map(|(_, _, state)| state.clone()).unwrap_or_default()
}

fn merge(into: &mut Value, more: Value) {
    into.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn ids(list: &Value, name: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|it| text(&it[name])).collect()
}

#[test]
fn a_client_token_makes_one_volume_and_stays_bound_to_it() {
    // What is waited for does not come by itself while a slow machine asks.
    let aws = Aws::start_with(Site { seed: 1, pace: 10.0 });
    let given = json!({ "AvailabilityZone": ZONE, "Size": 1, "ClientToken": "db" });
    let mut boto = Boto::of(&aws);
    let first = boto.ec2("create_volume", given.clone()).unwrap();
    assert_eq!((first["State"].as_str(), first["VolumeType"].as_str()), (Some("creating"), Some("gp2")));
    assert_eq!(boto.ec2("create_volume", given.clone()).unwrap(), first);
    assert_eq!(aws.volumes().len(), 1);
    let mut other = given.clone();
    merge(&mut other, json!({ "Size": 2 }));
    assert_eq!(boto.refused("create_volume", other), "IdempotentParameterMismatch");

    let id = text(&first["VolumeId"]);
    assert_eq!(
        boto.refused("delete_volume", json!({ "VolumeId": id })),
        "IncorrectState",
        "it is being made"
    );
    come(&aws, || state(&aws, &id) == "available");
    boto.ec2("delete_volume", json!({ "VolumeId": id })).unwrap();
    assert_eq!(boto.refused("delete_volume", json!({ "VolumeId": id })), "InvalidVolume.NotFound");
    come(&aws, || aws.volumes().is_empty());
    assert_eq!(
        boto.ec2("create_volume", given).unwrap()["VolumeId"],
        first["VolumeId"],
        "the token is burnt"
    );
    assert_eq!(boto.refused("describe_volumes", json!({ "VolumeIds": [id] })), "InvalidVolume.NotFound");
}

#[test]
fn volumes_are_found_by_ids_by_filters_and_by_pages() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let mut made = Vec::new();
    for number in 0..12 {
        let tags = json!([{ "Key": "name", "Value": format!("db-{number}") }, { "Key": "even", "Value": (number % 2 == 0).to_string() }]);
        let given = json!({ "AvailabilityZone": ZONE, "Size": 4, "VolumeType": "io2", "Iops": 200,
                            "TagSpecifications": [{ "ResourceType": "volume", "Tags": tags }] });
        made.push(text(&boto.ec2("create_volume", given).unwrap()["VolumeId"]));
    }
    made.sort();

    let mut paged = Vec::new();
    let mut given = json!({ "MaxResults": 5 });
    let mut pages = 0;
    loop {
        let page = boto.ec2("describe_volumes", given.clone()).unwrap();
        paged.extend(ids(&page["Volumes"], "VolumeId"));
        pages += 1;
        let Some(token) = page["NextToken"].as_str() else { break };
        given["NextToken"] = token.into();
    }
    assert_eq!((paged, pages), (made.clone(), 3));
    aws.pass_time(Duration::from_secs(2 * 3600));
    assert_eq!(boto.refused("describe_volumes", given), "InvalidPaginationToken");
    assert_eq!(boto.refused("describe_volumes", json!({ "NextToken": "??" })), "InvalidNextToken");
    assert_eq!(boto.refused("describe_volumes", json!({ "MaxResults": 4 })), "InvalidParameterValue");
    let both = json!({ "MaxResults": 5, "VolumeIds": [made[0]] });
    assert_eq!(boto.refused("describe_volumes", both), "InvalidParameterCombination");

    let mut found = |filters: Value| {
        let answer = boto.ec2("describe_volumes", json!({ "Filters": filters })).unwrap();
        ids(&answer["Volumes"], "VolumeId").len()
    };
    assert_eq!(found(json!([{ "Name": "tag:even", "Values": ["true"] }])), 6);
    assert_eq!(
        found(
            json!([{ "Name": "tag:name", "Values": ["db-1*"] }, { "Name": "tag-key", "Values": ["even"] }])
        ),
        3
    );
    assert_eq!(found(json!([{ "Name": "status", "Values": ["available", "creating"] }])), 12);
    assert_eq!(found(json!([{ "Name": "volume-id", "Values": [made[3], "vol-0000000000000000f"] }])), 1);
    assert_eq!(found(json!([{ "Name": "attachment.instance-id", "Values": ["*"] }])), 0);
    let many: Vec<_> = (0..201).map(|number| format!("vol-{number:017x}")).collect();
    let too_many = json!({ "Filters": [{ "Name": "volume-id", "Values": many }] });
    assert_eq!(boto.refused("describe_volumes", too_many), "FilterLimitExceeded");
    let unknown = json!({ "Filters": [{ "Name": "colour", "Values": ["red"] }] });
    assert_eq!(boto.refused("describe_volumes", unknown), "InvalidParameterValue");

    let batch = json!({ "VolumeIds": [made[0], "vol-0000000000000000f"] });
    let no = boto.ec2("describe_volumes", batch).unwrap_err();
    assert_eq!(
        (no.code.as_str(), no.status),
        ("InvalidVolume.NotFound", 400),
        "one unknown spoils the batch"
    );
    assert_eq!(no.message, "The volume 'vol-0000000000000000f' does not exist.");
    boto.ec2("create_tags", json!({ "Resources": [made[0]], "Tags": [{ "Key": "name", "Value": "new" }] }))
        .unwrap();
    assert_eq!(aws.volumes()[0].tags["name"], "new");
    assert_eq!(aws.calls("CreateVolume"), 12);
}

#[test]
fn volumes_are_what_their_type_lets_them_be() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let mut refused = |more: Value| {
        let mut given = json!({ "AvailabilityZone": ZONE });
        merge(&mut given, more);
        boto.refused("create_volume", given)
    };
    assert_eq!(refused(json!({ "Size": 1, "VolumeType": "st1" })), "InvalidParameterValue");
    assert_eq!(refused(json!({ "Size": 4, "VolumeType": "io2" })), "MissingParameter");
    assert_eq!(
        refused(json!({ "Size": 4, "VolumeType": "gp2", "Iops": 100 })),
        "InvalidParameterCombination"
    );
    assert_eq!(refused(json!({ "Size": 4, "VolumeType": "gp3", "Iops": 3100 })), "InvalidParameterValue");
    assert_eq!(
        refused(json!({ "Size": 4, "VolumeType": "gp3", "Throughput": 800 })),
        "InvalidParameterValue"
    );
    assert_eq!(
        refused(json!({ "Size": 4, "VolumeType": "gp3", "MultiAttachEnabled": true })),
        "InvalidParameterCombination"
    );
    assert_eq!(
        refused(json!({ "Size": 1, "VolumeType": "gp3", "AvailabilityZone": "us-east-1a" })),
        "InvalidZone.NotFound"
    );
    assert_eq!(refused(json!({ "VolumeType": "gp3", "SnapshotId": "snap-1" })), "InvalidSnapshot.NotFound");
    assert_eq!(refused(json!({ "VolumeType": "gp3" })), "MissingParameter");
    assert_eq!(refused(json!({ "Size": 1, "DryRun": true })), "DryRunOperation");
    assert!(aws.volumes().is_empty());
}

#[test]
fn nobody_is_believed_who_did_not_sign() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let right = aws.credentials();
    let both = |boto: &mut Boto| {
        let ebs = boto.ebs("list_snapshot_blocks", json!({ "SnapshotId": "snap-1" })).unwrap_err();
        (boto.refused("describe_volumes", json!({})), ebs.code)
    };
    let told = |ec2: &str, ebs: &str| (ec2.to_owned(), ebs.to_owned());

    let mut wrong = right.clone();
    wrong.secret_access_key.push('x');
    boto.become_of(&wrong, kato_tests::aws::REGION);
    assert_eq!(both(&mut boto), told("SignatureDoesNotMatch", "InvalidSignatureException"));
    wrong = right.clone();
    wrong.access_key_id.push('X');
    boto.become_of(&wrong, kato_tests::aws::REGION);
    assert_eq!(both(&mut boto), told("AuthFailure", "UnrecognizedClientException"));
    boto.become_of(&right, "us-east-1");
    assert_eq!(both(&mut boto), told("SignatureDoesNotMatch", "InvalidSignatureException"));

    let new = aws.rotate_credentials();
    boto.become_of(&right, kato_tests::aws::REGION);
    assert_eq!(both(&mut boto), told("RequestExpired", "ExpiredTokenException"));
    boto.become_of(&new, kato_tests::aws::REGION);
    assert_eq!(boto.ec2("describe_volumes", json!({})).unwrap()["Volumes"], json!([]));
}

#[test]
fn instances_and_zones_are_told_of() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m7i.large");
    let types =
        boto.ec2("describe_instance_types", json!({ "InstanceTypes": ["m7i.large", "m5d.large"] })).unwrap();
    let limits: Vec<_> =
        types["InstanceTypes"].as_array().unwrap().iter().map(|it| it["EbsInfo"].clone()).collect();
    assert_eq!(
        (&limits[0]["MaximumEbsAttachments"], &limits[0]["AttachmentLimitType"]),
        (&json!(28), &json!("shared"))
    );
    assert_eq!(
        (&limits[1]["MaximumEbsAttachments"], &limits[1]["AttachmentLimitType"]),
        (&json!(32), &json!("dedicated"))
    );
    assert_eq!(
        boto.refused("describe_instance_types", json!({ "InstanceTypes": ["x"] })),
        "InvalidInstanceType"
    );
    assert_eq!(
        boto.refused("describe_instances", json!({ "InstanceIds": ["i-0"] })),
        "InvalidInstanceID.NotFound"
    );
    let zones = boto.ec2("describe_availability_zones", json!({})).unwrap();
    assert_eq!(ids(&zones["AvailabilityZones"], "ZoneName"), [ZONE, "eu-central-1b", "eu-central-1c"]);

    let mut seen = |filter: &str| {
        let filters = json!([{ "Name": "instance-state-name", "Values": [filter] }]);
        let answer = boto.ec2("describe_instances", json!({ "Filters": filters })).unwrap();
        answer["Reservations"].as_array().unwrap().first().map(|it| it["Instances"][0].clone())
    };
    let running = seen("running").unwrap();
    assert_eq!(
        (text(&running["InstanceId"]), text(&running["Placement"]["AvailabilityZone"])),
        (node.id().to_owned(), ZONE.to_owned())
    );
    assert_eq!(running["BlockDeviceMappings"][0]["DeviceName"], "/dev/xvda");
    node.stop();
    assert!(seen("running").is_none() && seen("stopped").is_some());
    node.terminate();
    assert!(seen("terminated").is_some());
}
