//! Granted command lines: whole ones, with typed holes. "This program with these first arguments" would be
//! no grant at all, because options such as `--log-file` and `--conf` read and write any file; so every word
//! is literal but for its holes, no hole is a path or begins with a dash, and what does not match is refused
//! before anything runs. How it is run is `imports/commands.rs`.
//!
//! ```toml
//! [commands.create]
//! line = "/usr/bin/rbd --id {id} create {pool}/{image} --size {bytes}B --image-format {1|2}"
//! ```
//!
//! `{image}` is a word of `[A-Za-z0-9._-]` that begins with a letter or digit, at most 100 long; `{bytes}`
//! and `{int}` are whole numbers, and `{size:int}` is one with another name; `{1|2}` and `{format:1|2}` are
//! one of the list; `{text}` is printable ASCII, at most 256 long, that does not begin with a dash; `{client}` is who
//! somebody is in a Ceph cluster, `address:port/nonce`.

use std::{collections::BTreeMap, path::PathBuf};

use kato_orchestrator::Error;
use serde::Deserialize;

use super::denied;

/// A command line of the operator's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandGrant {
    /// The whole line: an absolute path, then words, with holes.
    pub line: String,
    /// Who runs it; `nobody` (65534) unless it is given, and never root.
    #[serde(default = "nobody")]
    pub uid: u32,
    /// Its group.
    #[serde(default = "nobody")]
    pub gid: u32,
    /// How long it may take, in milliseconds.
    #[serde(default = "half_a_minute")]
    pub timeout_ms: u64,
    /// Whether it may write to the file systems of this host, as far as its user may. It sees all that is mounted
    /// then, too.
    #[serde(default)]
    pub writable: bool,
}

fn nobody() -> u32 {
    65534
}

fn half_a_minute() -> u64 {
    30_000
}

/// The command lines that a plugin can have run.
#[derive(Debug, Default)]
pub(crate) struct Lines(BTreeMap<String, Line>);

/// A command line, ready to be filled.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) program: PathBuf,
    words: Vec<Vec<Piece>>,
    pub(crate) grant: CommandGrant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Hole { name: String, kind: Hole },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hole {
    Word,
    Number,
    Text,
    Client,
    OneOf(Vec<String>),
}

impl Lines {
    pub(crate) fn new(
        asks: &[String],
        grants: &BTreeMap<String, CommandGrant>,
        mistake: &mut impl FnMut(Error),
    ) -> Self {
        let mut lines = BTreeMap::new();
        for (name, grant) in grants {
            match Line::parse(grant) {
                Ok(line) if asks.contains(name) => {
                    lines.insert(name.clone(), line);
                }
                Ok(_) => {}
                Err(error) => mistake(Error::invalid(format!("the command {name:?}: {}", error.message))),
            }
        }
        Self(lines)
    }

    pub(crate) fn line(&self, name: &str) -> Result<&Line, Error> {
        self.0.get(name).ok_or_else(|| {
            denied(format!(
                "the command {name:?} is not granted: grant its line to this backend (and the plugin's \
                 manifest has to ask for it)"
            ))
        })
    }
}

impl Line {
    fn parse(grant: &CommandGrant) -> Result<Self, Error> {
        if grant.uid == 0 {
            return Err(Error::invalid("it must not run as root: give the uid of a user without powers"));
        }
        let mut words = grant.line.split_whitespace();
        let program = words.next().unwrap_or_default();
        if !program.starts_with('/') || program.contains(['{', '}']) {
            return Err(Error::invalid("its line has to begin with the absolute path of a program"));
        }
        let program = PathBuf::from(program);
        let words = words.map(pieces).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { program, words, grant: grant.clone() })
    }

    /// The arguments with the holes filled. Every hole has to be filled, and nothing else given.
    pub(crate) fn fill(&self, holes: &[(String, String)]) -> Result<Vec<String>, Error> {
        let mut used = Vec::new();
        let mut arguments = Vec::with_capacity(self.words.len());
        for word in &self.words {
            let mut argument = String::new();
            for piece in word {
                match piece {
                    Piece::Literal(text) => argument.push_str(text),
                    Piece::Hole { name, kind } => {
                        let mut named = holes.iter().filter(|(hole, _)| hole == name);
                        let (Some((_, value)), None) = (named.next(), named.next()) else {
                            return Err(denied(format!("the hole {{{name}}} has to be filled once")));
                        };
                        kind.check(name, value)?;
                        used.push(name);
                        argument.push_str(value);
                    }
                }
            }
            arguments.push(argument);
        }
        match holes.iter().find(|(name, _)| !used.contains(&name)) {
            Some((name, _)) => {
                Err(denied(format!("the granted line has no hole {{{}}}", name.escape_debug())))
            }
            None => Ok(arguments),
        }
    }
}

