//! What nodes are called outside, and where they are. A controller that shares no records with a node has to know what
//! each backend calls it, so that is a part of its id: `node-1,ebs=i-0123`. The parts are percent-encoded where they have
//! to be, and their order is one, so that one node has one id.

use std::collections::BTreeMap;

use kato_orchestrator::{
    Error,
    model::{BackendName, NodeId},
};

use crate::{config::Config, rules::LABEL_LIMIT};

/// The longest id that we give a node: the specification allows more, and advises less.
const NODE_ID_LIMIT: usize = 192;

/// The word for the segment of the node itself.
const NODE: &str = "node";

/// A node, and what each backend calls it where that is another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeName {
    /// What the house calls it.
    pub(crate) id: NodeId,
    /// What the backends do.
    pub(crate) names: BTreeMap<BackendName, String>,
}

impl NodeName {
    /// What this id means.
    pub(crate) fn from_wire(text: &str) -> Result<Self, Error> {
        let parsed = || {
            let mut parts = text.split(',');
            let id = NodeId::parse(&decode(parts.next()?)?).ok()?;
            let mut names = BTreeMap::new();
            for part in parts {
                let (backend, name) = part.split_once('=')?;
                let backend = BackendName::parse(&decode(backend)?).ok()?;
                let name = decode(name).filter(|name| !name.is_empty())?;
                if names.insert(backend, name).is_some() {
                    return None;
                }
            }
            Some(Self { id, names })
        };
        // One node has one id: what we would write otherwise is not what we wrote.
        parsed().filter(|node| node.text() == text).ok_or_else(|| {
            Error::not_found("no node of ours has such an id: the id is what NodeGetInfo answers there")
                .about(format!("node {text:?}"))
        })
    }

    /// The id as text, if it is short enough to leave.
    pub(crate) fn to_wire(&self) -> Result<String, Error> {
        let text = self.text();
        if text.len() > NODE_ID_LIMIT {
            return Err(Error::precondition(format!(
                "its id \"{text}\" has {} bytes, at most {NODE_ID_LIMIT} are allowed: give it a shorter node.id, or its \
                 backends shorter names",
                text.len()
            ))
            .about(format!("node {}", self.id)));
        }
        Ok(text)
    }

    fn text(&self) -> String {
        let mut text = encode(self.id.as_str());
        for (backend, name) in self.names.iter().filter(|(_, name)| name.as_str() != self.id.as_str()) {
            text.push_str(&format!(",{}={}", encode(backend.as_str()), encode(name)));
        }
        text
    }
}

/// Letters, digits and a few marks stay; everything else is `%` and two hex digits for each byte.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b'/' | b'@' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Where a node is: keys `<driver>/<word>`, of which `node` is always one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(BTreeMap<String, String>);

impl Place {
    /// Where this node is.
    pub(crate) fn here(config: &Config, node: &NodeId) -> Result<Self, Error> {
        let words = config.topology.iter().map(|(word, value)| (word.as_str(), value.as_str()));
        let mut segments = BTreeMap::new();
        for (word, value) in words.chain([(NODE, node.as_str())]) {
            if word.is_empty() || word.contains('/') || word.len() > LABEL_LIMIT || !is_label(value) {
                return Err(Error::precondition(format!(
                    "\"{word}\" = \"{value}\" cannot be a part of a topology: at most {LABEL_LIMIT} letters, digits, '-', \
                     '_' and '.', the first and the last a letter or digit (node.topology, node.id)"
                ))
                .about(format!("node {node}")));
            }
            let twice = segments.keys().any(|key: &String| {
                key.rsplit_once('/').is_some_and(|(_, known)| known.eq_ignore_ascii_case(word))
            });
            if twice {
                return Err(Error::precondition(format!(
                    "\"{word}\" is a part of its topology twice, as case does not count there (node.topology; \"{NODE}\" is \
                     always one)"
                ))
                .about(format!("node {node}")));
            }
            segments.insert(format!("{}/{word}", config.name), value.to_owned());
        }
        Ok(Self(segments))
    }

