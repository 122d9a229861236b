//! `cargo xtask managed-plugin`: the daemon as a managed Docker plugin. Its root file system is the binary
//! with the shared libraries that it and the programs that it runs (mkfs, fsck) need, taken from this
//! machine, beside the `config.json` of `docker-plugin/managed/`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    peers,
    shell::{Failure, Fallible, Shell, find_program, run},
};

/// Programs that the daemon runs, by the names that it knows them by.
const PROGRAMS: [&str; 5] = ["mkfs.ext4", "mkfs.xfs", "e2fsck", "resize2fs", "xfs_repair"];

/// What those programs read, where it is there.
const SETTINGS: [&str; 1] = ["/etc/mke2fs.conf"];

/// The arguments of `managed-plugin`.
#[derive(Debug, Args)]
pub(crate) struct ManagedPlugin {
    /// What the plugin is called in dockerd
    #[arg(long, default_value = "kato/volume")]
    name: String,
    /// Where it is put together [default: target/managed-plugin]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Put it together, but do not call dockerd
    #[arg(long)]
    no_create: bool,
    /// Take the binary of this profile
    #[arg(long, default_value = "release")]
    profile: String,
}

impl ManagedPlugin {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        shell.ensure_guest_target()?;
        peers::ensure_for(shell, &["managed-plugin"])?;
        run(&mut shell.cargo(&["build", "--locked", "--package", "kato", "--profile", &self.profile]))?;
        let out = self.out.clone().unwrap_or_else(|| shell.path("target/managed-plugin"));
        let rootfs = out.join("rootfs");
        if out.exists() {
            fs::remove_dir_all(&out).map_err(because("the old folder stays", &out))?;
        }
        for folder in ["run/docker/plugins", "var/lib/kato", "tmp", "proc", "sys", "dev", "etc"] {
            let folder = rootfs.join(folder);
            fs::create_dir_all(&folder).map_err(because("cannot be made", &folder))?;
        }
        let folder = if self.profile == "dev" { "debug" } else { self.profile.as_str() };
        let binary = shell.path("target").join(folder).join("kato");
        let mut wanted = BTreeSet::from([binary.clone()]);
        for program in PROGRAMS {
            match find_program(program) {
                Some(path) => wanted.extend([path]),
                None => {
                    return Err(Failure::because(format!(
                        "the plugin needs {program}, which is not on this machine"
                    )));
                }
            }
        }
        let libraries: Vec<_> = wanted.iter().flat_map(|program| libraries_of(shell, program)).collect();
        place(&binary, &rootfs.join("usr/bin/kato"))?;
        wanted.remove(&binary);
        wanted.extend(libraries);
        wanted.extend(SETTINGS.map(PathBuf::from).into_iter().filter(|path| path.is_file()));
        for path in &wanted {
            let beneath = path.strip_prefix("/").unwrap_or(path);
            place(path, &rootfs.join(beneath))?;
        }
        place(&shell.path("docker-plugin/managed/config.json"), &out.join("config.json"))?;
        println!("put together in {}", out.display());
        if self.no_create {
            return Ok(());
        }
        run(shell.command("docker").args(["plugin", "create", &self.name]).arg(&out))?;
        println!("created {}: enable it with `docker plugin enable {}`", self.name, self.name);
        Ok(())
    }
}

/// The shared libraries of a program and its loader, as ldd names them; none for a static one.
fn libraries_of(shell: &Shell, program: &Path) -> Vec<PathBuf> {
    let Ok(answer) = shell.command("ldd").arg(program).output() else { return Vec::new() };
    String::from_utf8_lossy(&answer.stdout).lines().filter_map(library_in).collect()
}

/// The path in one line of ldd: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld.so (0x…)`.
fn library_in(line: &str) -> Option<PathBuf> {
    line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
}

/// Copies what a path leads to, through its links, so that the path itself works in the new root.
fn place(from: &Path, to: &Path) -> Fallible {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(because("cannot be made", folder))?;
    }
    fs::copy(from, to).map_err(because("cannot be copied", from))?;
    Ok(())
}

fn because(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.to_path_buf();
    move |error| Failure::because(format!("{} {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let line = "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)";
        assert_eq!(library_in(line), Some(PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")));
        assert_eq!(
            library_in("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"),
            Some(PathBuf::from("/lib64/ld-linux-x86-64.so.2"))
        );
        assert_eq!(library_in("\tlinux-vdso.so.1 (0x7ffd)"), None);
        assert_eq!(library_in("\tstatically linked"), None);
    }
}
