//! Granted connections: what a plugin may tell the node to connect to. Each kind is granted by itself; paths
//! are opened beneath their granted directory, by the rules of `files/beneath.rs`, before the answer leaves;
//! the node opens them the same way again when it connects.

use std::path::Path;

use kato_orchestrator::{Error, model::Connection};
use rustix::fs::{FileType, OFlags, fstat};
use serde::Deserialize;

use super::{ceph::CephGrant, denied, directories::Directories, iscsi::IscsiGrant};
use crate::files::beneath;

/// What a plugin may tell the node to connect to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionGrants {
    /// Directories beneath granted directories.
    pub directory: bool,
    /// Files beneath granted directories.
    pub file: bool,
    /// Block devices by these kinds of identity: `nvme-serial`, `wwid`, `virtio-serial`, `scsi-serial`, `by-id`,
    /// `ebs`.
    pub device: Vec<String>,
    /// Logical units behind iSCSI portals.
    pub iscsi: Option<IscsiGrant>,
    /// NBD servers: `host:port`, or absolute paths of sockets.
    pub nbd: Vec<String>,
    /// NFS servers, as `server:/path` for a directory and what is beneath it.
    pub nfs: Vec<String>,
}

impl ConnectionGrants {
    /// The kinds that are granted.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        [
            ("directory", self.directory),
            ("file", self.file),
            ("device", !self.device.is_empty()),
            ("iscsi", self.iscsi.is_some()),
            ("nbd", !self.nbd.is_empty()),
            ("nfs", !self.nfs.is_empty()),
        ]
        .into_iter()
        .filter_map(|(kind, granted)| granted.then_some(kind))
        .collect()
    }
}

/// The identities of devices that the node knows to look for.
const IDENTITIES: [&str; 6] = ["nvme-serial", "wwid", "virtio-serial", "scsi-serial", "by-id", "ebs"];

/// The kinds that a plugin can answer.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    grants: ConnectionGrants,
    /// The pool and namespace whose images may be named.
    ceph: Option<(String, String)>,
    kinds: Vec<&'static str>,
}

impl Kinds {
    pub(crate) fn new(
        asks: &[String],
        grants: &ConnectionGrants,
        ceph: Option<&CephGrant>,
        mistake: &mut impl FnMut(Error),
    ) -> Self {
        for identity in grants.device.iter().filter(|identity| !IDENTITIES.contains(&identity.as_str())) {
            mistake(Error::invalid(format!(
                "devices are granted by the unknown identity {identity:?}: use {}",
                IDENTITIES.join(", ")
            )));
        }
        grants.iscsi.iter().flat_map(IscsiGrant::mistakes).for_each(&mut *mistake);
        for server in grants.nfs.iter().filter(|server| !server.contains(":/")) {
            mistake(Error::invalid(format!("the NFS grant {server:?} is not server:/path")));
        }
        let granted = grants.kinds().into_iter().chain(ceph.map(|_| "rbd"));
        let kinds = granted.filter(|kind| asks.iter().any(|ask| ask == kind)).collect();
        let ceph = ceph.map(|grant| (grant.pool.clone(), grant.namespace.clone()));
        Self { grants: grants.clone(), ceph, kinds }
    }

    /// Whether all that may be answered lies in directories of this host.
    pub(crate) fn are_of_this_host(&self) -> bool {
        !self.kinds.is_empty() && self.kinds.iter().all(|kind| matches!(*kind, "directory" | "file"))
    }

