//! The plugins that a backend can be made of: those that are built in, and those that were installed. An
//! installed one is kept under the digest of its bytes (`<data>/plugins/<digest>.wasm`), so that nothing but
//! those bytes can ever be loaded in its name; the folder is the index.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, Outcome, model::BackendName};
use kato_plugin_host::{Inspection, Power, embedded, inspect};
use serde_json::{Value as Json, json};

use crate::{catalog::Made, config::Plugin};

/// The largest component that is taken, wherever it comes from.
pub(crate) const COMPONENT_LIMIT: usize = 64 << 20;

/// The plugins of this daemon.
#[derive(Debug)]
pub(crate) struct Plugins {
    folder: PathBuf,
}

impl Plugins {
    pub(crate) fn in_folder(data: &Path) -> Self {
        Self { folder: data.join("plugins") }
    }

    /// The component that a backend names.
    pub(crate) fn component(&self, plugin: &Plugin) -> Result<Vec<u8>, Error> {
        match plugin {
            Plugin::Embedded(name) => embedded::component(name)
                .map(<[u8]>::to_vec)
                .ok_or_else(|| Error::not_found(format!("no plugin {name:?} is built in"))),
            Plugin::File(path, pin) => at_path(path, pin.as_deref()),
            Plugin::Digest(digest) => self.installed(digest),
        }
    }

    /// An installed component, which is what its name says or nothing.
    fn installed(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!(
                "the plugin sha256:{digest} is not installed: `kato plugin install FILE`"
            )),
            _ => unusable(&path, error),
        })?;
        if inspect(&bytes)?.digest != digest {
            return Err(Error::internal(format!(
                "the installed plugin {} is not what it was: install it again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    /// All of them, built in ones first.
    pub(crate) fn list(&self) -> Result<Vec<Json>, Error> {
        let mut all = Vec::new();
        for name in embedded::names() {
            if let Some(bytes) = embedded::component(name) {
                all.push(wire(&inspect(bytes)?, bytes.len(), "built in"));
            }
        }
        for digest in self.digests()? {
            let entry = self.installed(&digest).and_then(|bytes| Ok((inspect(&bytes)?, bytes.len())));
            all.push(match entry {
                Ok((found, length)) => wire(&found, length, "installed"),
                Err(error) => {
                    json!({ "name": digest, "digest": digest, "origin": "broken", "why": error.message })
                }
            });
        }
        Ok(all)
    }

    fn digests(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unusable(&self.folder, error)),
        };
        let mut digests: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".wasm").map(str::to_owned))
            .filter(|digest| is_digest(digest))
            .collect();
        digests.sort();
        Ok(digests)
    }

    /// One of them, by its name or its digest or the beginning of it.
    pub(crate) fn show(&self, name: &str) -> Result<Json, Error> {
        let mut fitting: Vec<Json> = self.list()?.into_iter().filter(|plugin| fits(plugin, name)).collect();
        match (fitting.pop(), fitting.len()) {
            (Some(plugin), 0) => Ok(plugin),
            (None, _) => Err(Error::not_found("it is neither built in nor installed: see `kato plugin ls`")
                .about(format!("plugin {name}"))),
            (Some(_), more) => Err(Error::precondition(format!(
                "{} plugins are called so: name one by its digest",
                more + 1
            ))
            .about(format!("plugin {name}"))),
        }
    }

    /// Keeps a component, so that a power cut leaves all of it or none.
    pub(crate) fn install(&self, bytes: &[u8]) -> Result<Outcome<Json>, Error> {
        let found = inspect(bytes)?;
        let path = self.path(&found.digest);
        let body = wire(&found, bytes.len(), "installed");
        if path.exists() && self.installed(&found.digest).is_ok() {
            return Ok(Outcome::Unchanged(body));
        }
        let kept = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let new = self.folder.join(format!("{}.new", found.digest));
            let mut file = fs::File::create(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        kept().map_err(|error| unusable(&path, error))?;
        tracing::info!(digest = %found.digest, "a plugin was installed");
        Ok(Outcome::Changed(body))
    }

    /// Removes an installed one that no backend is made of.
    pub(crate) fn remove(
        &self,
        name: &str,
        made: &BTreeMap<BackendName, Made>,
    ) -> Result<Outcome<()>, Error> {
        let plugin = self.show(name)?;
        let about = |error: Error| error.about(format!("plugin {name}"));
        let digest = plugin.get("digest").and_then(Json::as_str).unwrap_or_default();
        if plugin.get("origin").and_then(Json::as_str) == Some("built in") {
            return Err(about(Error::precondition("it is built in and cannot be removed")));
        }
        let users = users(digest, made);
        if !users.is_empty() {
            return Err(about(Error::in_use(format!(
                "backend {} is made of it: change the configuration first",
                users.join(", ")
            ))));
        }
        let path = self.path(digest);
        fs::remove_file(&path).map_err(|error| unusable(&path, error))?;
        tracing::info!(%digest, "a plugin was removed");
        Ok(Outcome::Changed(()))
    }
}

