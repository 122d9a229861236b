//! From what is configured to what the hall works with: every backend's plugin is loaded, and one that cannot
//! be is named with the reason instead of ending the start. Volumes of a broken backend stay known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use kato_node::{Accounts, Chap, Secret};
use kato_orchestrator::{Catalog, Error, model::BackendName, ports};
use kato_plugin_host::{BackendSpec, ChapGrant, PluginHost, Power, SecretSource, inspect};
use tokio::task::JoinSet;

use crate::{
    config::{Backend, Config, Plugin, environment},
    plugins::Plugins,
};

/// Loads what is configured.
#[derive(Debug)]
pub(crate) struct Loader {
    host: Arc<PluginHost>,
    plugins: Arc<Plugins>,
    made: Mutex<BTreeMap<BackendName, Made>>,
}

/// What a loaded backend is made of.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// The component, by the digest of its bytes.
    pub(crate) digest: String,
    /// The version that it says it is.
    pub(crate) version: String,
    /// What it asks for beside what it was granted.
    pub(crate) powers: Vec<Power>,
}

impl Loader {
    pub(crate) fn new(host: Arc<PluginHost>, plugins: Arc<Plugins>) -> Self {
        Self { host, plugins, made: Mutex::default() }
    }

    /// What each backend is made of.
    pub(crate) fn made(&self) -> BTreeMap<BackendName, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that is configured. What is the same as before is kept as it is loaded.
    pub(crate) async fn catalog(&self, config: &Config, before: Option<(&Config, &Catalog)>) -> Catalog {
        make_volume_folders(config);
        let mut catalog = Catalog {
            classes: config
                .classes
                .iter()
                .map(|(name, class)| (name.clone(), Arc::new(class.clone())))
                .collect(),
            default_class: config.default_class.clone(),
            anonymous_class: config.anonymous_class.clone(),
            ..Catalog::default()
        };
        let before_made = self.made();
        let mut made = BTreeMap::new();
        let mut loading = JoinSet::new();
        for (name, backend) in &config.backends {
            let kept = before.and_then(|(config, catalog)| {
                let same = config.backends.get(name).is_some_and(|before| is_same(before, backend));
                catalog.backends.get(name).filter(|_| same)
            });
            if let Some(kept) = kept {
                catalog.backends.insert(name.clone(), Arc::clone(kept));
                if let Some(kept) = before_made.get(name) {
                    made.insert(name.clone(), kept.clone());
                }
                continue;
            }
            let (host, plugins) = (Arc::clone(&self.host), Arc::clone(&self.plugins));
            loading.spawn(load(host, plugins, name.clone(), backend.clone()));
        }
        while let Some(loaded) = loading.join_next().await {
            match loaded {
                Ok((name, Ok((backend, parts)))) => {
                    if let Some(before) = before_made.get(&name) {
                        tell_replaced(&name, before, &parts);
                    }
                    made.insert(name.clone(), parts);
                    catalog.backends.insert(name, backend);
                }
                Ok((name, Err(error))) => {
                    tracing::error!(backend = %name, %error, "a backend could not be loaded");
                    catalog.broken.insert(name, error.to_string());
                }
                Err(error) => tracing::error!(%error, "loading a backend was cut short"),
            }
        }
        // A plugin that could not be loaded is still the one that is configured.
        for (name, backend) in &config.backends {
            if let Plugin::Digest(digest) = &backend.plugin {
                let unloaded = || Made { digest: digest.clone(), version: String::new(), powers: Vec::new() };
                made.entry(name.clone()).or_insert_with(unloaded);
            }
        }
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = made;
        catalog
    }
}

type Loaded = (BackendName, Result<(Arc<dyn ports::Backend>, Made), Error>);

async fn load(host: Arc<PluginHost>, plugins: Arc<Plugins>, name: BackendName, backend: Backend) -> Loaded {
    let work = async {
        let plugin = backend.plugin.clone();
        let component = tokio::task::spawn_blocking(move || plugins.component(&plugin))
            .await
            .map_err(|error| Error::internal("reading the plugin was cut short").caused_by(error))??;
        let found = inspect(&component)?;
        let manifest = found.manifest.unwrap_or_default();
        let powers = backend.grants.compare(&manifest.asks);
        let made = Made { digest: found.digest, version: manifest.version, powers };
        let spec = BackendSpec {
            name: name.clone(),
            component: component.into(),
            configuration: backend.configuration,
            grants: backend.grants,
            limits: backend.limits,
        };
        Ok((host.load(spec).await?, made))
    };
    let loaded = work.await;
    (name, loaded)
}

