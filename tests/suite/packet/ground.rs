//! Nodes at Packet's: a machine each, with a daemon that has the class `packet` in it and is a device of the model's. A second
//! node is a machine beside the first, a device of its own, and records of its own.

use std::{fs, os::unix::fs::OpenOptionsExt as _};

use kato_tests::{
    machine::{Machine, until},
    packet::{Device, IQN_PREFIX, Packet, Volume},
    tgt::Account,
};

use crate::copies::ground::Node;

/// Where volumes and devices are.
pub(super) const FACILITY: &str = "tst1";

/// What all nodes are told: they are one cluster of ours.
const HOUSE: &str = "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n\
                     [limits]\nwatch-every = \"1s\"\ntidy-every = \"1s\"\n\
                     [class.packet]\nbackend = \"packet\"\nfs = \"xfs\"\ndefault-size = \"1GiB\"\n";

/// How a node finds out where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The API says so.
    Access,
    /// The metadata service does.
    Metadata,
}

/// What a daemon on this device is told.
pub(super) fn sections(machine: &Machine, packet: &Packet<'_>, device: &Device, way: Way) -> String {
    let token = write_secret(machine, "token", &packet.token());
    let (base, project, id) = (packet.endpoint(), packet.project(), device.id());
    let (metadata, granted) = match way {
        Way::Access => (String::new(), String::new()),
        Way::Metadata => {
            let url = device.metadata();
            let origin = url.trim_end_matches("/metadata");
            (
                format!("metadata-url = {url:?}\n"),
                format!(
                    "[[backend.packet.grants.http]]\nurl = {origin:?}\naddresses = [\"loopback\"]\nmethods = [\"GET\"]\n"
                ),
            )
        }
    };
    format!(
        "{HOUSE}[node]\nidle-grace = \"1s\"\nservers = \"here\"\nnames = {{ packet = {id:?} }}\n\
         topology = {{ facility = \"{FACILITY}\", project = {project:?} }}\n\
         [backend.packet]\nplugin = \"packet\"\n\
         [backend.packet.configuration]\nbase-url = {base:?}\nproject = {project:?}\nmin-size = \"1GiB\"\n\
         default-size = \"1GiB\"\nlun = \"1\"\n{metadata}\
         [[backend.packet.grants.http]]\nurl = {base:?}\naddresses = [\"loopback\"]\n\
         authoriser.header = {{ name = \"X-Auth-Token\", secret = {{ file = {token:?} }} }}\n{granted}\
         [backend.packet.grants.connections.iscsi]\nportals = {:?}\niqn-prefix = \"{IQN_PREFIX}\"\n",
        packet.target().portals()
    )
}

/// The same with the account that targets ask for.
pub(super) fn with_account(machine: &Machine, sections: &str, account: &Account) -> String {
    let secret = write_secret(machine, "chap", &account.secret);
    let user = &account.user;
    format!(
        "{sections}[backend.packet.grants.connections.iscsi.chap]\nuser = {user:?}\nsecret.file = {secret:?}\n"
    )
}

/// Writes something that nobody else reads, and answers where.
pub(super) fn write_secret(machine: &Machine, name: &str, text: &str) -> String {
    let path = machine.folder().join(name);
    fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Starts a daemon on this device.
pub(super) fn start<'m>(machine: &'m Machine, packet: &Packet<'_>, device: &Device) -> Node<'m> {
    start_with(machine, &sections(machine, packet, device, Way::Access))
}

/// One that is told this.
pub(super) fn start_with<'m>(machine: &'m Machine, sections: &str) -> Node<'m> {
    Node::start_with(machine, sections, &[])
}

/// Waits until nothing is attached anywhere, and nobody has a session.
pub(super) fn is_detached(packet: &Packet<'_>) {
    until("everything to be detached", || {
        packet.volumes().iter().all(|volume| volume.devices.is_empty()).then_some(())
    });
    assert_eq!(packet.target().sessions(), [], "nothing is detached with a session");
}

/// Nothing of ours is left in the project, nor at the target, nor on these nodes.
pub(super) fn is_empty(packet: &Packet<'_>, nodes: &[&Node<'_>]) {
    for node in nodes {
        node.has_let_go();
        let left = "grep -lxE 'qemu-storage-da|iscsid' /proc/[0-9]*/comm; grep -E ' (fuse|xfs|ext4)[. ]' /proc/mounts \
                    | grep kato; ls /run/kato/servers 2>/dev/null; true";
        until("all servers to be gone", || {
            let left = node.machine.shell(left).stdout;
            (left.is_empty()).then_some(())
        });
    }
    assert_eq!((packet.volumes(), packet.snapshots()), (vec![], vec![]));
    assert_eq!(packet.target().sessions(), []);
}

/// The only volume that there is.
pub(super) fn only(packet: &Packet<'_>) -> Volume {
    let volumes = packet.volumes();
    let [volume] = volumes.as_slice() else { panic!("{volumes:?}") };
    volume.clone()
}
