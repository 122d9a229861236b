//! Taking a new configuration while the house is at work: classes and backends at once, everything else is told
//! to need a restart. A configuration with mistakes changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kato_csi::Claims;
use kato_node::LinuxHost;
use kato_orchestrator::{Error, Orchestrator, model::BackendName};
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;

use crate::{
    catalog::{Loader, Made},
    config::{Config, Sources, load, print},
};

/// Reads the configuration again, one at a time.
#[derive(Debug)]
pub(crate) struct Reloader {
    sources: Sources,
    loader: Loader,
    hall: Arc<Orchestrator>,
    now: Mutex<Config>,
    /// Has to know who it is at backends that are granted later.
    node: Arc<LinuxHost>,
    /// What the CSI door was told; nothing while it is closed.
    csi: Option<kato_csi::Config>,
}

impl Reloader {
    pub(crate) fn new(
        sources: Sources,
        loader: Loader,
        hall: Arc<Orchestrator>,
        config: Config,
        node: Arc<LinuxHost>,
        csi: Option<kato_csi::Config>,
    ) -> Self {
        Self { sources, loader, hall, now: Mutex::new(config), node, csi }
    }

    /// What each backend is made of.
    pub(crate) fn made(&self) -> BTreeMap<BackendName, Made> {
        self.loader.made()
    }

    /// Reads it again and takes what can be taken. Tells which keys are in force and which need a restart.
    pub(crate) async fn reload(&self) -> Result<Json, Error> {
        let mut now = self.now.lock().await;
        let new = load(&self.sources)
            .map_err(|mistakes| Error::invalid(format!("nothing was changed: {mistakes}")))?;
        let (applied, needs_restart): (Vec<String>, Vec<String>) =
            differences(&now, &new).into_iter().partition(|key| is_live(key));
        let catalog = self.loader.catalog(&new, Some((&now, &*self.hall.catalog()))).await;
        let broken: Vec<Json> =
            catalog.broken.iter().map(|(name, why)| json!({ "name": name.as_str(), "why": why })).collect();
        if let Some(door) = &self.csi {
            tell_claims(&Claims::of(door, &self.hall.catalog()), &Claims::of(door, &catalog));
        }
        self.node.know(crate::catalog::accounts(&new));
        self.hall.set_catalog(catalog);
        for key in &applied {
            tracing::info!(%key, "the configuration was changed");
        }
        for key in &needs_restart {
            tracing::warn!(%key, "the configuration was changed and needs a restart");
        }
        // What needs a restart is still what it was, and is told again by the next reload.
        let Config { classes, default_class, anonymous_class, backends, written, .. } = new;
        *now = Config {
            classes,
            default_class,
            anonymous_class,
            backends,
            written: now.written.clone(),
            ..now.clone()
        };
        now.take_live(&written);
        Ok(json!({ "applied": applied, "needs_restart": needs_restart, "broken": broken }))
    }
}

/// Says who has to start again because the backends can do more, or less, than before.
fn tell_claims(before: &Claims, now: &Claims) {
    let restart = before.restarts(now);
    if !restart.is_empty() {
        let who = restart.join(", ");
        tracing::warn!(
            who,
            "what CSI callers may ask for has changed, and these asked only when they started: restart them"
        );
    }
}

/// Whether a key is in force as soon as it is read.
fn is_live(key: &str) -> bool {
    ["class.", "backend.", "catalog."].iter().any(|section| key.starts_with(section))
        || key == "docker.anonymous"
}

/// The keys that are not what they were.
fn differences(before: &Config, now: &Config) -> BTreeSet<String> {
    let (before, now) = (flat(&print::show_json(before, true)), flat(&print::show_json(now, true)));
    let keys = before.keys().chain(now.keys());
    keys.filter(|key| before.get(*key) != now.get(*key)).cloned().collect()
}

fn flat(tree: &Json) -> BTreeMap<String, Json> {
    let mut all = BTreeMap::new();
    let mut open = vec![(String::new(), tree)];
    while let Some((path, value)) = open.pop() {
        match value {
            Json::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    open.push((path, value));
                }
            }
            leaf => {
                all.insert(path, leaf.clone());
            }
        }
    }
    all
}
