//! `cargo xtask managed-plugin`: the daemon as a managed Docker plugin: a root file system (`rootfs.rs`) beside the
//! `config.json` of `docker-plugin/managed/`, or of `docker-plugin/managed-csi/` for the cluster volumes of Swarm.

use std::path::PathBuf;

use clap::Args;

use crate::{
    peers, rootfs,
    shell::{Fallible, Shell, run},
};

/// The arguments of `managed-plugin`.
#[derive(Debug, Args)]
pub(crate) struct ManagedPlugin {
    /// What the plugin is called in dockerd [default: kato/volume, or kato/csi]
    #[arg(long)]
    name: Option<String>,
    /// The plugin for Swarm's cluster volumes, which speaks CSI
    #[arg(long)]
    csi: bool,
    /// Where it is put together [default: target/managed-plugin, or target/managed-plugin-csi]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Put it together, but do not call dockerd
    #[arg(long)]
    no_create: bool,
    /// Take the binary of this profile
    #[arg(long, default_value = "release")]
    profile: String,
    /// Take this binary, and build none
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    binary: Option<PathBuf>,
}

impl ManagedPlugin {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        let (name, place, config, folders): (_, _, _, &[&str]) = if self.csi {
            let folders = &["run/docker/plugins", "data/published", "etc/kato"];
            ("kato/csi", "target/managed-plugin-csi", "docker-plugin/managed-csi/config.json", folders)
        } else {
            let folders = &["run/docker/plugins", "var/lib/kato"];
            ("kato/volume", "target/managed-plugin", "docker-plugin/managed/config.json", folders)
        };
        let name = self.name.as_deref().unwrap_or(name);
        peers::ensure_for(shell, &["managed-plugin"])?;
        let binary = rootfs::binary(shell, self.binary.as_deref(), &self.profile)?;
        let out = self.out.clone().unwrap_or_else(|| shell.path(place));
        rootfs::clear(&out)?;
        rootfs::lay_out(shell, &binary, &out.join("rootfs"), folders)?;
        rootfs::place(&shell.path(config), &out.join("config.json"))?;
        println!("put together in {}", out.display());
        if self.no_create {
            return Ok(());
        }
        run(shell.command("docker").args(["plugin", "create", name]).arg(&out))?;
        println!("created {name}: enable it with `docker plugin enable {name}`");
        Ok(())
    }
}