/// A component at a path of the operator's. Nobody but a pin says what has to be there.
fn at_path(path: &Path, pin: Option<&str>) -> Result<Vec<u8>, Error> {
    let plugin = || format!("the plugin {}", path.display());
    let unread = |error: io::Error| {
        Error::unavailable(format!("{} cannot be read: {error}", plugin())).caused_by(error)
    };
    let limit = u64::try_from(COMPONENT_LIMIT).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(unread)?.take(limit + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() > COMPONENT_LIMIT {
        return Err(Error::invalid(format!(
            "{} is larger than {} MiB, the most that a component may be: is it one?",
            plugin(),
            COMPONENT_LIMIT >> 20
        )));
    }
    if let Some(pin) = pin {
        let found = inspect(&bytes)?.digest;
        if found != pin {
            return Err(Error::precondition(format!(
                "{} is not the one that `digest` says: it is sha256:{found}. Put the right one back, or write this \
                 digest if it is to be believed",
                plugin()
            )));
        }
    }
    Ok(bytes)
}

/// The backends that are made of a component.
fn users<'a>(digest: &str, made: &'a BTreeMap<BackendName, Made>) -> Vec<&'a str> {
    made.iter().filter(|(_, made)| made.digest == digest).map(|(name, _)| name.as_str()).collect()
}

/// A plugin with the backends that are made of it, and what each of them lets it do.
pub(crate) fn with_uses(mut plugin: Json, made: &BTreeMap<BackendName, Made>) -> Json {
    let digest = plugin.get("digest").and_then(Json::as_str).unwrap_or_default().to_owned();
    let powers: BTreeMap<&str, Json> = made
        .iter()
        .filter(|(_, made)| made.digest == digest)
        .map(|(name, made)| (name.as_str(), made.powers.iter().map(power).collect()))
        .collect();
    if let (Some(plugin), false) = (plugin.as_object_mut(), powers.is_empty()) {
        plugin.insert("used_by".to_owned(), json!(users(&digest, made)));
        plugin.insert("powers".to_owned(), json!(powers));
    }
    plugin
}

