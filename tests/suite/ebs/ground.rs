//! Nodes in Amazon's house: a machine each, with a daemon that has the class `ebs` in it and an instance of the model's for
//! what it has of devices. A second node is a machine beside the first, an instance of its own, and records of its own.

use std::fs;

use kato_tests::{
    aws::{Aws, Credentials, Instance, REGION},
    machine::{Machine, until},
};

use crate::copies::ground::Node;

/// Where volumes and instances are.
pub(super) const ZONE: &str = "eu-central-1a";

/// What all nodes are told: they are one cluster of ours.
const HOUSE: &str = "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n\
                     [limits]\nwatch-every = \"1s\"\ntidy-every = \"1s\"\n\
                     [class.ebs]\nbackend = \"ebs\"\nfs = \"xfs\"\ndefault-size = \"1GiB\"\n\
                     [class.images]\nbackend = \"local\"\nfs = \"xfs\"\nparameters = { kind = \"image\" }\n";

/// What a daemon on this instance is told.
pub(super) fn sections(aws: &Aws, instance: &Instance) -> String {
    let (id, endpoint) = (instance.id(), aws.endpoint());
    let (dev, sys) = (instance.dev(), instance.sys());
    format!(
        "{HOUSE}[node]\nidle-grace = \"1s\"\ndev = {dev:?}\nsys = {sys:?}\nnames = {{ ebs = {id:?} }}\n\
         topology = {{ zone = \"{ZONE}\" }}\n[backend.ebs]\nplugin = \"ebs\"\n[backend.ebs.grants]\n\
         connections = {{ device = [\"ebs\"] }}\n[backend.ebs.grants.aws]\nregion = \"{REGION}\"\n\
         endpoints = {{ ec2 = {endpoint:?}, ebs = {endpoint:?} }}\naddresses = [\"loopback\"]\n"
    )
}

/// Starts a daemon on this instance.
pub(super) fn start<'m>(machine: &'m Machine, aws: &Aws, instance: &Instance) -> Node<'m> {
    start_with(machine, &sections(aws, instance), &aws.credentials())
}

/// One that is told this, and finds these credentials in its profile.
pub(super) fn start_with<'m>(machine: &'m Machine, sections: &str, credentials: &Credentials) -> Node<'m> {
    let profile = write_profile(machine, credentials);
    // Nothing of whoever runs the test, and no service that is not there.
    let environment = [
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_PROFILE", "default"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", profile.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    Node::start_with(machine, sections, &environment)
}

/// Writes what a daemon on this machine finds when it looks for credentials, and answers where.
pub(super) fn write_profile(machine: &Machine, credentials: &Credentials) -> String {
    let path = machine.folder().join("credentials");
    let Credentials { access_key_id, secret_access_key, session_token } = credentials;
    let token = session_token.iter().map(|token| format!("aws_session_token = {token}\n"));
    let text = format!(
        "[default]\naws_access_key_id = {access_key_id}\naws_secret_access_key = {secret_access_key}\n{}",
        token.collect::<String>()
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Waits until nothing is attached anywhere.
pub(super) fn is_detached(aws: &Aws) {
    until("everything to be detached", || {
        aws.volumes().iter().all(|volume| volume.attachments.is_empty()).then_some(())
    });
}

/// Nothing of ours is left in the account, nor on these instances.
pub(super) fn is_empty(aws: &Aws, instances: &[&Instance]) {
    // What is being deleted is gone as far as anybody can tell.
    until("what is deleted to be gone", || {
        aws.volumes().iter().all(|volume| volume.state != "deleting").then_some(())
    });
    assert_eq!((aws.volumes(), aws.snapshots()), (vec![], vec![]));
    for instance in instances {
        assert_eq!(instance.disks().len(), 1, "besides its root there is {:?}", instance.disks());
    }
}

/// The only volume that there is, as Amazon calls it.
pub(super) fn only(aws: &Aws) -> String {
    let volumes = aws.volumes();
    let [volume] = volumes.as_slice() else { panic!("{volumes:?}") };
    volume.id.clone()
}
