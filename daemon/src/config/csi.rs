//! The CSI door as configured, and the cluster that several daemons are one of. A controller and a node that share no
//! records have to agree on two things, the cluster's id and the key for seals; so both have to be written for these roles.

use std::path::{Path, PathBuf};

use kato_csi::Role;
use kato_orchestrator::model::{BackendName, ClusterId};

use super::{Csi, backends, convert::check_socket, mistakes::Mistake, scope::Scope};

/// The id of the cluster, if it is written.
pub(super) fn cluster(root: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<ClusterId> {
    let scope = root.section("cluster");
    let text = scope.text("id")?;
    let id = ClusterId::parse(&text);
    if id.is_none() {
        let reason = "an id is 32 lower-case hex digits: make one with `head -c 16 /dev/urandom | xxd -p`";
        mistakes.push(scope.mistake("id", reason));
    }
    id
}

/// Understands the section.
pub(super) fn csi<'a>(
    root: &Scope<'_>,
    backends: impl Iterator<Item = &'a BackendName>,
    mistakes: &mut Vec<Mistake>,
) -> Csi {
    let scope = root.section("csi");
    let enabled = scope.flag("enabled");
    let role = match scope.text("role").as_deref() {
        Some("controller") => Role::Controller,
        Some("node") => Role::Node,
        _ => Role::All,
    };
    let socket = scope.path("socket").unwrap_or_default();
    check_socket(&scope, "socket", &socket, mistakes);
    let name = scope.text("name").unwrap_or_default();
    if !is_domain(&name) {
        let reason = format!(
            "\"{name}\" is no driver's name: at most 63 letters, digits, '-' and '.', as in a domain name"
        );
        mistakes.push(scope.mistake("name", reason));
    }
    let roots: Vec<PathBuf> = scope.texts("roots").into_iter().map(PathBuf::from).collect();
    if let Some(root) = roots.iter().find(|root| !is_plain(root)) {
        let reason =
            format!("\"{}\" is no path from the root without \"..\": write where it is", root.display());
        mistakes.push(scope.mistake("roots", reason));
    }
    let seal = match scope.node("seal") {
        Some(_) => backends::secret(&scope.section("seal"), mistakes),
        None => None,
    };
    if enabled && role != Role::All {
        let both = "a controller and its nodes share no records, so every one of them has to have the same";
        if scope.node("seal").is_none() {
            mistakes.push(scope.mistake("seal", format!("this has to be written for this role: {both}")));
        }
        if root.section("cluster").node("id").is_none() {
            let mut mistake = scope.mistake("role", format!("cluster.id has to be written for it: {both}"));
            mistake.key = "cluster.id".to_owned();
            mistakes.push(mistake);
        }
    }
    if enabled {
        for backend in backends.filter(|backend| backend.as_str().contains('/')) {
            let reason = "a name with a slash cannot be a part of a CSI id: rename it, or close the CSI door";
            mistakes.push(root.section("backend").mistake(backend.as_str(), reason));
        }
    }
    Csi {
        enabled,
        socket,
        role,
        name,
        stage: scope.flag("stage"),
        roots,
        wait: scope.span("wait"),
        calls: scope.count("calls").and_then(|calls| usize::try_from(calls).ok()).unwrap_or(1),
        seal,
    }
}

/// Whether a name has the form of a domain name, and fits where a label has to.
fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        !label.is_empty()
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
    };
    name.len() <= 63 && name.split('.').all(label)
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| part != std::path::Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, Sources, load};

    fn read(set: &[&str], environment: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "").unwrap();
        let environment: BTreeMap<_, _> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let set = set.iter().map(|setting| (*setting).to_owned()).collect();
        load(&Sources { file: Some(file), set, environment }).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn an_endpoint_in_the_environment_opens_the_door() {
        assert!(!read(&[], &[]).unwrap().csi.enabled);
        for endpoint in ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"] {
            let set = ["csi.socket=/elsewhere.sock"];
            let file =
                read(&[], &[("CSI_ENDPOINT", endpoint), ("KATO__CSI__SOCKET", "/other.sock")]).unwrap();
            assert!(file.csi.enabled && file.csi.socket == Path::new("/csi/csi.sock"), "{endpoint}");
            let flag = read(&set, &[("CSI_ENDPOINT", endpoint)]).unwrap();
            assert_eq!(flag.csi.socket, Path::new("/elsewhere.sock"), "who types it means it");
        }
        assert!(read(&[], &[("CSI_ENDPOINT", "tcp://0.0.0.0:1")]).unwrap_err().contains("CSI_ENDPOINT"));
    }

    #[test]
    fn roles_that_share_no_records_have_to_share_a_cluster_and_a_seal() {
        for role in ["controller", "node"] {
            let role = format!("csi.role={role}");
            let told = read(&["csi.enabled=true", &role], &[]).unwrap_err();
            assert!(told.contains("csi.seal") && told.contains("cluster.id"), "{told}");
            let id = format!("cluster.id={}", "0a".repeat(16));
            let config = read(&["csi.enabled=true", &role, &id, "csi.seal.env=KEY"], &[]).unwrap();
            assert!(config.cluster.is_some() && config.csi.seal.is_some());
        }
        assert!(read(&["csi.enabled=true"], &[]).is_ok(), "alone, it finds both in its data folder");
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for (setting, told) in [
            ("csi.name=a_b", "csi.name"),
            ("csi.name=-a.b", "csi.name"),
            ("csi.roots=relative", "csi.roots"),
            ("csi.roots=/a/../b", "csi.roots"),
            ("cluster.id=0A", "cluster.id"),
        ] {
            assert!(read(&[setting], &[]).unwrap_err().contains(told), "{setting}");
        }
    }
}