impl Hole {
    fn check(&self, name: &str, value: &str) -> Result<(), Error> {
        let fits = match self {
            Self::Word => {
                let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
                value.len() <= 100
                    && value.bytes().all(safe)
                    && value.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            }
            Self::Number => {
                (1..=20).contains(&value.len())
                    && value.bytes().all(|b| b.is_ascii_digit())
                    && value.parse::<u64>().is_ok()
            }
            Self::Text => {
                (1..=256).contains(&value.len())
                    && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
                    && !value.starts_with(['-', ' '])
            }
            Self::Client => is_client(value),
            Self::OneOf(words) => words.iter().any(|word| word == value),
        };
        if fits {
            return Ok(());
        }
        let shape = match self {
            Self::Word => "letters, digits, '.', '_' and '-', beginning with a letter or digit".to_owned(),
            Self::Number => "a whole number".to_owned(),
            Self::Text => "printable ASCII that does not begin with a dash".to_owned(),
            Self::Client => "the address, port and nonce of a Ceph client".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
        };
        let shown: String = value.chars().take(100).collect();
        Err(denied(format!("{shown:?} does not fit the hole {{{name}}}: it takes {shape}")))
    }
}

/// `10.0.0.1:0/773356962`. Without its nonce it would be everybody at that address.
fn is_client(value: &str) -> bool {
    let Some((address, nonce)) = value.split_once('/') else { return false };
    let nonce =
        nonce.parse::<u64>().is_ok_and(|number| number > 0) && nonce.bytes().all(|b| b.is_ascii_digit());
    nonce && address.parse::<std::net::SocketAddr>().is_ok()
}

fn pieces(word: &str) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let mut rest = word;
    while let Some((literal, after)) = rest.split_once('{') {
        let (hole, after) = after
            .split_once('}')
            .ok_or_else(|| Error::invalid(format!("the word {word:?} opens a hole and does not close it")))?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
        let (name, kind) = hole.split_once(':').unwrap_or((hole, hole));
        let kind = match kind {
            "bytes" | "int" => Hole::Number,
            "text" => Hole::Text,
            "client" => Hole::Client,
            list if list.contains('|') => Hole::OneOf(list.split('|').map(str::to_owned).collect()),
            "name" => Hole::Word,
            other if other == name => Hole::Word,
            other => {
                return Err(Error::invalid(format!(
                    "the hole {{{hole}}} has the unknown kind {other:?}: use name, int, bytes, text, client, or a list a|b"
                )));
            }
        };
        if name.is_empty()
            || matches!(&kind, Hole::OneOf(words) if words.iter().any(|w| w.is_empty() || w.starts_with('-')))
        {
            return Err(Error::invalid(format!(
                "the hole {{{hole}}} has an empty name, word, or one that begins with a dash"
            )));
        }
        pieces.push(Piece::Hole { name: name.to_owned(), kind });
        rest = after;
    }
    if rest.contains('}') {
        return Err(Error::invalid(format!("the word {word:?} closes a hole that it did not open")));
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Line, Error> {
        Line::parse(&CommandGrant {
            line: text.into(),
            uid: 65534,
            gid: 65534,
            timeout_ms: 1,
            writable: false,
        })
    }

    fn fill(line: &Line, holes: &[(&str, &str)]) -> Result<Vec<String>, Error> {
        let holes: Vec<_> = holes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        line.fill(&holes)
    }

    #[test]
    fn a_granted_line_is_filled() {
        let line =
            line("/usr/bin/rbd --id {id} create {pool}/{image} --size {bytes}B --fmt {f:1|2}").unwrap();
        let holes = [("id", "kato"), ("pool", "p"), ("image", "a-b.c_d"), ("bytes", "1024"), ("f", "2")];
        let filled = fill(&line, &holes).unwrap();
        assert_eq!(filled, ["--id", "kato", "create", "p/a-b.c_d", "--size", "1024B", "--fmt", "2"]);
        assert_eq!(line.program, PathBuf::from("/usr/bin/rbd"));
    }

    #[test]
    fn whatever_does_not_fit_a_hole_is_refused() {
        let word = line("/bin/echo {image}").unwrap();
        let long = "x".repeat(101);
        for bad in [
            "",
            "--log-file=/etc/passwd",
            "-x",
            "a/b",
            "../x",
            "a b",
            "a\nb",
            "a;b",
            "$(x)",
            ".",
            "ü",
            "a\0b",
            &long,
        ] {
            assert!(fill(&word, &[("image", bad)]).is_err(), "{bad:?}");
        }
        let number = line("/bin/echo {bytes}").unwrap();
        for bad in ["", "-1", "+1", "1e3", "0x10", "1 ", "99999999999999999999999", "٣"] {
            assert!(fill(&number, &[("bytes", bad)]).is_err(), "{bad:?}");
        }
        assert!(fill(&word, &[("image", "a"), ("extra", "b")]).is_err());
        assert!(fill(&word, &[("image", "a"), ("image", "b")]).is_err());
        assert!(fill(&word, &[]).is_err());
    }

    #[test]
    fn a_line_that_would_grant_too_much_is_refused() {
        for bad in [
            "rbd ls",
            "{program} x",
            "/bin/{x} y",
            "",
            "/bin/echo {a",
            "/bin/echo a}",
            "/bin/echo {}",
            "/bin/echo {x:path}",
            "/bin/echo {a|-b}",
        ] {
            assert!(line(bad).is_err(), "{bad:?}");
        }
        let root = CommandGrant { line: "/bin/echo".into(), uid: 0, gid: 0, timeout_ms: 1, writable: false };
        assert!(Line::parse(&root).is_err());
    }
}
