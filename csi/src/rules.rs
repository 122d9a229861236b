//! What a field may hold: the specification's limits, one function each. Limits count bytes, and hold in both directions.
//! Which field keeps which rule is the table in `check.rs`. A fault names the field and what to do, and never
//! repeats a value: it may be a secret.

use std::collections::BTreeMap;

use kato_orchestrator::{Error, Kind};

use crate::{check::Checked, protocol::volume_capability::access_mode::Mode};

/// The longest text, and the longest id.
pub(crate) const TEXT_LIMIT: usize = 128;

/// The most that a map's keys and values may take together, and the flags of a mount.
pub(crate) const MAP_LIMIT: usize = 4 << 10;

/// The longest id of a node.
pub(crate) const NODE_LIMIT: usize = 256;

/// The longest name of a driver, and the longest value in a topology.
pub(crate) const LABEL_LIMIT: usize = 63;

/// The longest DNS prefix of a key in a topology.
const PREFIX_LIMIT: usize = 253;

/// Linux counts the NUL at the end.
const PATH_LIMIT: usize = 4095;

/// The longest name of a file.
const COMPONENT_LIMIT: usize = 255;

/// Something that a message may not hold.
#[derive(Debug)]
pub(crate) struct Fault {
    kind: Kind,
    field: String,
    what: String,
}

/// Whether a field is as it should be.
pub(crate) type Verdict = Result<(), Fault>;

impl Fault {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, field: String::new(), what: what.into() }
    }

    /// The same fault, seen from the message around it.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        let outer = outer.trim_start_matches("r#");
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner if inner.starts_with('[') => format!("{outer}{inner}"),
            inner => format!("{outer}.{inner}"),
        };
        self
    }

    /// What whoever asked is told.
    pub(crate) fn of_request(self) -> Error {
        Error::new(self.kind, self.what).about(self.field)
    }

    /// What whoever asked is told of an answer of ours that may not leave. What was asked for may have happened.
    pub(crate) fn of_answer(self) -> Error {
        Error::internal(format!("kato's own answer is not what the specification allows: {}", self.what))
            .about(self.field)
            .pending()
    }
}

fn wrong(what: impl Into<String>) -> Fault {
    Fault::new(Kind::InvalidArgument, what)
}

fn no_longer(length: usize, most: usize) -> Verdict {
    match length <= most {
        true => Ok(()),
        false => Err(wrong(format!("it is {length} bytes long: at most {most} are allowed"))),
    }
}

fn not_empty(empty: bool, missing: &str) -> Verdict {
    if empty { Err(wrong(format!("it is empty: {missing}"))) } else { Ok(()) }
}

fn each_of<T>(items: &[T], rule: impl Fn(&T) -> Verdict) -> Verdict {
    items
        .iter()
        .enumerate()
        .try_for_each(|(index, item)| rule(item).map_err(|fault| fault.within(&format!("[{index}]"))))
}

/// Anything that the type allows.
pub(crate) fn any<T>(_: &T) -> Verdict {
    Ok(())
}

/// A text that may be empty.
pub(crate) fn text(text: &str) -> Verdict {
    no_longer(text.len(), TEXT_LIMIT)
}

/// The id of something.
pub(crate) fn id(id: &str) -> Verdict {
    not_empty(id.is_empty(), "give the id of what is meant")?;
    no_longer(id.len(), TEXT_LIMIT)
}

/// Ids, of which there may be none.
pub(crate) fn ids(ids: &[String]) -> Verdict {
    each_of(ids, |one| id(one))
}

/// At least one id.
pub(crate) fn some_ids(list: &[String]) -> Verdict {
    not_empty(list.is_empty(), "give at least one id")?;
    ids(list)
}

/// A name that a caller chose. Nearly everything is legal in it, because it is never a path.
pub(crate) fn name(name: &str) -> Verdict {
    not_empty(name.is_empty(), "give it a name")?;
    no_longer(name.len(), TEXT_LIMIT)?;
    let banned = |c: &char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    match name.chars().find(banned) {
        None => Ok(()),
        Some(c) => Err(wrong(format!(
            "the name contains the control character U+{:04X}: only tab, line feed and carriage return may be in it",
            u32::from(c)
        ))),
    }
}

/// Where a list goes on. What is too long to be a token of ours is none, and the specification has a code for that.
pub(crate) fn token(token: &str) -> Verdict {
    text(token).map_err(|fault| Fault::new(Kind::Busy, format!("{}; begin the list again", fault.what)))
}

/// The id of a node.
pub(crate) fn node(id: &str) -> Verdict {
    not_empty(id.is_empty(), "give the id of the node")?;
    optional_node(id)
}

/// The id of a node, or of all.
pub(crate) fn optional_node(id: &str) -> Verdict {
    no_longer(id.len(), NODE_LIMIT)
}

/// Ids of nodes.
pub(crate) fn nodes(ids: &[String]) -> Verdict {
    each_of(ids, |one| node(one))
}

