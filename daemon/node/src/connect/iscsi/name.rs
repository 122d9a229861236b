//! What this node is called among iSCSI's initiators. A host with open-iscsi has a name already, which targets may know;
//! where there is none, one is made of the node's id, and two nodes never get the same.

use std::{fs, path::Path};

use kato_orchestrator::Error;

/// Where open-iscsi keeps a host's name.
const FILE: &str = "/etc/iscsi/initiatorname.iscsi";

/// What names are made of begins so: a year and month in which this project had the domain, turned around.
const OURS: &str = "iqn.2026-01.storage.kato:";

/// A name may have so many bytes.
const LONGEST: usize = 223;

/// The name of the node with this id, where the operator has written none.
pub fn initiator_of(node: &str) -> Result<String, Error> {
    named(Path::new(FILE), node)
}

fn named(file: &Path, node: &str) -> Result<String, Error> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let written = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="));
    let name = written.map_or_else(|| made_of(node), |name| name.trim().to_owned());
    if is_initiator(&name) {
        return Ok(name);
    }
    let from = written.map_or("made of the node's id", |_| "in /etc/iscsi/initiatorname.iscsi");
    Err(Error::precondition(format!(
        "the initiator's name {name:?}, {from}, is none: write `node.initiator`, such as {OURS}host-1"
    )))
}

/// What cannot stand in a name stands there as its number: small letters and digits mean themselves.
fn made_of(node: &str) -> String {
    let mut name = OURS.to_owned();
    for byte in node.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!(":{other:02x}")),
        }
    }
    name
}

/// Whether this can be an initiator's name (RFC 3720, section 3.2.6).
#[must_use]
pub fn is_initiator(name: &str) -> bool {
    let word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b':');
    let kinds = ["iqn.", "eui.", "naa."];
    name.len() <= LONGEST
        && name.bytes().all(word)
        && kinds.iter().any(|kind| name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_has_a_name_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("name");
        assert_eq!(named(&file, "n1").unwrap(), "iqn.2026-01.storage.kato:n1");
        fs::write(&file, "## a remark\nInitiatorName=iqn.1993-08.org.debian:01:abc\n").unwrap();
        assert_eq!(named(&file, "n1").unwrap(), "iqn.1993-08.org.debian:01:abc");
        fs::write(&file, "GenerateName=yes\n").unwrap();
        assert_eq!(named(&file, "n1").unwrap(), "iqn.2026-01.storage.kato:n1");
        fs::write(&file, "InitiatorName=my host\n").unwrap();
        assert!(named(&file, "n1").unwrap_err().message.contains("node.initiator"));
    }

    #[test]
    fn no_two_nodes_have_the_same_name() {
        let made: Vec<String> = ["a-b", "a_b", "a:5fb", "A-B", "a.b", "ä"].map(made_of).into();
        for (at, name) in made.iter().enumerate() {
            assert!(is_initiator(name), "{name}");
            assert!(!made[..at].contains(name), "{name}");
        }
        assert!(named(Path::new("/nowhere"), &"_".repeat(100)).is_err());
    }

    #[test]
    fn names_are_of_the_three_kinds() {
        for good in ["iqn.2026-01.com.example:a.b-c:1", "eui.02004567a425678d", "naa.52004567ba64678d"] {
            assert!(is_initiator(good), "{good}");
        }
        for bad in ["", "iqn.", "host", "iqn.2026-01.com.example:A", "iqn.x y", "iqn.x,y", "iqn.x_y"] {
            assert!(!is_initiator(bad), "{bad}");
        }
    }
}
