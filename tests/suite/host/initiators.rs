//! The kernel's own initiator, which no kernel that the tests run on has: trees of sysfs as it makes them, over loop
//! devices that play the disks, and programs of open-iscsi's and multipath's names that write down what they are told and
//! do to the trees what the real ones have the kernel do. The command lines are those that iscsiadm 2.1.8 takes.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use kato_node::{Chap, IscsiDriver, LinuxHost, Secret};
use kato_orchestrator::{
    Kind,
    model::{Bytes, Connection, FsType},
    ports::host::{Condition, Connections as _, Observations as _},
};
use rustix::fs::{CWD, FileType, Mode, major, makedev, minor, mknodat, stat};

use super::ground::{Disk, Ground, SMALL, run};

const IQN: &str = "iqn.2026-01.com.example:tc:01:sn:00aa11bb22cc33dd";
const SECRET: &str = "a-canary-14-chr";
const PORTALS: [&str; 2] = ["10.0.0.1:3260", "10.0.0.2:3260"];

/// A host whose kernel has iSCSI, in a folder of the ground.
struct Initiator {
    tree: PathBuf,
    /// The loop device that plays the unit, by each of its paths.
    device: String,
    file: PathBuf,
}

impl Initiator {
    /// One that has a unit of 64 MiB behind two portals; the node is on it from now on.
    fn over(ground: &mut Ground) -> Self {
        let (tree, file) = (ground.path("host"), ground.path("unit"));
        fs::File::create_new(&file).unwrap().set_len(SMALL).unwrap();
        let told = run("losetup", &["--show", "--find", file.to_str().unwrap()]);
        let device = String::from_utf8(told.stdout).unwrap().trim().to_owned();
        let this = Self { tree, device, file };
        for folder in ["class/iscsi_session", "class/iscsi_transport/tcp", "block", "module"] {
            fs::create_dir_all(this.tree.join("sys").join(folder)).unwrap();
        }
        for folder in ["dev", "programs", "iscsi/ifaces", "iscsi/nodes"] {
            fs::create_dir_all(this.tree.join(folder)).unwrap();
        }
        for (number, disk) in ["sda", "sdb"].into_iter().enumerate() {
            this.put_session(number + 1, disk);
        }
        this.put_program("iscsiadm", ISCSIADM);
        let chap = Chap { user: "kato".into(), secret: Secret::Text(SECRET.into()), mutual: None };
        ground.config.accounts.iscsi.insert("cloud".into(), Some(chap));
        ground.config.initiator = "iqn.2026-01.storage.kato:test".into();
        ground.config.iscsi = vec![IscsiDriver::OpenIscsi];
        ground.config.dev = this.tree.join("dev");
        ground.config.sys = this.tree.join("sys");
        ground.config.iscsi_records = vec![this.tree.join("nowhere"), this.tree.join("iscsi")];
        ground.config.programs.insert(0, this.tree.join("programs"));
        this
    }

    /// A session that a login will show, with its disk. Another unit of the target is none of ours.
    fn put_session(&self, number: usize, disk: &str) {
        let host = self.tree.join(format!("sys/devices/host{number}"));
        let session = host.join(format!("session{number}"));
        let class = session.join(format!("iscsi_session/session{number}"));
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join("state"), "LOGGED_IN\n").unwrap();
        symlink(&session, class.join("device")).unwrap();
        let target = session.join(format!("target{number}:0:0"));
        fs::create_dir_all(target.join(format!("{number}:0:0:2/block/sdz"))).unwrap();
        fs::create_dir_all(target.join(format!("{number}:0:0:1/block/{disk}"))).unwrap();
        fs::create_dir_all(self.tree.join(format!("sys/class/scsi_host/host{number}"))).unwrap();
        self.put_disk(disk);
    }

    fn put_disk(&self, name: &str) {
        let numbers = stat(self.device.as_str()).unwrap().st_rdev;
        let (major, minor) = (major(numbers), minor(numbers));
        let block = self.tree.join("sys/block").join(name);
        fs::create_dir_all(block.join("device")).unwrap();
        fs::create_dir_all(block.join("holders")).unwrap();
        fs::write(block.join("dev"), format!("{major}:{minor}\n")).unwrap();
        let node = self.tree.join("dev").join(name);
        mknodat(CWD, &node, FileType::BlockDevice, Mode::from_raw_mode(0o600), makedev(major, minor))
            .unwrap();
    }

    fn put_program(&self, name: &str, text: &str) {
        let path = self.tree.join("programs").join(name);
        let text = text.replace("TREE", self.tree.to_str().unwrap()).replace("IQN", IQN);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Has dm-multipath make maps of paths.
    fn has_multipath(&self) {
        fs::create_dir_all(self.tree.join("sys/module/dm_multipath")).unwrap();
        self.put_disk("dm-0");
        fs::create_dir_all(self.tree.join("sys/block/dm-0/dm")).unwrap();
        fs::write(self.tree.join("sys/block/dm-0/dm/uuid"), "mpath-3600000000000000001\n").unwrap();
        fs::write(self.tree.join("sys/block/dm-0/dm/name"), "mpatha\n").unwrap();
        self.put_program("multipath", MULTIPATH);
        self.put_program("multipathd", "#!/bin/sh\necho \"multipathd $*\" >> TREE/said\n");
    }

    /// What the programs were told, and forgets it.
    fn said(&self) -> Vec<String> {
        let file = self.tree.join("said");
        let said = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, "").unwrap();
        assert!(!said.contains(SECRET), "a secret was on a command line: {said}");
        said.lines().map(str::to_owned).collect()
    }

    fn set_state(&self, session: usize, state: &str) {
        let class = format!("sys/devices/host{session}/session{session}/iscsi_session/session{session}");
        fs::write(self.tree.join(class).join("state"), format!("{state}\n")).unwrap();
    }

    fn read(&self, place: &str) -> String {
        fs::read_to_string(self.tree.join(place)).unwrap_or_default()
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        // The device is let go when what is mounted of it is gone.
        run("losetup", &["-d", &self.device]);
    }
}

