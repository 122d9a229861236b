//! What a plugin says of itself before it runs: its name, what it offers and what it asks for. The text is
//! the plugin's `plugin.toml`, carried in the component's custom section `kato:manifest` (the SDK puts it
//! there, `wasm-component-ld` keeps it inside the core module; a section of the component itself is found
//! too, so that other languages can append one). A component without a manifest asks for nothing and gets
//! nothing. This room reads and never decides; what is granted is `grants.rs`.
//!
//! ```toml
//! name = "local"
//! version = "0.1.0"
//! summary = "Directories and files on this host"
//! offers = ["grow", "snapshots", "clone"]     # compared with what the component really exports
//!
//! [asks]                                      # compared with what it could use, by its imports
//! directories = ["data"]                      # names of granted directories
//! commands = ["image-create"]                 # names of granted command lines
//! connections = ["file", "directory"]         # kinds of connection
//! http = ["https://api.example.com", "https://*.example.com:8443", "https://*"]
//! aws = ["ec2", "ebs"]                        # services of a granted region, wherever the operator says they are
//! ```

use std::fmt::Write as _;

use kato_orchestrator::Error;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, Parser, Payload};

/// The custom section that carries the manifest.
pub const SECTION: &str = "kato:manifest";

/// What a plugin says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// What it is, in one sentence.
    #[serde(default)]
    pub summary: String,
    /// The abilities that its author meant to export.
    #[serde(default)]
    pub offers: Vec<String>,
    /// What it needs to be granted.
    #[serde(default)]
    pub asks: Asks,
}

/// What a plugin needs to be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asks {
    /// Names of granted directories.
    pub directories: Vec<String>,
    /// Names of granted command lines.
    pub commands: Vec<String>,
    /// Kinds of connection that it answers.
    pub connections: Vec<String>,
    /// Where it wants to send requests: scheme, host and port; `*` stands for any host, `*.name` for any
    /// beneath a name.
    pub http: Vec<String>,
    /// Services of a granted region of AWS: `ec2`, `ebs`. Where they are is the grant's to say.
    pub aws: Vec<String>,
}

/// What can be told of a component without running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
    /// What it says of itself; nothing when it carries no manifest.
    pub manifest: Option<Manifest>,
    /// The optional interfaces of the contract that it exports, by their names in the contract.
    pub offers: Vec<String>,
    /// Everything that it imports.
    pub imports: Vec<String>,
    /// Exports of the contract's package that this host does not know.
    pub unknown: Vec<String>,
}

/// The abilities beyond `identity` and `volumes`, as they are named in the contract.
pub(crate) const ABILITIES: [&str; 13] = [
    "grow",
    "attachments",
    "fencing",
    "snapshots",
    "clone",
    "modify",
    "groups",
    "extents",
    "snapshot-data",
    "snapshot-writing",
    "health",
    "capacity",
    "polling",
];

/// Looks into a component without running it.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Error> {
    let broken = |error: wasmparser::BinaryReaderError| {
        Error::invalid("this is not a WebAssembly component: build it for wasm32-wasip2").caused_by(error)
    };
    let mut found = Inspection {
        digest: hex(&Sha256::digest(bytes)),
        manifest: None,
        offers: Vec::new(),
        imports: Vec::new(),
        unknown: Vec::new(),
    };
    // The parser walks into nested modules and components: only the outermost one's imports and exports count.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding != Encoding::Component {
                    return Err(Error::invalid(
                        "this is a core WebAssembly module and no component: build it for wasm32-wasip2, or \
                         run `wasm-tools component new` on it",
                    ));
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    found.imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    found.export(export.map_err(broken)?.name.name);
                }
            }
            Payload::CustomSection(section) if section.name() == SECTION => {
                if found.manifest.is_some() {
                    return Err(Error::invalid(format!(
                        "the component carries more than one manifest (custom section {SECTION:?}): link one"
                    )));
                }
                found.manifest = Some(parse(section.data())?);
            }
            _ => {}
        }
    }
    found.offers.sort_unstable();
    Ok(found)
}

impl Inspection {
    fn export(&mut self, name: &str) {
        let Some((interface, _version)) =
            name.strip_prefix("kato:storage/").and_then(|rest| rest.split_once('@'))
        else {
            return;
        };
        if ABILITIES.contains(&interface) {
            self.offers.push(interface.to_owned());
        } else if !matches!(interface, "types" | "identity" | "volumes") {
            self.unknown.push(name.to_owned());
        }
    }