fn power(power: &Power) -> Json {
    json!({
        "kind": power.kind,
        "name": power.name,
        "asked": power.asked,
        "granted": power.granted,
        "effective": power.effective(),
    })
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn fits(plugin: &Json, name: &str) -> bool {
    let is = |field: &str, wanted: &dyn Fn(&str) -> bool| {
        plugin.get(field).and_then(Json::as_str).is_some_and(wanted)
    };
    let digest = name.strip_prefix("sha256:").unwrap_or(name);
    is("name", &|known| known == name)
        || (digest.len() >= 8 && is("digest", &|known| known.starts_with(digest)))
}

/// What a component says of itself, without running it.
pub(crate) fn describe(bytes: &[u8]) -> Result<Json, Error> {
    Ok(wire(&inspect(bytes)?, bytes.len(), "file"))
}

fn wire(found: &Inspection, length: usize, origin: &str) -> Json {
    let manifest = found.manifest.as_ref();
    let short = found.digest.get(..12).unwrap_or_default();
    let mut body = json!({
        "name": manifest.map_or(short, |manifest| manifest.name.as_str()),
        "digest": found.digest,
        "origin": origin,
        "size_bytes": length,
        "offers": found.offers,
        "imports": found.imports,
    });
    if let (Some(body), Some(manifest)) = (body.as_object_mut(), manifest) {
        body.insert("version".to_owned(), manifest.version.as_str().into());
        body.insert("summary".to_owned(), manifest.summary.as_str().into());
        body.insert(
            "asks".to_owned(),
            json!({
                "directories": manifest.asks.directories,
                "commands": manifest.asks.commands,
                "connections": manifest.asks.connections,
                "http": manifest.asks.http,
                "aws": manifest.asks.aws,
            }),
        );
    }
    if let (Some(body), false) = (body.as_object_mut(), found.unknown.is_empty()) {
        body.insert("unknown".to_owned(), json!(found.unknown));
    }
    body
}

fn unusable(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("{} cannot be used: {error}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> &'static [u8] {
        embedded::component("local").unwrap()
    }

    #[test]
    fn a_plugin_is_installed_once_and_found_by_name_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = Plugins::in_folder(folder.path());
        assert!(matches!(plugins.install(ours()).unwrap(), Outcome::Changed(_)));
        assert!(matches!(plugins.install(ours()).unwrap(), Outcome::Unchanged(_)));
        let digest = inspect(ours()).unwrap().digest;
        assert_eq!(plugins.component(&Plugin::Digest(digest)).unwrap(), ours());
        // Built in and installed under one name: only a digest could tell two versions apart.
        assert!(plugins.show("local").unwrap_err().message.contains("digest"));
        assert!(plugins.show(&format!("sha256:{}", "0".repeat(64))).is_err());
        assert_eq!(plugins.list().unwrap().len(), embedded::names().count() + 1);
    }

    #[test]
    fn an_installed_plugin_that_was_changed_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = Plugins::in_folder(folder.path());
        plugins.install(ours()).unwrap();
        let digest = inspect(ours()).unwrap().digest;
        let mut bytes = ours().to_vec();
        // A custom section more: still a component, and another one.
        bytes.extend_from_slice(&[0, 2, 1, b'x']);
        fs::write(plugins.path(&digest), bytes).unwrap();
        assert!(plugins.component(&Plugin::Digest(digest)).unwrap_err().message.contains("not what it was"));
    }

    #[test]
    fn a_component_at_a_path_is_what_its_digest_says_and_of_a_size_that_one_has() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = Plugins::in_folder(folder.path());
        let path = folder.path().join("mine.wasm");
        let pinned = |pin: &str| Plugin::File(path.clone(), Some(pin.to_owned()));
        fs::write(&path, ours()).unwrap();
        let digest = inspect(ours()).unwrap().digest;
        assert_eq!(plugins.component(&pinned(&digest)).unwrap(), ours());
        fs::write(&path, [ours(), &[0, 2, 1, b'x']].concat()).unwrap();
        assert!(plugins.component(&Plugin::File(path.clone(), None)).is_ok());
        let told = plugins.component(&pinned(&digest)).unwrap_err().message;
        let other = inspect(&fs::read(&path).unwrap()).unwrap().digest;
        assert!(told.contains("mine.wasm") && told.contains(&other), "{told}");
        // Nothing is read beyond the limit: this file has no end that could be waited for.
        let endless = plugins.component(&Plugin::File("/dev/zero".into(), None)).unwrap_err();
        assert!(endless.message.contains("/dev/zero is larger than 64 MiB"), "{}", endless.message);
    }

    #[test]
    fn what_is_no_component_is_not_installed() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = Plugins::in_folder(folder.path());
        assert!(plugins.install(b"#!/bin/sh").is_err());
        assert!(plugins.list().unwrap().iter().all(|plugin| plugin["origin"] == "built in"));
    }
}