    /// Checks an answer. Opens files, so it belongs where blocking is allowed.
    pub(crate) fn check(&self, connection: &Connection) -> Result<(), Error> {
        let kind = connection.kind();
        if !self.kinds.contains(&kind) {
            return Err(denied(format!(
                "the plugin answered a connection of kind {kind}, which is not granted (or its manifest does \
                 not ask for it)"
            )));
        }
        let refuse = |what: String| {
            Err(denied(format!("the plugin answered a connection to {what}, which is not granted")))
        };
        match connection {
            Connection::Directory { root, path } => opened(Path::new(root), path, FileType::Directory),
            Connection::File { root, path } => opened(Path::new(root), path, FileType::RegularFile),
            Connection::Device { identity, value } => {
                if !self.grants.device.contains(identity) {
                    return refuse(format!("a device by {}", identity.escape_debug()));
                }
                if identity == "ebs" {
                    return match is_ebs(value) {
                        true => Ok(()),
                        false => refuse(format!("the EBS volume {value:?} (it is no id and device name)")),
                    };
                }
                let safe = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'\\') || b == b' ';
                if value.is_empty() || value.len() > 256 || !value.bytes().all(safe) || value.starts_with('.')
                {
                    return refuse("a device whose identity is no plain word".into());
                }
                Ok(())
            }
            Connection::Rbd { cluster: _, pool, namespace, image, snapshot } => {
                if self.ceph.as_ref().is_none_or(|granted| (&granted.0, &granted.1) != (pool, namespace)) {
                    return refuse(format!("the Ceph pool {pool:?} with the namespace {namespace:?}"));
                }
                for word in std::iter::once(image).chain(snapshot) {
                    if !plain(word) {
                        return refuse(format!("the image or snapshot {word:?} (its name is no plain word)"));
                    }
                }
                Ok(())
            }
            Connection::Iscsi { backend: _, portals, iqn, multipath, initiator, lun: _ } => {
                let Some(grant) = &self.grants.iscsi else { return refuse("iSCSI".into()) };
                if let Some(what) = grant.refusal(portals, iqn, initiator.as_deref()) {
                    return refuse(what);
                }
                if multipath.as_ref().is_some_and(|name| !plain(name)) {
                    return refuse("a multipath map whose name is no plain word".into());
                }
                Ok(())
            }
            Connection::Nbd { server, export } => {
                if !self.grants.nbd.contains(server) {
                    return refuse(format!("the NBD server {server:?}"));
                }
                if export.len() > 256 || export.chars().any(char::is_control) {
                    return refuse("an NBD export whose name is no text".into());
                }
                Ok(())
            }
            Connection::Nfs { server, path, options } => {
                let dots = path.split('/').any(|part| part == "." || part == "..");
                let beneath = |grant: &String| {
                    grant.strip_prefix(server.as_str()).and_then(|rest| rest.strip_prefix(':')).is_some_and(
                        |root| {
                            let root = root.trim_end_matches('/');
                            path.strip_prefix(root)
                                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        },
                    )
                };
                if dots || path.chars().any(char::is_control) || !self.grants.nfs.iter().any(beneath) {
                    return refuse(format!("{server}:{path}"));
                }
                nfs_options(options)
            }
        }
    }
}

/// Whether this is a volume's id and a name that one is attached under, such as `vol-0123abcd:/dev/xvdba`. The name
/// whose only letter is `a` is the root disk's.
fn is_ebs(value: &str) -> bool {
    let Some((id, name)) = value.split_once(':') else { return false };
    let digits = id.strip_prefix("vol-").unwrap_or_default();
    let letters = name.strip_prefix("/dev/xvd").or_else(|| name.strip_prefix("/dev/sd")).unwrap_or_default();
    (8..=17).contains(&digits.len())
        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && (1..=2).contains(&letters.len())
        && letters.bytes().all(|b| b.is_ascii_lowercase())
        && letters != "a"
}

/// Options that only say how to talk to the server.
fn nfs_options(options: &[String]) -> Result<(), Error> {
    const KNOWN: [&str; 18] = [
        "vers",
        "nfsvers",
        "minorversion",
        "proto",
        "port",
        "rsize",
        "wsize",
        "timeo",
        "retrans",
        "hard",
        "nconnect",
        "noresvport",
        "sec",
        "lookupcache",
        "actimeo",
        "nolock",
        "tcp",
        "ro",
    ];
    match options.iter().find(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-'));
        !KNOWN.contains(&name) || !plain
    }) {
        Some(option) => {
            Err(denied(format!("the plugin answered the NFS option {option:?}, which is not allowed")))
        }
        None => Ok(()),
    }
}

fn plain(word: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=256).contains(&word.len())
        && word.bytes().all(safe)
        && word.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
}

fn opened(root: &Path, path: &str, wanted: FileType) -> Result<(), Error> {
    let root = beneath::root(root)?;
    let found = beneath::open(&root, path, OFlags::PATH)?;
    let stat = fstat(&found).map_err(|error| beneath::failed(path, error))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != wanted {
        return Err(denied(format!(
            "the plugin answered a connection to {path:?}, which is no {}",
            if wanted == FileType::Directory { "directory" } else { "regular file" }
        )));
    }
    Ok(())
}

