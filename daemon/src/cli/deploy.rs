//! `kato deploy`: prints what Kubernetes, Nomad and Mesos have to be told, from the configuration alone. What is
//! printed is `deploy/`'s business; here flags become wishes, and files are written where somebody asked for files.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use kato_orchestrator::ports::Clock as _;
use serde_json::{Value as Json, json};

use super::{Exit, Failure, Global, output::Format};
use crate::{
    clock::SystemClock,
    config::{Config, load},
    deploy::{
        File, Site,
        kubernetes::{
            self,
            blocks::{self, SECRET, Tls},
            certificate::Certificate,
        },
        mesos, nomad,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print the objects of a CSI driver, for `kubectl apply -f -`
    #[command(visible_alias = "k8s")]
    Kubernetes(Kubernetes),
    /// Print job files with a CSI plugin, and a volume to begin with
    Nomad(Nomad),
    /// Print what a Mesos agent and Marathon need
    Mesos(Mesos),
}

/// What all of them have in common.
#[derive(Args, Debug)]
struct Choice {
    /// Only these backends, with their classes [default: those that are configured, or else the built-in one]
    #[arg(long, value_name = "NAME")]
    backend: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct Kubernetes {
    #[command(flatten)]
    choice: Choice,
    /// Write the objects into this folder instead, with a kustomization.yaml
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    kustomize: Option<PathBuf>,
    /// What every object's name begins with
    #[arg(long, default_value = "kato")]
    name: String,
    /// The namespace
    #[arg(long, default_value = "kato")]
    namespace: String,
    /// The daemon's image
    #[arg(long, default_value = concat!("kato:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Where the images of Kubernetes' sidecars are
    #[arg(long, default_value = "registry.k8s.io/sig-storage")]
    registry: String,
    /// The kubelet's folder
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "FOLDER")]
    kubelet: String,
    /// The log level of the daemons [default: what the configuration says]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Offer snapshots [default: if a backend can]
    #[arg(long, overrides_with = "no_snapshots")]
    snapshots: bool,
    /// Do not offer snapshots
    #[arg(long)]
    no_snapshots: bool,
    /// Do not make the default class the cluster's
    #[arg(long)]
    no_default_class: bool,
    /// Who makes the certificate of the service that lists changed blocks
    #[arg(long, value_enum, default_value = "self-signed", value_name = "WHO")]
    tls: Maker,
    /// The Secret that holds it, as it was printed before or as kubectl prints it: it is kept while it is good
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tls_secret: Option<PathBuf>,
    /// The authority (PEM) of a certificate of your own, which you put into the Secret yourself
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["tls", "tls_secret"])]
    snapshot_metadata_ca: Option<PathBuf>,
}

/// Who makes a certificate.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Maker {
    /// This command
    SelfSigned,
    /// cert-manager, in the cluster
    CertManager,
    /// Nobody: no changed blocks are listed
    None,
}

#[derive(Args, Debug)]
pub(super) struct Nomad {
    #[command(flatten)]
    choice: Choice,
    /// Write the files into this folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: Option<PathBuf>,
    /// What the jobs and the plugin are called
    #[arg(long, default_value = "kato")]
    name: String,
    /// The daemon's image
    #[arg(long, default_value = concat!("kato:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// The datacenters
    #[arg(long, default_value = "*", value_name = "NAME")]
    datacenter: Vec<String>,
    /// The log level of the daemons [default: what the configuration says]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Mesos {
    #[command(flatten)]
    choice: Choice,
    /// Write agent.json and marathon.json into this folder
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: Option<PathBuf>,
    /// Where the daemon's CSI socket is
    #[arg(long, default_value = "/run/kato/csi.sock", value_name = "PATH", value_hint = ValueHint::FilePath)]
    csi_socket: String,
    /// Where the agents have volumes published
    #[arg(long, default_value = "/var/lib/mesos-csi/kato", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    targets: String,
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Kubernetes(verb) => verb.run(global),
            Self::Nomad(verb) => verb.run(global),
            Self::Mesos(verb) => verb.run(global),
        }
    }
}

impl Choice {
    fn site(&self, global: &Global) -> Result<Site, Failure> {
        Site::of(&configured(global)?, &self.backend)
    }
}

impl Kubernetes {
    fn run(self, global: &Global) -> Result<Exit, Failure> {
        let site = self.choice.site(global)?;
        let wish = kubernetes::Wish {
            tls: self.tls(&site)?,
            name: self.name,
            namespace: self.namespace,
            image: self.image,
            registry: self.registry,
            kubelet: self.kubelet,
            log_level: self.log_level,
            snapshots: (self.snapshots || self.no_snapshots).then_some(self.snapshots),
            default_class: !self.no_default_class,
        };
        let driver = kubernetes::driver(site, &wish)?;
        let out = global.out();
        match (&self.kustomize, out.format) {
            (Some(folder), _) => {
                write(global, folder, &driver.kustomization())?;
                tell("before `kubectl apply -k`:", &driver.needs)?;
                return Ok(Exit::Ok);
            }
            (None, Format::Json) => out.things(vec![driver.list()])?,
            (None, Format::Name) => {
                for object in &driver.objects {
                    out.text(&format!("{}\n", object.name()))?;
                }
            }
            (None, Format::Table | Format::Wide | Format::Yaml) => out.text(&driver.documents())?,
        }
        tell("before it is applied:", &driver.needs)?;
        Ok(Exit::Ok)
    }
}

