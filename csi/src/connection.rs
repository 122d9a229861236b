//! How a connection travels from the controller to the node, as words of a `publish_context`. No secret is in one: what
//! opens a connection is the node's to find. The words are ours alone, and the seal over them says so.

use std::collections::BTreeMap;

use kato_orchestrator::{Error, model::Connection};

use crate::seal::OURS;

type Words = BTreeMap<String, String>;

/// What lies between the parts of a list: none of them holds it.
const BETWEEN: char = '\n';

/// The words of a connection.
pub(crate) fn to_wire(connection: &Connection) -> Words {
    let mut words = Words::new();
    let mut word = |name: &str, value: &str| {
        if !value.is_empty() {
            words.insert(format!("{OURS}{name}"), value.to_owned());
        }
    };
    word("via", connection.kind());
    match connection {
        Connection::Directory { root, path } | Connection::File { root, path } => {
            word("root-folder", root);
            word("path", path);
        }
        Connection::Device { identity, value } => {
            word("identity", identity);
            word("value", value);
        }
        Connection::Rbd { cluster, pool, namespace, image, snapshot } => {
            word("cluster", cluster);
            word("pool", pool);
            word("namespace", namespace);
            word("image", image);
            word("snapshot", snapshot.as_deref().unwrap_or_default());
        }
        Connection::Iscsi { backend, portals, iqn, lun, multipath, initiator } => {
            word("backend", backend);
            word("portals", &joined(portals));
            word("iqn", iqn);
            word("lun", &lun.to_string());
            word("multipath", multipath.as_deref().unwrap_or_default());
            word("initiator", initiator.as_deref().unwrap_or_default());
        }
        Connection::Nbd { server, export } => {
            word("server", server);
            word("export", export);
        }
        Connection::Nfs { server, path, options } => {
            word("server", server);
            word("path", path);
            word("options", &joined(options));
        }
    }
    words
}

/// The connection of these words, which were sealed.
pub(crate) fn from_wire(words: &Words) -> Result<Connection, Error> {
    let word = |name: &str| words.get(&format!("{OURS}{name}")).cloned().unwrap_or_default();
    let maybe = |name: &str| words.get(&format!("{OURS}{name}")).cloned();
    let list =
        |name: &str| word(name).split(BETWEEN).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Ok(match word("via").as_str() {
        "directory" => Connection::Directory { root: word("root-folder"), path: word("path") },
        "file" => Connection::File { root: word("root-folder"), path: word("path") },
        "device" => Connection::Device { identity: word("identity"), value: word("value") },
        "rbd" => Connection::Rbd {
            cluster: word("cluster"),
            pool: word("pool"),
            namespace: word("namespace"),
            image: word("image"),
            snapshot: maybe("snapshot"),
        },
        "iscsi" => Connection::Iscsi {
            backend: word("backend"),
            portals: list("portals"),
            iqn: word("iqn"),
            lun: word("lun").parse().map_err(|_| newer("a unit"))?,
            multipath: maybe("multipath"),
            initiator: maybe("initiator"),
        },
        "nbd" => Connection::Nbd { server: word("server"), export: word("export") },
        "nfs" => Connection::Nfs { server: word("server"), path: word("path"), options: list("options") },
        other => return Err(newer(&format!("{other:?}"))),
    })
}

/// The seal is ours, but these words are none that we know.
fn newer(what: &str) -> Error {
    Error::invalid(format!(
        "the publish_context names a connection by {what}, which this version does not know: upgrade the nodes before the \
         controller"
    ))
}

fn joined(parts: &[String]) -> String {
    parts.join(&BETWEEN.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_arrives_as_it_was_sent() {
        let text = str::to_owned;
        for connection in [
            Connection::Directory { root: text("/srv"), path: text("a/b") },
            Connection::File { root: text("/srv"), path: text("b") },
            Connection::Device { identity: text("nvme-serial"), value: text("vol1") },
            Connection::Rbd {
                cluster: text("ceph"),
                pool: text("rbd"),
                namespace: String::new(),
                image: text("i"),
                snapshot: None,
            },
            Connection::Iscsi {
                backend: text("cloud"),
                portals: vec![text("10.0.0.2:3260")],
                iqn: text("iqn.x"),
                lun: 0,
                multipath: None,
                initiator: Some(text("iqn.y")),
            },
            Connection::Nbd { server: text("h:10809"), export: text("e") },
            Connection::Nfs { server: text("h"), path: text("/e"), options: vec![text("vers=4,soft")] },
        ] {
            assert_eq!(from_wire(&to_wire(&connection)).unwrap(), connection);
        }
        assert!(from_wire(&Words::new()).is_err());
    }
}