/// Says that a backend is made of something else now. Which version it is to be is the operator's to say, by a
/// digest or a file; an older one is taken like any other, and not in silence: it may have been put there by
/// somebody who knows what was wrong with it.
fn tell_replaced(name: &BackendName, before: &Made, now: &Made) {
    let (was, is) = (before.version.as_str(), now.version.as_str());
    if before.digest == now.digest || was.is_empty() {
        return;
    }
    if is_older(is, was) {
        tracing::warn!(backend = %name, was, is, digest = %now.digest, "an older version of a plugin took the place of a newer one");
    } else {
        tracing::info!(backend = %name, was, is, digest = %now.digest, "a plugin was replaced");
    }
}

/// Whether the first version comes before the second, by their numbers.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) < numbers(than)
}

/// Whether a backend need not be loaded again. A file may hold something else than it did.
fn is_same(before: &Backend, now: &Backend) -> bool {
    !matches!(now.plugin, Plugin::File(..))
        && before.plugin == now.plugin
        && format!("{before:?}") == format!("{now:?}")
}

/// The folder that the built-in backend keeps its volumes in is beneath ours, so it is ours to make. Any other
/// granted folder is the operator's: one that is missing may be a disk that is not mounted.
fn make_volume_folders(config: &Config) {
    for folder in granted(config) {
        if folder.starts_with(&config.folders.data)
            && !folder.exists()
            && let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o711).create(&folder)
        {
            tracing::error!(folder = %folder.display(), %error, "a folder for volumes could not be made");
        }
    }
}

/// All folders that backends were granted.
pub(crate) fn granted(config: &Config) -> BTreeSet<PathBuf> {
    config
        .backends
        .values()
        .flat_map(|backend| backend.grants.directories.values())
        .map(|path| Path::to_owned(path))
        .collect()
}

/// Who this node is at the backends that its configuration has.
pub(crate) fn accounts(config: &Config) -> Accounts {
    let mut accounts = Accounts::default();
    for (name, backend) in &config.backends {
        if let Some(grant) = &backend.grants.ceph {
            let (conf, keyring, user) = (grant.conf.clone(), grant.keyring.clone(), grant.user.clone());
            accounts.ceph.insert(name.to_string(), kato_node::Ceph { conf, keyring, user });
        }
        if let Some(grant) = &backend.grants.connections.iscsi {
            accounts.iscsi.insert(name.to_string(), grant.chap.as_ref().map(chap));
        }
    }
    accounts
}

fn chap(grant: &ChapGrant) -> Chap {
    Chap {
        user: grant.user.clone(),
        secret: secret(&grant.secret),
        mutual: grant.mutual.as_deref().map(|mutual| Box::new(chap(mutual))),
    }
}

/// Where the node finds a secret that the daemon was told of.
fn secret(source: &SecretSource) -> Secret {
    let handed_over = || environment::secret("CREDENTIALS_DIRECTORY");
    match source {
        SecretSource::File(path) => Secret::File(path.clone()),
        SecretSource::Env(name) => environment::secret(name).map_or_else(
            || Secret::Nowhere(format!("the secret's variable {name} is not set for the daemon")),
            Secret::Text,
        ),
        SecretSource::Credential(name) => handed_over().map_or_else(
            || {
                Secret::Nowhere(format!(
                    "systemd hands over no credentials here: add LoadCredential={name}:PATH to the unit"
                ))
            },
            |folder| Secret::File(Path::new(&folder).join(name)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (older, newer) in [("0.9.0", "0.10.0"), ("1.0.0-rc.1", "1.0.1"), ("0.1", "0.1.1"), ("", "0.1.0")]
        {
            assert!(is_older(older, newer) && !is_older(newer, older), "{older} {newer}");
        }
        assert!(!is_older("1.2.3", "1.2.3"));
    }
}
