//! `cargo xtask image`: the container image, as a file that `docker load`, `podman load` and `ctr image import` take.
//! It needs no registry, no base image and no daemon: one layer made of this machine's files (`rootfs.rs`), laid out as
//! the OCI has images, with the older list beside it that docker looks for. The same files make the same image.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::{
    peers, rootfs,
    shell::{Fallible, Shell, run},
};

/// The arguments of `image`.
#[derive(Debug, Args)]
pub(crate) struct Image {
    /// What the image is called
    #[arg(long, default_value = concat!("kato:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// The file [default: target/image/kato.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Take the binary of this profile
    #[arg(long, default_value = "release")]
    profile: String,
    /// Take this binary, and build none
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    binary: Option<PathBuf>,
    /// A component of somebody else's, at the path that it has here
    #[arg(long, value_name = "FILE")]
    plugin: Vec<PathBuf>,
}

impl Image {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        peers::ensure_for(shell, &["image"])?;
        let binary = rootfs::binary(shell, self.binary.as_deref(), &self.profile)?;
        let out = self.out.clone().unwrap_or_else(|| shell.path("target/image/kato.tar"));
        let work = out.with_extension("work");
        rootfs::clear(&work)?;
        let root = work.join("rootfs");
        rootfs::lay_out(shell, &binary, &root, &["run/kato", "var/lib/kato", "csi"])?;
        for plugin in &self.plugin {
            let path = fs::canonicalize(plugin).map_err(rootfs::because("is not there", plugin))?;
            rootfs::place(&path, &rootfs::beneath(&root, &path))?;
        }
        self.pack(shell, &work, &out)?;
        rootfs::clear(&work)?;
        println!("made {}: docker load -i {}", self.tag, out.display());
        Ok(())
    }

    fn pack(&self, shell: &Shell, work: &Path, out: &Path) -> Fallible {
        let layer = work.join("layer.tar");
        pack(shell, &work.join("rootfs"), &layer)?;
        let layout = work.join("layout");
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(rootfs::because("cannot be made", &blobs))?;
        let bytes = fs::read(&layer).map_err(rootfs::because("cannot be read", &layer))?;
        let layer = Blob::write(&blobs, &bytes)?;
        let config = Blob::write(&blobs, config(&layer.digest).as_bytes())?;
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{},\"layers\":[{}]}}",
            config.described("config.v1+json", ""),
            layer.described("layer.v1.tar", ""),
        );
        let manifest = Blob::write(&blobs, manifest.as_bytes())?;
        let (tag, version) = (&self.tag, self.tag.rsplit_once(':').map_or("latest", |(_, version)| version));
        let names = format!(
            ",\"annotations\":{{\"io.containerd.image.name\":\"{tag}\",\"org.opencontainers.image.ref.name\":\"{version}\"}}"
        );
        let index = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{}]}}",
            manifest.described("manifest.v1+json", &names),
        );
        let list = format!(
            "[{{\"Config\":\"blobs/sha256/{}\",\"RepoTags\":[\"{tag}\"],\"Layers\":[\"blobs/sha256/{}\"]}}]",
            config.digest, layer.digest,
        );
        let files = [
            ("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}".to_owned()),
            ("index.json", index),
            ("manifest.json", list),
        ];
        for (name, text) in files {
            let path = layout.join(name);
            fs::write(&path, text).map_err(rootfs::because("cannot be written", &path))?;
        }
        if let Some(folder) = out.parent() {
            fs::create_dir_all(folder).map_err(rootfs::because("cannot be made", folder))?;
        }
        pack(shell, &layout, out)
    }
}

/// A folder as a file, the same whenever and by whomever it is made.
fn pack(shell: &Shell, folder: &Path, file: &Path) -> Fallible {
    let mut tar = shell.command("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=posix",
    ]);
    tar.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
    run(tar.arg("--file").arg(file).arg("--directory").arg(folder).arg("."))
}

/// A piece of the image, by the digest of its bytes.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn write(folder: &Path, bytes: &[u8]) -> Fallible<Self> {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(&digest);
        fs::write(&path, bytes).map_err(rootfs::because("cannot be written", &path))?;
        Ok(Self { digest, size: bytes.len() })
    }

    /// How another piece speaks of it.
    fn described(&self, kind: &str, more: &str) -> String {
        let Self { digest, size } = self;
        let kind = format!("application/vnd.oci.image.{kind}");
        format!("{{\"mediaType\":\"{kind}\",\"digest\":\"sha256:{digest}\",\"size\":{size}{more}}}")
    }
}

/// How a container of it is started.
fn config(layer: &str) -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{{\"Entrypoint\":[\"/usr/bin/kato\"],\"Cmd\":[\"serve\"],\
         \"Env\":[\"PATH=/usr/sbin:/usr/bin:/sbin:/bin\"],\"WorkingDir\":\"/\"}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{layer}\"]}}}}"
    )
}
