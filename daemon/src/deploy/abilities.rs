//! What each backend can do, asked of its component without a daemon. The component is loaded as the daemon loads
//! it, but with no grant at all: describing itself needs none, and so nothing can be reached or changed by asking.

use std::collections::BTreeMap;

use kato_orchestrator::{Error, model::BackendName, ports::backend::Description};
use kato_plugin_host::{BackendSpec, Grants, PluginHost};

use crate::{
    config::{Backend, Config},
    plugins::Plugins,
};

/// What these backends say of themselves.
pub(super) fn learn(
    config: &Config,
    names: &[BackendName],
) -> Result<BTreeMap<BackendName, Description>, Error> {
    let broken = |error: std::io::Error| Error::internal("no thread for the plugins").caused_by(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    let host = PluginHost::new(kato_plugin_host::Config::default())?;
    let plugins = Plugins::in_folder(&config.folders.data);
    let mut learned = BTreeMap::new();
    for name in names {
        if let Some(backend) = config.backends.get(name) {
            let description = runtime.block_on(ask(&host, &plugins, name, backend))?;
            learned.insert(name.clone(), description);
        }
    }
    Ok(learned)
}

async fn ask(
    host: &PluginHost,
    plugins: &Plugins,
    name: &BackendName,
    backend: &Backend,
) -> Result<Description, Error> {
    let about =
        |error: Error| if error.subject.is_empty() { error.about(format!("backend {name}")) } else { error };
    let spec = BackendSpec {
        name: name.clone(),
        component: plugins.component(&backend.plugin).map_err(about)?.into(),
        configuration: backend.configuration.clone(),
        grants: Grants::default(),
        limits: backend.limits.clone(),
    };
    Ok(host.load(spec).await.map_err(about)?.describe())
}
