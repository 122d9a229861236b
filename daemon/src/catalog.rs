//! From what is configured to what the hall works with: every backend's plugin is loaded, and one that cannot
//! be is named with the reason instead of ending the start. Volumes of a broken backend stay known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use kato_orchestrator::{Catalog, Error, model::BackendName, ports};
use kato_plugin_host::{BackendSpec, PluginHost};
use tokio::task::JoinSet;

use crate::{
    config::{Backend, Config, Plugin},
    plugins::Plugins,
};

/// Loads what is configured.
#[derive(Debug)]
pub(crate) struct Loader {
    host: Arc<PluginHost>,
    plugins: Arc<Plugins>,
    /// By digest, the backends that are made of an installed plugin.
    used: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Loader {
    pub(crate) fn new(host: Arc<PluginHost>, plugins: Arc<Plugins>) -> Self {
        Self { host, plugins, used: Mutex::default() }
    }

    /// By digest, the backends that are made of an installed plugin.
    pub(crate) fn plugins_in_use(&self) -> BTreeMap<String, Vec<String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut loading = JoinSet::new();
        for (name, backend) in &config.backends {
            if let Plugin::Digest(digest) = &backend.plugin {
                used.entry(digest.clone()).or_default().push(name.as_str().to_owned());
            }
            let kept = before.and_then(|(config, catalog)| {
                let same = config.backends.get(name).is_some_and(|before| is_same(before, backend));
                catalog.backends.get(name).filter(|_| same)
            });
            if let Some(kept) = kept {
                catalog.backends.insert(name.clone(), Arc::clone(kept));
                continue;
            }
            let (host, plugins) = (Arc::clone(&self.host), Arc::clone(&self.plugins));
            loading.spawn(load(host, plugins, name.clone(), backend.clone()));
        }
        while let Some(loaded) = loading.join_next().await {
            match loaded {
                Ok((name, Ok(backend))) => {
                    catalog.backends.insert(name, backend);
                }
                Ok((name, Err(error))) => {
                    tracing::error!(backend = %name, %error, "a backend could not be loaded");
                    catalog.broken.insert(name, error.to_string());
                }
                Err(error) => tracing::error!(%error, "loading a backend was cut short"),
            }
        }
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
        catalog
    }
}

type Loaded = (BackendName, Result<Arc<dyn ports::Backend>, Error>);

async fn load(host: Arc<PluginHost>, plugins: Arc<Plugins>, name: BackendName, backend: Backend) -> Loaded {
    let work = async {
        let plugin = backend.plugin.clone();
        let component = tokio::task::spawn_blocking(move || plugins.component(&plugin))
            .await
            .map_err(|error| Error::internal("reading the plugin was cut short").caused_by(error))??;
        host.load(BackendSpec {
            name: name.clone(),
            component: component.into(),
            configuration: backend.configuration,
            grants: backend.grants,
            limits: backend.limits,
        })
        .await
    };
    let loaded = work.await;
    (name, loaded)
}

/// Whether a backend need not be loaded again. A file may hold something else than it did.
fn is_same(before: &Backend, now: &Backend) -> bool {
    !matches!(now.plugin, Plugin::File(_))
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
