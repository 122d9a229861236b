//! What a component can do: the interfaces of the contract that it exports, each found by itself, so that an
//! ability is derived and never declared. A missing optional interface is an ability less; a broken one
//! fails the load.

use kato_orchestrator::Error;
use wasmtime::{
    Store,
    component::{Instance, InstancePre},
};

use super::abi::exports::kato::storage as abi;
use crate::{engine::Fault, guest::Guest};

macro_rules! abilities {
    ($($name:ident = $wit:literal),* $(,)?) => {
        /// Where each interface of a component is found.
        pub(crate) struct Abilities {
            pub(crate) identity: abi::identity::GuestIndices,
            pub(crate) volumes: abi::volumes::GuestIndices,
            $(pub(crate) $name: Option<abi::$name::GuestIndices>,)*
        }

        impl Abilities {
            /// Looks the interfaces up by name.
            pub(crate) fn of(pre: &InstancePre<Guest>) -> Result<Self, Error> {
                let component = pre.component();
                let missing = |name: &str| {
                    let message = format!("the component does not export kato:storage/{name} as the contract has it");
                    move |error: wasmtime::Error| Error::invalid(message).caused_by(Fault(error))
                };
                Ok(Self {
                    identity: abi::identity::GuestIndices::new(pre).map_err(missing("identity"))?,
                    volumes: abi::volumes::GuestIndices::new(pre).map_err(missing("volumes"))?,
                    $($name: component
                        .get_export_index(None, concat!("kato:storage/", $wit, "@1.0.0"))
                        .map(|_index| abi::$name::GuestIndices::new(pre))
                        .transpose()
                        .map_err(missing($wit))?,)*
                })
            }

            /// Loads every offered interface, because only that checks the types of its functions.
            pub(crate) fn try_all(&self, store: &mut Store<Guest>, instance: &Instance) -> Result<(), Error> {
                let wrong = |name: &str| {
                    let name = name.to_owned();
                    move |error: wasmtime::Error| {
                        Error::invalid(format!(
                            "the component's kato:storage/{name} has another shape than version 1 of the \
                             contract: {error:#}"
                        ))
                    }
                };
                self.identity.load(&mut *store, instance).map_err(wrong("identity"))?;
                self.volumes.load(&mut *store, instance).map_err(wrong("volumes"))?;
                $(if let Some(indices) = &self.$name {
                    indices.load(&mut *store, instance).map_err(wrong($wit))?;
                })*
                Ok(())
            }
        }
    };
}

abilities! {
    grow = "grow",
    attachments = "attachments",
    fencing = "fencing",
    snapshots = "snapshots",
    clone = "clone",
    modify = "modify",
    groups = "groups",
    extents = "extents",
    snapshot_data = "snapshot-data",
    snapshot_writing = "snapshot-writing",
    health = "health",
    capacity = "capacity",
    polling = "polling",
}