/// Writes down what it is told, and keeps records and sessions where the real one has them.
const ISCSIADM: &str = r#"#!/bin/sh
echo "iscsiadm $*" >> TREE/said
face= portal= mode= op=
while [ $# -gt 0 ]; do
    case "$1" in
        --mode) mode=$2; shift ;;
        --interface) face=$2; shift ;;
        --portal) portal=$2; shift ;;
        --op) op=$2; shift ;;
        --login|--logout) op=$1 ;;
    esac
    shift
done
number=$(echo "$portal" | sed 's/10.0.0.\([0-9]*\):.*/\1/')
records=TREE/iscsi/nodes/IQN
case "$mode $op" in
    "iface new") echo "iface.iscsi_ifacename = $face" > TREE/iscsi/ifaces/$face ;;
    "iface delete") rm -f TREE/iscsi/ifaces/$face ;;
    "discovery ")
        mkdir -p "$records/10.0.0.$number,3260,1"
        printf '# BEGIN RECORD 2.1.8\nnode.session.auth.authmethod = None\n# END RECORD\n' \
            > "$records/10.0.0.$number,3260,1/$face" ;;
    "node --login")
        if [ -e TREE/refuses-$number ]; then
            echo "iscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure)" >&2
            exit 24
        fi
        class=TREE/sys/devices/host$number/session$number/iscsi_session/session$number
        echo "$face" > $class/ifacename
        ln -sfn $class TREE/sys/class/iscsi_session/session$number
        cp "$records/10.0.0.$number,3260,1/$face" TREE/record-$number ;;
    "node --logout")
        ls TREE/sys/class/iscsi_session | grep -q . || exit 21
        rm -f TREE/sys/class/iscsi_session/session* ;;
    "node delete") rm -rf TREE/iscsi/nodes/* ;;
esac
exit 0
"#;

/// Makes the map when it is told of a path, and takes it down.
const MULTIPATH: &str = r#"#!/bin/sh
echo "multipath $*" >> TREE/said
case "$1" in
    -a) ;;
    -f) rm -f TREE/sys/block/sda/holders/dm-0 TREE/sys/block/sdb/holders/dm-0 ;;
    *) for disk in sda sdb; do ln -sfn ../../dm-0 TREE/sys/block/$disk/holders/dm-0; done ;;
esac
exit 0
"#;

fn unit(portals: &[&str]) -> Disk {
    let connection = Connection::Iscsi {
        backend: "cloud".into(),
        portals: portals.iter().map(|portal| (*portal).to_owned()).collect(),
        iqn: IQN.into(),
        lun: 1,
        multipath: None,
        initiator: Some("iqn.2026-01.com.example:this-host".into()),
    };
    Disk { connection, ..Disk::at("/nowhere".into(), "unit") }
}

async fn connected(node: &LinuxHost, disk: &Disk) -> String {
    node.connect(disk.id, &disk.connection, false).await.unwrap().path
}

#[tokio::test]
async fn a_unit_is_logged_in_to_mounted_and_logged_out_of() {
    let mut ground = Ground::new();
    let host = Initiator::over(&mut ground);
    let (node, disk) = (ground.node().await, unit(&PORTALS[..1]));
    let face = format!("kato-{}", disk.id);
    let device = connected(&node, &disk).await;
    assert_eq!(device, host.tree.join("dev/sda").display().to_string());
    let at = format!("--mode node --targetname {IQN} --portal 10.0.0.1:3260 --interface {face}");
    let set = |name: &str, value: &str| format!("iscsiadm {at} --op update --name {name} --value {value}");
    assert_eq!(
        host.said(),
        [
            format!("iscsiadm --mode iface --interface {face} --op new"),
            format!(
                "iscsiadm --mode iface --interface {face} --op update --name iface.initiatorname --value \
                 iqn.2026-01.com.example:this-host"
            ),
            format!("iscsiadm --mode discovery --type sendtargets --portal 10.0.0.1:3260 --interface {face}"),
            set("node.startup", "manual"),
            set("node.session.scan", "manual"),
            set("node.session.initial_login_retry_max", "1"),
            set("node.conn[0].timeo.login_timeout", "10"),
            set("node.session.timeo.replacement_timeout", "-1"),
            set("node.session.auth.authmethod", "CHAP"),
            set("node.session.auth.username", "kato"),
            format!("iscsiadm {at} --login"),
        ]
    );
    // What the login read: the secret is in a record of root's, and only there.
    let record = host.read("record-1");
    assert!(record.contains(&format!("\nnode.session.auth.password = {SECRET}\n# END RECORD\n")), "{record}");
    let kept = host.tree.join(format!("iscsi/nodes/{IQN}/10.0.0.1,3260,1/{face}"));
    assert_eq!(fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(host.read("sys/class/scsi_host/host1/scan"), "- - 1");

    // It is found by what sysfs says, and nothing is done again.
    assert_eq!(connected(&node, &disk).await, device);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let place = disk.mount(&node).await.unwrap();
    assert_eq!(place.device.path, device);
    assert_eq!(disk.health(&node, &place.path).await, Condition::Well);
    assert_eq!(host.said(), Vec::<String>::new());

    host.set_state(1, "FAILED");
    let told = node.health(&disk.standing(&place.path)).await.unwrap_err();
    assert_eq!(told.kind, Kind::Timeout);
    assert!(told.message.contains("FAILED") && told.message.contains(IQN), "{told}");
    host.set_state(1, "LOGGED_IN");

    fs::File::options().write(true).open(&host.file).unwrap().set_len(2 * SMALL).unwrap();
    run("losetup", &["-c", &host.device]);
    assert_eq!(node.rescan(disk.id, &disk.connection, Bytes(2 * SMALL)).await.unwrap(), Bytes(2 * SMALL));
    assert_eq!(host.read("sys/block/sda/device/rescan"), "1");

    disk.unmount(&node).await.unwrap();
    let gone = [
        format!("iscsiadm --mode node --interface {face} --logout"),
        format!("iscsiadm --mode node --interface {face} --op delete"),
        format!("iscsiadm --mode iface --interface {face} --op delete"),
    ];
    assert_eq!(host.said(), gone);
    disk.unmount(&node).await.unwrap();
    assert_eq!(host.said(), Vec::<String>::new());
}

#[tokio::test]
async fn paths_by_several_portals_are_gathered_where_the_host_can() {
    let mut ground = Ground::new();
    let host = Initiator::over(&mut ground);
    host.has_multipath();
    let (node, disk) = (ground.node().await, unit(&PORTALS));
    let device = connected(&node, &disk).await;
    assert_eq!(device, host.tree.join("dev/dm-0").display().to_string());
    let said = host.said();
    let count = |words: &str| said.iter().filter(|line| line.contains(words)).count();
    assert_eq!(
        (count("--login"), count("login_timeout --value 5"), count("replacement_timeout --value 15")),
        (2, 2, 2)
    );
    let path = host.tree.join("dev/sda").display().to_string();
    assert_eq!(&said[said.len() - 2..], [format!("multipath -a {path}"), format!("multipath {path}")]);
    host.set_state(1, "FAILED");
    disk.format(&node, FsType::Ext4).await.unwrap();
    let place = disk.mount(&node).await.unwrap();
    assert_eq!(disk.health(&node, &place.path).await, Condition::Well, "one path is left");
    node.rescan(disk.id, &disk.connection, Bytes(SMALL)).await.unwrap();
    assert_eq!(host.said(), ["multipathd resize map mpatha"]);
    disk.unmount(&node).await.unwrap();
    let said = host.said();
    assert_eq!(said[0], "multipath -f mpatha", "the map goes before its paths");
    assert!(said[1].ends_with("--logout"));
}

#[tokio::test]
async fn without_multipath_the_first_portal_that_lets_us_in_is_used() {
    let mut ground = Ground::new();
    let host = Initiator::over(&mut ground);
    let (node, disk) = (ground.node().await, unit(&PORTALS));
    fs::write(host.tree.join("refuses-1"), "").unwrap();
    let device = connected(&node, &disk).await;
    assert_eq!(device, host.tree.join("dev/sdb").display().to_string());
    node.disconnect(disk.id, &disk.connection).await.unwrap();
    fs::write(host.tree.join("refuses-2"), "").unwrap();
    host.said();
    let error = node.connect(disk.id, &disk.connection, false).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    for words in [PORTALS[0], PORTALS[1], "authorization failure"] {
        assert!(error.message.contains(words), "{error}");
    }
    assert!(host.said().last().unwrap().ends_with("--op delete"), "what was half made is taken back");
    let told = node.facts().await.unwrap().connectors;
    let find = |name: &str| told.iter().find(|(way, _)| way == name).unwrap().1.clone();
    assert_eq!(find("iscsi by open-iscsi"), Ok(()));
    assert!(find("iscsi multipath").unwrap_err().contains("dm_multipath"));
}