/// A path of this node.
pub(crate) fn path(path: &str) -> Verdict {
    not_empty(path.is_empty(), "give a path")?;
    if path.contains('\0') {
        return Err(wrong("the path contains a NUL: no path can"));
    }
    if !path.starts_with('/') {
        return Err(wrong("the path is not absolute: begin it with /"));
    }
    no_longer(path.len(), PATH_LIMIT)?;
    for component in path.split('/') {
        if component == ".." {
            return Err(wrong("the path goes up by \"..\": write where it is"));
        }
        if component.len() > COMPONENT_LIMIT {
            return Err(wrong(format!("a part of the path is longer than {COMPONENT_LIMIT} bytes")));
        }
    }
    Ok(())
}

/// A path of this node, or none.
pub(crate) fn optional_path(text: &str) -> Verdict {
    if text.is_empty() { Ok(()) } else { path(text) }
}

/// Words and what they stand for.
pub(crate) fn map(map: &BTreeMap<String, String>) -> Verdict {
    no_longer(map.iter().map(|(key, value)| key.len() + value.len()).sum(), MAP_LIMIT)
}

/// Secrets. Their keys may be told, their values never.
pub(crate) fn secrets(secrets: &BTreeMap<String, String>) -> Verdict {
    map(secrets)?;
    let legal = |key: &String| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match secrets.keys().all(legal) {
        true => Ok(()),
        // Not even the key: whoever mixes up keys and values sends the secret as one.
        false => Err(wrong("the name of a secret may hold letters, digits, '-', '_' and '.' alone")),
    }
}

/// Flags of a mount, which may hold secrets too.
pub(crate) fn flags(flags: &[String]) -> Verdict {
    if flags.iter().any(|flag| flag.contains('\0')) {
        return Err(wrong("a flag contains a NUL: no mount option can"));
    }
    no_longer(flags.iter().map(String::len).sum(), MAP_LIMIT)
}

/// A number of bytes or inodes.
pub(crate) fn size(size: &i64) -> Verdict {
    if *size < 0 { Err(wrong("a size is never negative")) } else { Ok(()) }
}

/// A size, or none.
pub(crate) fn optional_size(given: &Option<i64>) -> Verdict {
    given.as_ref().map_or(Ok(()), size)
}

/// How many there may be; zero is any number.
pub(crate) fn count(count: &i32) -> Verdict {
    if *count < 0 {
        Err(wrong("a number of entries is never negative: give 0 for any number"))
    } else {
        Ok(())
    }
}

/// Where in a volume.
pub(crate) fn offset(offset: &i64) -> Verdict {
    match offset {
        0.. => Ok(()),
        _ => Err(Fault::new(Kind::OutOfRange, "no byte of a volume has a negative offset")),
    }
}

/// How a volume is to be reached.
pub(crate) fn mode(mode: &i32) -> Verdict {
    match Mode::try_from(*mode) {
        Ok(Mode::Unknown) => Err(wrong("no access mode is named: give one")),
        Ok(_) => Ok(()),
        Err(_) => Err(wrong(format!("there is no access mode {mode} in CSI 1.13"))),
    }
}

/// Where something is: keys of the form `prefix/name`.
pub(crate) fn segments(given: &BTreeMap<String, String>) -> Verdict {
    map(given)?;
    for (key, value) in given {
        let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
        not_empty(name.is_empty(), "a key of a topology needs a name")?;
        if name.len() > LABEL_LIMIT || value.len() > LABEL_LIMIT || prefix.len() > PREFIX_LIMIT {
            return Err(wrong(format!(
                "a name and a value of a topology have at most {LABEL_LIMIT} bytes, a prefix {PREFIX_LIMIT}"
            )));
        }
    }
    Ok(())
}

/// The name of a driver.
pub(crate) fn driver(name: &str) -> Verdict {
    not_empty(name.is_empty(), "a driver has a name")?;
    no_longer(name.len(), LABEL_LIMIT)
}

/// A message that has to be there.
pub(crate) fn required<M: Checked>(message: &Option<M>) -> Verdict {
    match message {
        Some(message) => message.check(),
        None => Err(wrong("it is missing: this call cannot do without it")),
    }
}

/// A message that may be there.
pub(crate) fn optional<M: Checked>(message: &Option<M>) -> Verdict {
    message.as_ref().map_or(Ok(()), Checked::check)
}

/// Messages, of which there may be none.
pub(crate) fn each<M: Checked>(messages: &[M]) -> Verdict {
    each_of(messages, Checked::check)
}

/// At least one message.
pub(crate) fn some<M: Checked>(messages: &[M]) -> Verdict {
    not_empty(messages.is_empty(), "give at least one")?;
    each(messages)
}

/// From how much to how much.
pub(crate) fn range(required: i64, limit: i64) -> Verdict {
    size(&required).map_err(|fault| fault.within("required_bytes"))?;
    size(&limit).map_err(|fault| fault.within("limit_bytes"))?;
    if limit != 0 && required > limit {
        return Err(wrong(format!("{required} bytes are required, but at most {limit} allowed")));
    }
    Ok(())
}
