//! What the operator configured: classes and the backends behind them. It can be replaced while the house is
//! at work; whoever is in the middle of something keeps what it began with.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::Error,
    model::{BackendName, Class, ClassName},
    ports::Backend,
};

/// Classes and backends as configured now.
#[derive(Clone, Default)]
pub struct Catalog {
    /// By name.
    pub classes: BTreeMap<ClassName, Arc<Class>>,
    /// By name. A backend that could not be loaded is missing here and named in `broken`.
    pub backends: BTreeMap<BackendName, Arc<dyn Backend>>,
    /// Backends that are configured but cannot be used, and why.
    pub broken: BTreeMap<BackendName, String>,
    /// The class of wishes that name none.
    pub default_class: Option<ClassName>,
    /// The class of volumes with 64 hex digits for a name; nothing refuses them.
    pub anonymous_class: Option<ClassName>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("classes", &self.classes.keys())
            .field("backends", &self.backends.keys())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// The backend of that name.
    pub fn backend(&self, name: &BackendName) -> Result<Arc<dyn Backend>, Error> {
        if let Some(backend) = self.backends.get(name) {
            return Ok(Arc::clone(backend));
        }
        Err(match self.broken.get(name) {
            Some(why) => Error::unavailable(format!("the backend cannot be used: {why}")),
            None => Error::unavailable(format!(
                "the backend is not configured here any more: configure it again, or see `kato backend ls` \
                 ({} configured)",
                self.backends.len()
            )),
        }
        .about(format!("backend {name}")))
    }

    /// The class of that name, or the default one.
    pub fn class(&self, name: Option<&ClassName>) -> Result<Arc<Class>, Error> {
        let known = || self.classes.keys().map(ClassName::as_str).collect::<Vec<_>>().join(", ");
        let Some(name) = name.or(self.default_class.as_ref()) else {
            return Err(Error::invalid(format!(
                "no class is named and there is no default class: name one of {}",
                known()
            )));
        };
        self.classes.get(name).cloned().ok_or_else(|| {
            Error::not_found(format!("there is no class \"{name}\": the classes are {}", known()))
                .about(format!("class {name}"))
        })
    }
}
