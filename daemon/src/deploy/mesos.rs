//! Mesos and Marathon: what an agent reads to find the daemon's socket, and an application with a volume. The daemon
//! runs on each agent's host by its own unit, not in a container; it attaches by itself, since an agent asks no
//! controller.

use serde_json::{Value as Json, json};

use super::Site;
use crate::cli::{Exit, Failure};

/// What the operator decides besides the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Where the daemon's CSI socket is.
    pub(crate) socket: String,
    /// Beneath which folder the agent has volumes published.
    pub(crate) targets: String,
    /// What the daemon is called as a volume driver of Docker's; nothing where it is none.
    pub(crate) driver: Option<String>,
}

/// What goes where.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    /// A file in the agent's `--csi_plugin_config_dir`.
    pub(crate) agent: Json,
    /// An application of Marathon's.
    pub(crate) marathon: Json,
    pub(crate) needs: Vec<String>,
}

/// Writes them.
pub(crate) fn pages(site: &Site, wish: &Wish) -> Result<Pages, Failure> {
    for (flag, path) in [("--socket", &wish.socket), ("--targets", &wish.targets)] {
        if !path.starts_with('/') {
            return Err(Failure::usage(format!("{flag} {path:?} is no path from the root")));
        }
    }
    let class =
        site.default_class.as_ref().and_then(|name| site.classes.iter().find(|class| class.name == *name));
    let class = class.or_else(|| site.classes.first()).ok_or_else(|| {
        Failure::new(Exit::Config, "no class is of these backends: there is nothing to show")
    })?;
    let agent = json!({
        "type": site.driver,
        "name": "default",
        "endpoints": [{ "csi_service": "NODE_SERVICE", "endpoint": format!("unix://{}", wish.socket) }],
        "target_path_root": wish.targets,
        // The daemon makes what it publishes, and takes it away again.
        "target_path_exists": false,
    });
    let marathon = json!({
        "id": "/with-a-volume",
        "instances": 1,
        "cpus": 0.1,
        "mem": 32,
        "cmd": "date >> data/log && tail -n 3 data/log && sleep 3600",
        // Two at once would both write to it.
        "upgradeStrategy": { "minimumHealthCapacity": 0, "maximumOverCapacity": 0 },
        "container": {
            "type": "MESOS",
            "volumes": [{
                "containerPath": "data",
                "mode": "RW",
                "external": {
                    "provider": "csi",
                    "name": format!("{}/HANDLE", class.backend),
                    "options": {
                        "pluginName": site.driver,
                        "capability": {
                            "accessType": "mount",
                            "accessMode": "SINGLE_NODE_WRITER",
                            "fsType": class.fs.name(),
                        },
                    },
                },
            }],
        },
    });
    let mut needs = vec![
        format!(
            "The daemon on each agent's host, with this beside its configuration: [csi] enabled = true, socket = \"{}\", \
             roots = [\"{}\"]",
            wish.socket, wish.targets
        ),
        "Agents with --isolation=filesystem/linux,volume/csi and --csi_plugin_config_dir, where agent.json goes; Mesos \
         1.11 or newer."
            .to_owned(),
        "A volume that is there before the task: `kato volume create NAME`; `kato volume inspect NAME` tells its handle, \
         which takes HANDLE's place."
            .to_owned(),
        by_dvdcli(wish.driver.as_deref()),
    ];
    needs.extend(site.notes.iter().map(|note| format!("Note that {note}.")));
    Ok(Pages { agent, marathon, needs })
}

/// What Docker's way of volumes takes: no file, but another name of this program.
fn by_dvdcli(driver: Option<&str>) -> String {
    let door = if driver.is_some() { "" } else { "docker.enabled = true in the daemon's configuration; " };
    let driver = driver.unwrap_or("kato");
    format!(
        "For Docker's way of volumes instead (any Mesos since 1.0), nothing has to be written: {door}`ln -s kato \
         /usr/bin/dvdcli` on each agent's host before the agent starts; --isolation=filesystem/linux,docker/volume \
         for the agents, --enable_features=external_volumes for Marathon, and for a volume the provider \"dvdi\" with \
         the options {{\"dvdi/driver\": \"{driver}\"}}."
    )
}