impl Kubernetes {
    /// How the service that lists changed blocks is known; no key is made where there is no such service.
    fn tls(&self, site: &Site) -> Result<Tls, Failure> {
        if !site.lists_blocks() {
            return Ok(Tls::Nobody);
        }
        if let Some(path) = &self.snapshot_metadata_ca {
            return certificate(path).map(Tls::Operator);
        }
        // What was written into the same folder before is an earlier answer too.
        let before = self.kustomize.as_ref().map(|folder| folder.join(SECRET)).filter(|path| path.is_file());
        match (self.tls, self.tls_secret.as_ref()) {
            (Maker::None, _) => Ok(Tls::Nobody),
            (Maker::CertManager, secret) => {
                let authority =
                    secret.map(|path| secret_in(path, Certificate::read_authorities)).transpose()?;
                Ok(Tls::CertManager(authority))
            }
            (Maker::SelfSigned, secret) => {
                let earlier = secret.or(before.as_ref());
                let found = earlier.map(|path| secret_in(path, Certificate::read)).transpose()?;
                let now = Duration::from_millis(SystemClock.now().0);
                let names = blocks::names(&self.name, &self.namespace);
                Ok(Tls::Ours(Certificate::keep_or_make(found, &names, now)?))
            }
        }
    }
}

impl Nomad {
    fn run(self, global: &Global) -> Result<Exit, Failure> {
        let wish = nomad::Wish {
            name: self.name,
            image: self.image,
            datacenters: self.datacenter,
            log_level: self.log_level,
        };
        let (files, needs) = nomad::jobs(self.choice.site(global)?, &wish)?;
        let out = global.out();
        match (&self.folder, out.format) {
            (Some(folder), _) => write(global, folder, &files)?,
            (None, Format::Json | Format::Yaml) => {
                let all: serde_json::Map<String, Json> =
                    files.into_iter().map(|file| (file.name, file.text.into())).collect();
                out.things(vec![all.into()])?;
            }
            (None, Format::Name) => {
                for file in &files {
                    out.text(&format!("{}\n", file.name))?;
                }
            }
            (None, Format::Table | Format::Wide) => {
                for (at, file) in files.iter().enumerate() {
                    let line = if at == 0 { "" } else { "\n" };
                    out.text(&format!("{line}# {}\n{}", file.name, file.text))?;
                }
            }
        }
        tell("before the jobs are run:", &needs)?;
        Ok(Exit::Ok)
    }
}

impl Mesos {
    fn run(self, global: &Global) -> Result<Exit, Failure> {
        let config = configured(global)?;
        let driver = config.docker.socket.file_stem().filter(|_| config.docker.enabled);
        let driver = driver.map(|stem| stem.to_string_lossy().into_owned());
        let wish = mesos::Wish { socket: self.csi_socket, targets: self.targets, driver };
        let pages = mesos::pages(&Site::of(&config, &self.choice.backend)?, &wish)?;
        let out = global.out();
        let all = [("agent.json", pages.agent), ("marathon.json", pages.marathon)];
        match (&self.folder, out.format) {
            (Some(folder), _) => {
                let files = all.map(|(name, page)| File { name: name.to_owned(), text: pretty(&page) });
                write(global, folder, &files)?;
            }
            (None, Format::Yaml) => out.things(vec![json!(std::collections::BTreeMap::from(all))])?,
            (None, Format::Name) => out.text("agent.json\nmarathon.json\n")?,
            (None, Format::Table | Format::Wide | Format::Json) => {
                out.text(&pretty(&json!(std::collections::BTreeMap::from(all))))?;
            }
        }
        tell("besides:", &pages.needs)?;
        Ok(Exit::Ok)
    }
}

fn configured(global: &Global) -> Result<Config, Failure> {
    load(&global.sources()).map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()))
}

fn pretty(page: &Json) -> String {
    let mut text = serde_json::to_string_pretty(page).unwrap_or_default();
    text.push('\n');
    text
}

/// Writes files into a folder, made if there is none, and names them.
fn write(global: &Global, folder: &Path, files: &[File]) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::new(Exit::Failure, format!("{path} cannot be written: {error}"))
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for file in files {
        let path = folder.join(&file.name);
        let mode = if file.name == SECRET { 0o600 } else { 0o666 };
        let mut options = fs::OpenOptions::new();
        let mut opened =
            options.write(true).create(true).truncate(true).mode(mode).open(&path).map_err(failed(&path))?;
        opened.write_all(file.text.as_bytes()).map_err(failed(&path))?;
        global.out().text(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// Tells a person what else there has to be.
fn tell(when: &str, needs: &[String]) -> Result<(), Failure> {
    let mut err = io::stderr().lock();
    writeln!(err, "{when}")?;
    for need in needs {
        writeln!(err, "  - {need}")?;
    }
    Ok(())
}

/// The operator's own certificate. A private key in its place would be there for everybody to read.
fn certificate(path: &Path) -> Result<String, Failure> {
    let text = text(path)?;
    if !text.contains("-----BEGIN CERTIFICATE-----") || text.contains("PRIVATE KEY") {
        return Err(Failure::usage(format!(
            "{} is no certificate in PEM, or is more than that",
            path.display()
        )));
    }
    Ok(text)
}

/// What is wanted of the Secret in a file.
fn secret_in<T>(path: &Path, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Failure> {
    read(&text(path)?).ok_or_else(|| {
        Failure::usage(format!("{} holds no Secret with a certificate", path.display()))
            .next("hand in what this command, or `kubectl get secret -o yaml`, has printed")
    })
}

fn text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Failure, format!("{} cannot be read: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_never_taken_for_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("both.pem");
        let certificate_text = "-----BEGIN CERTIFICATE-----\nTQ==\n-----END CERTIFICATE-----\n";
        fs::write(&file, certificate_text).unwrap();
        assert!(certificate(&file).is_ok());
        fs::write(&file, format!("{certificate_text}-----BEGIN PRIVATE KEY-----\n")).unwrap();
        assert_eq!(certificate(&file).unwrap_err().exit, Exit::Usage);
    }
}