/// Whether a granted directory is meant at all: used when an answer is converted.
pub(crate) fn root_of(directories: &Directories, grant: &str) -> Result<String, Error> {
    let path = directories.path(grant)?;
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!("the path of the granted directory {grant:?} is not text (UTF-8)"))
    })
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;

    fn kinds(grants: &str) -> Kinds {
        let grants: ConnectionGrants = toml::from_str(grants).unwrap();
        let asks: Vec<String> =
            ["directory", "file", "device", "rbd", "iscsi", "nbd", "nfs"].map(str::to_owned).into();
        let ceph = CephGrant {
            namespace: "n".into(),
            ..toml::from_str("user = \"kato\"\nkeyring = \"/k\"\npool = \"p\"").unwrap()
        };
        Kinds::new(&asks, &grants, Some(&ceph), &mut |error| panic!("{error}"))
    }

    #[test]
    fn paths_are_opened_beneath_their_directory() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("vol")).unwrap();
        std::fs::write(temp.path().join("image"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", temp.path().join("link")).unwrap();
        let kinds = kinds("directory = true\nfile = true");
        let root = temp.path().to_str().unwrap().to_owned();
        let directory =
            |path: &str| kinds.check(&Connection::Directory { root: root.clone(), path: path.into() });
        let file = |path: &str| kinds.check(&Connection::File { root: root.clone(), path: path.into() });
        directory("vol").unwrap();
        file("image").unwrap();
        for bad in [
            "image",
            "link",
            "link/ssh",
            "..",
            "../x",
            "/",
            "/etc",
            "vol/",
            "vol/../vol",
            "",
            ".",
            "missing",
            "a\0b",
        ] {
            assert!(directory(bad).is_err(), "{bad:?}");
        }
        assert!(file("vol").is_err());
    }

    #[test]
    fn network_kinds_have_to_be_granted_by_name() {
        let kinds = kinds(
            "device = [\"wwid\"]\nnbd = [\"h:10809\"]\nnfs = [\"h:/export\"]\n\
             iscsi = { portals = [\"10.0.0.1:3260\"], iqn_prefix = \"iqn.2026-01.x:\" }",
        );
        let rbd = |pool: &str, namespace: &str, image: &str| {
            kinds.check(&Connection::Rbd {
                cluster: "ceph".into(),
                pool: pool.into(),
                namespace: namespace.into(),
                image: image.into(),
                snapshot: None,
            })
        };
        rbd("p", "n", "a").unwrap();
        for bad in
            [("q", "n", "a"), ("p", "", "a"), ("p", "x", "a"), ("p", "n", "--conf=/x"), ("p", "n", "a@s")]
        {
            assert!(rbd(bad.0, bad.1, bad.2).is_err(), "{bad:?}");
        }
        let iscsi = |portal: &str, multipath: Option<&str>| {
            kinds.check(&Connection::Iscsi {
                backend: "cloud".into(),
                portals: vec![portal.into()],
                iqn: "iqn.2026-01.x:a".into(),
                lun: 1,
                multipath: multipath.map(str::to_owned),
                initiator: None,
            })
        };
        iscsi("10.0.0.1:3260", Some("volume-1")).unwrap();
        assert!(iscsi("10.0.0.2:3260", None).is_err() && iscsi("10.0.0.1:3260", Some("../m")).is_err());
        let nfs = |path: &str, options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            kinds.check(&Connection::Nfs { server: "h".into(), path: path.into(), options })
        };
        nfs("/export/a", &["vers=4.2"]).unwrap();
        nfs("/export", &[]).unwrap();
        assert!(
            nfs("/exports", &[]).is_err()
                && nfs("/export/../etc", &[]).is_err()
                && nfs("/export", &["suid"]).is_err()
        );
        let device = |identity: &str, value: &str| {
            kinds.check(&Connection::Device { identity: identity.into(), value: value.into() })
        };
        device("wwid", "naa.5000c500a1b2c3d4").unwrap();
        assert!(
            device("by-id", "x").is_err() && device("wwid", "../sda").is_err() && device("wwid", "").is_err()
        );
        assert!(kinds.check(&Connection::Directory { root: "/srv".into(), path: "x".into() }).is_err());
    }

    #[test]
    fn a_volume_of_ebs_is_an_id_and_a_device_name_and_never_the_root_disk() {
        let ebs = |kinds: &Kinds, value: &str| {
            kinds.check(&Connection::Device { identity: "ebs".into(), value: value.into() })
        };
        let granted = kinds("device = [\"ebs\"]");
        for good in ["vol-0123abcd:/dev/xvdba", "vol-0123456789abcdef0:/dev/sdf", "vol-0123abcd:/dev/xvdaa"] {
            ebs(&granted, good).unwrap();
        }
        for bad in [
            "",
            "vol-0123abcd",
            "vol-0123abcd:",
            "vol-0123abcd:xvdba",
            "vol-0123abcd:/dev/xvda",
            "vol-0123abcd:/dev/sda",
            "vol-0123abcd:/dev/sda1",
            "vol-0123abcd:/dev/xvdf1",
            "vol-0123abcd:/dev/nvme0n1",
            "vol-0123abcd:/dev/xvd../sda",
            "vol-0123abcd:/dev/xvdabc",
            "vol-0123ABCD:/dev/xvdf",
            "vol-012:/dev/xvdf",
            "vol-../../x:/dev/xvdf",
            "snap-0123abcd:/dev/xvdf",
        ] {
            assert_eq!(ebs(&granted, bad).unwrap_err().kind, Kind::PermissionDenied, "{bad}");
        }
        assert!(ebs(&kinds("device = [\"nvme-serial\"]"), "vol-0123abcd:/dev/xvdba").is_err());
    }
}