    /// What it asks for: nothing when it carries no manifest.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.manifest.as_ref().map(|manifest| manifest.asks.clone()).unwrap_or_default()
    }

    /// Abilities that the manifest promises and the component does not export: an author who wrote the code
    /// and forgot to list it would otherwise never hear of it.
    #[must_use]
    pub fn forgotten(&self) -> Vec<&str> {
        let promised = self.manifest.iter().flat_map(|manifest| &manifest.offers);
        promised.filter(|name| !self.offers.contains(name)).map(String::as_str).collect()
    }

    /// Powers that the manifest asks for and the component could not use, because it does not import what they
    /// are used by: a manifest that asks for more than it needs is a mistake, or waits for a later version of
    /// the component to use what an operator granted to this one.
    #[must_use]
    pub fn unusable(&self) -> Vec<&'static str> {
        let imports = |interface: &str| {
            self.imports.iter().any(|import| import.split('@').next().is_some_and(|name| name == interface))
        };
        let asks = self.asks();
        // A directory is also what the path of a connection is beneath.
        let connects = asks.connections.iter().any(|kind| kind == "directory" || kind == "file");
        [
            ("directories", asks.directories.is_empty() || connects || imports("kato:storage/files")),
            ("commands", asks.commands.is_empty() || imports("kato:storage/commands")),
            ("http", asks.http.is_empty() || imports("wasi:http/outgoing-handler")),
            ("aws", asks.aws.is_empty() || imports("wasi:http/outgoing-handler")),
        ]
        .into_iter()
        .filter_map(|(power, usable)| (!usable).then_some(power))
        .collect()
    }
}

fn parse(data: &[u8]) -> Result<Manifest, Error> {
    let text = std::str::from_utf8(data)
        .map_err(|error| Error::invalid("the component's manifest is not text (UTF-8)").caused_by(error))?;
    toml::from_str(text.trim_end_matches('\0'))
        .map_err(|error| Error::invalid(format!("the component's manifest has a mistake: {error}")))
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(sections: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        for (name, text) in sections {
            let size = 1 + name.len() + text.len();
            let byte = |number: usize| u8::try_from(number).unwrap();
            bytes.extend([0, byte(size & 0x7f | 0x80), byte(size >> 7), byte(name.len())]);
            bytes.extend(name.bytes());
            bytes.extend(text.bytes());
        }
        bytes
    }

    #[test]
    fn the_manifest_is_found_and_read() {
        let text =
            "name = \"x\"\noffers = [\"grow\"]\n[asks]\ndirectories = [\"data\"]\nhttp = [\"https://*\"]";
        let found = inspect(&component(&[("other", "y"), (SECTION, text)])).unwrap();
        assert_eq!(found.asks().directories, ["data"]);
        assert_eq!(found.forgotten(), ["grow"]);
        assert_eq!(found.digest.len(), 64);
        assert_eq!(found.unusable(), ["directories", "http"]);
    }

    #[test]
    fn a_directory_is_asked_for_by_what_answers_paths_too() {
        let text = "name = \"x\"\n[asks]\ndirectories = [\"data\"]\nconnections = [\"directory\"]";
        let mut found = inspect(&component(&[(SECTION, text)])).unwrap();
        assert_eq!(found.unusable(), Vec::<&str>::new());
        found.manifest.as_mut().unwrap().asks.commands = vec!["x".into()];
        assert_eq!(found.unusable(), ["commands"]);
        found.imports = vec!["kato:storage/commands@1.0.0".into()];
        assert_eq!(found.unusable(), Vec::<&str>::new());
    }

    #[test]
    fn two_manifests_a_module_and_nonsense_are_refused_by_name() {
        let two = component(&[(SECTION, "name = \"a\""), (SECTION, "name = \"b\"")]);
        assert!(inspect(&two).unwrap_err().message.contains("more than one manifest"));
        assert!(inspect(b"\0asm\x01\0\0\0").unwrap_err().message.contains("core WebAssembly module"));
        assert!(inspect(b"#!/bin/sh").unwrap_err().message.contains("not a WebAssembly component"));
        let typo = component(&[(SECTION, "name = \"a\"\nask = 1")]);
        assert!(inspect(&typo).unwrap_err().message.contains("ask"));
    }
}
