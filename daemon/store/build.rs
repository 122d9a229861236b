//! Generates etcd's messages from `proto/etcd.proto`, without any program but cargo's own. Calls are made by hand
//! (`src/etcd/wire.rs`): there are ten.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/etcd.proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo tells where to write")?);
    let files = protox::compile(["proto/etcd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .build_client(false)
        .build_server(false)
        // Nobody prints a password.
        .skip_debug([".etcdserverpb.AuthenticateRequest", ".etcdserverpb.AuthenticateResponse"])
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
