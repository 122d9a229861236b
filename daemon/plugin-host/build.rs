//! Builds the guests of `plugins/` to components, so that a plain `cargo build` of the house contains them and
//! `kato serve` works with nothing else on disk. They are a workspace of their own, for another target, so
//! this calls cargo again, with an environment that says nothing of the build that is under way (a wrapper of
//! clippy's, say, would otherwise rebuild every guest). Their target folder is a fixed one: one in `OUT_DIR`
//! would make them cold again for each of check, clippy and test. What comes out is `src/embedded.rs`.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-wasip2";

fn main() {
    if let Err(error) = build() {
        for line in error.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()
        .map_err(|error| format!("the repository's root: {error}"))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let plugins = root.join("plugins");

    for path in ["plugins/Cargo.toml", "plugins/Cargo.lock", "rust-toolchain.toml", "wit"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let mut names = Vec::new();
    for folder in folders(&plugins)? {
        println!("cargo::rerun-if-changed={}", plugins.join(&folder).display());
        if plugins.join(&folder).join("plugin.toml").is_file() {
            names.push(folder);
        }
    }
    println!("cargo::rerun-if-changed=build.rs");

    has_target()?;
    let target = root.join("target/plugins");
    cargo(&plugins, &target)?;

    let mut table = String::from("const COMPONENTS: &[(&str, &[u8])] = &[\n");
    for name in names {
        let file = format!("kato_plugin_{}.wasm", name.replace('-', "_"));
        let component = target.join(TARGET).join("release").join(&file);
        let copy = out.join(&file);
        keep(&component, &copy)?;
        // Writing into a string cannot fail.
        let _infallible = writeln!(table, "    ({name:?}, include_bytes!({copy:?})),");
    }
    table.push_str("];\n");
    fs::write(out.join("components.rs"), table).map_err(|error| format!("writing the table: {error}"))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// The folders of the guests' workspace, sorted.
fn folders(plugins: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(plugins).map_err(|error| format!("reading {}: {error}", plugins.display()))?;
    let mut folders: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    folders.sort();
    Ok(folders)
}

/// Without its standard library for the target, rustc's own complaint names neither cause nor cure.
fn has_target() -> Result<(), String> {
    let mut command = program(variable("RUSTC")?);
    let asked = command.args(["--print", "target-libdir", "--target", TARGET]).output();
    let found = asked.ok().filter(|answer| answer.status.success()).is_some_and(|answer| {
        let path = String::from_utf8_lossy(&answer.stdout);
        fs::read_dir(path.trim()).is_ok_and(|mut entries| entries.next().is_some())
    });
    if found {
        return Ok(());
    }
    Err(format!(
        "the plugins are built for {TARGET}, which is not installed: run `rustup target add {TARGET}`"
    ))
}

fn cargo(plugins: &Path, target: &Path) -> Result<(), String> {
    let mut command = program(variable("CARGO")?);
    command
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--manifest-path")
        .arg(plugins.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .current_dir(plugins);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(scrubbed) {
            command.env_remove(&name);
        }
    }
    let answer = command.output().map_err(|error| format!("starting cargo for the plugins: {error}"))?;
    if answer.status.success() {
        return Ok(());
    }
    Err(format!("the plugins do not build:\n{}", String::from_utf8_lossy(&answer.stderr)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a build script starts the compiler; the daemon has no part in it"
)]
fn program(path: OsString) -> Command {
    Command::new(path)
}

/// What belongs to the build under way, and not to the user's own settings (registries, proxies, homes).
fn scrubbed(name: &str) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_TERM_", "CARGO_SOURCE_"];
    const GONE: [&str; 12] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
    ];
    GONE.contains(&name)
        || name.starts_with("CLIPPY_")
        || name.starts_with("DEP_")
        || (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
}

/// Copies, unless it is the same already: a new time of change would build the house again for nothing.
fn keep(from: &Path, to: &Path) -> Result<(), String> {
    let new = fs::read(from).map_err(|error| format!("reading {}: {error}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).map_err(|error| format!("writing {}: {error}", to.display()))
}
