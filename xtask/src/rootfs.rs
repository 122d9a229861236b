//! A root file system made of this machine's own files: the daemon's binary, the programs that it runs and the shared
//! libraries of all of them, each at the path that it has here. The managed plugins and the container image are made of
//! one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::shell::{Failure, Fallible, Shell, find_program, run};

/// Programs that the daemon runs, by the names that it knows them by.
const PROGRAMS: [&str; 5] = ["mkfs.ext4", "mkfs.xfs", "e2fsck", "resize2fs", "xfs_repair"];

/// What those programs read, where it is there.
const SETTINGS: [&str; 1] = ["/etc/mke2fs.conf"];

/// Where the daemon's binary is: the one that is given, or one that is built now in this profile.
pub(crate) fn binary(shell: &Shell, given: Option<&Path>, profile: &str) -> Fallible<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_path_buf());
    }
    shell.ensure_guest_target()?;
    run(&mut shell.cargo(&["build", "--locked", "--package", "kato", "--profile", profile]))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(shell.path("target").join(folder).join("kato"))
}

/// Lays it out in a folder that does not exist yet, with these empty folders in it.
pub(crate) fn lay_out(shell: &Shell, binary: &Path, rootfs: &Path, folders: &[&str]) -> Fallible {
    for folder in folders.iter().chain(&["tmp", "proc", "sys", "dev", "etc"]) {
        let folder = rootfs.join(folder);
        fs::create_dir_all(&folder).map_err(because("cannot be made", &folder))?;
    }
    let mut wanted = BTreeSet::new();
    for program in PROGRAMS {
        match find_program(program) {
            Some(path) => wanted.extend([path]),
            None => {
                return Err(Failure::because(format!(
                    "the daemon runs {program}, which is not on this machine"
                )));
            }
        }
    }
    let needing = wanted.iter().map(PathBuf::as_path).chain([binary]);
    let libraries: Vec<_> = needing.flat_map(|program| libraries_of(shell, program)).collect();
    place(binary, &rootfs.join("usr/bin/kato"))?;
    wanted.extend(libraries);
    wanted.extend(SETTINGS.map(PathBuf::from).into_iter().filter(|path| path.is_file()));
    for path in &wanted {
        place(path, &beneath(rootfs, path))?;
    }
    Ok(())
}

/// Where a path of this machine is in the other root.
pub(crate) fn beneath(rootfs: &Path, path: &Path) -> PathBuf {
    rootfs.join(path.strip_prefix("/").unwrap_or(path))
}

/// Removes what an earlier run left.
pub(crate) fn clear(folder: &Path) -> Fallible {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(because("the old folder stays", folder))?;
    }
    Ok(())
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
pub(crate) fn place(from: &Path, to: &Path) -> Fallible {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(because("cannot be made", folder))?;
    }
    fs::copy(from, to).map_err(because("cannot be copied", from))?;
    Ok(())
}

pub(crate) fn because(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
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