    /// Keys and values as they leave.
    pub(crate) fn segments(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Whether Kubernetes takes it as the value of a label, which is what it makes of a segment.
fn is_label(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let ends = value.bytes().next().zip(value.bytes().next_back());
    value.len() <= LABEL_LIMIT
        && ends.is_some_and(|(first, last)| plain(first) && plain(last))
        && value.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_' | b'.'))
}

/// A place that a caller names, in the words of `node.topology`. Other drivers' keys are nobody's business here.
pub(crate) fn words_from_wire(
    config: &Config,
    segments: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let ours = |key: &str| {
        let (prefix, word) = key.rsplit_once('/')?;
        // Keys are compared without regard to case, as the specification has it.
        let known = config.topology.keys().map(String::as_str).chain([NODE]);
        let word = known.into_iter().find(|known| known.eq_ignore_ascii_case(word)).unwrap_or(word);
        prefix.eq_ignore_ascii_case(&config.name).then(|| word.to_owned())
    };
    segments.iter().filter_map(|(key, value)| Some((ours(key)?, value.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;
    use crate::seal::SealKey;

    fn node(id: &str, names: &[(&str, &str)]) -> NodeName {
        let names =
            names.iter().map(|(backend, name)| (BackendName::parse(backend).unwrap(), (*name).to_owned()));
        NodeName { id: NodeId::parse(id).unwrap(), names: names.collect() }
    }

    #[test]
    fn a_node_is_read_as_it_was_written_whatever_its_names() {
        let plain = node("node-1", &[("ebs", "i-0123"), ("ceph", "10.0.0.7:0/12")]);
        assert_eq!(plain.to_wire().unwrap(), "node-1,ceph=10.0.0.7:0/12,ebs=i-0123");
        for hostile in [node("a,b=c", &[("=,%", "%2C,=")]), node("ü 🦀", &[("x", "\u{0}")]), node("%41", &[])]
        {
            assert_eq!(NodeName::from_wire(&hostile.to_wire().unwrap()).unwrap(), hostile);
        }
        assert_eq!(NodeName::from_wire(&plain.to_wire().unwrap()).unwrap(), plain);
    }

    #[test]
    fn what_backends_call_it_as_well_is_not_repeated() {
        assert_eq!(node("node-1", &[("local", "node-1")]).to_wire().unwrap(), "node-1");
    }

    #[test]
    fn one_node_has_one_id() {
        for foreign in [
            "",
            ",",
            "a,",
            "a,b",
            "a,=c",
            "a,b=",
            "a,b=c,b=d",
            "a,c=1,b=2",
            "%",
            "%4",
            "%zz",
            "%41",
            "a%2c",
            "a,b=a",
            "%FF",
            "a b",
        ] {
            let error = NodeName::from_wire(foreign).unwrap_err();
            assert_eq!(error.kind, Kind::NotFound, "{foreign}");
        }
    }

    #[test]
    fn an_id_that_is_too_long_is_told_before_it_leaves() {
        let error = node(&"n".repeat(120), &[("b", &"x".repeat(80))]).to_wire().unwrap_err();
        assert!(error.message.contains("203 bytes"), "{error}");
    }

    #[test]
    fn a_place_has_our_prefix_and_always_the_node() {
        let mut config = Config::new(SealKey::new([7; 32]).unwrap());
        config.topology = [("zone".to_owned(), "a".to_owned())].into();
        let id = NodeId::parse("node-1").unwrap();
        let place = Place::here(&config, &id).unwrap();
        let expected = [("kato.storage/node", "node-1"), ("kato.storage/zone", "a")];
        assert!(place.segments().iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected));
        let shouted = place.segments().iter().map(|(key, value)| (key.to_uppercase(), value.clone()));
        let words = words_from_wire(&config, &shouted.collect());
        assert_eq!(
            words,
            [("node".to_owned(), "node-1".to_owned()), ("zone".to_owned(), "a".to_owned())].into()
        );
        for twice in ["Node", "ZONE"] {
            let mut config = config.clone();
            config.topology.insert(twice.to_owned(), "b".to_owned());
            let refused = Place::here(&config, &id).unwrap_err();
            assert!(refused.message.to_lowercase().contains(&twice.to_lowercase()), "{refused}");
        }

        for wrong in ["", &"z".repeat(64), "-a", "a b", "ü"] {
            config.topology = [("zone".to_owned(), wrong.to_owned())].into();
            assert!(Place::here(&config, &id).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_of_others_are_passed_over() {
        let segments = [
            ("topology.example.com/zone".to_owned(), "a".to_owned()),
            ("kato.storage/zone".to_owned(), "b".to_owned()),
            ("zone".to_owned(), "c".to_owned()),
        ];
        let config = Config::new(SealKey::new([7; 32]).unwrap());
        let words = words_from_wire(&config, &segments.into());
        assert_eq!(words, [("zone".to_owned(), "b".to_owned())].into());
    }
}
