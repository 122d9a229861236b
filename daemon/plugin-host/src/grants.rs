//! What a plugin may do: nothing, unless the operator granted it.
//!
//! **The threat.** A plugin is a stranger's program with a say in where the node mounts what. It may be
//! written badly, hacked in its supply chain, or talked into something by whoever names volumes, and it
//! talks to a cloud that may answer anything. We assume that it wants three things: to reach what it should
//! not (files of the host, other tenants' volumes, the cloud's metadata service, machines of the internal
//! network), to learn secrets, and to make trusted parts of the house act for it (the node that mounts what
//! it names, programs that run with its arguments).
//!
//! **The answer.** It holds no descriptor, no socket and no secret. For each power there is one kind of
//! grant and one place that checks it, on our side and at the moment of use:
//!
//! - *directories* (`files/beneath.rs`): a name for an absolute path. Every path is resolved by the kernel
//!   beneath the granted directory, without symlinks; nothing is checked by comparing strings and used
//!   later. The root disk and the directories of the system cannot be granted.
//! - *http* (`grants/http.rs`): scheme, host, port, methods and paths, and which addresses the name may
//!   resolve to. The address that was checked is the one that is connected to, so a name that resolves to
//!   something else the second time gains nothing. Link-local addresses (metadata services) are refused
//!   unless a CIDR among them is granted on purpose. Redirects are requests of their own. Proxies and
//!   authorities of the operator's: `grants/way.rs`.
//! - *credentials* (`grants/credentials.rs`): put on requests on their way out, never given to the guest, and
//!   struck out of answers that repeat them (`grants/leaks.rs`).
//! - *commands* (`grants/commands.rs`): whole command lines with typed holes. No hole is a path or begins
//!   with a dash, because options such as `--log-file` make "a program and its first arguments" no grant. What
//!   runs sees a read-only file system without volumes (`confine.rs`).
//! - *a region of AWS* (`grants/aws.rs`): requests to two services, with the actions and paths that look after volumes.
//!   What makes them the operator's is a signature (`aws/`), so what of a request is signed is read as its server
//!   reads it, and is refused where that is in doubt.
//! - *a Ceph pool* (`grants/ceph.rs`): command lines that this project answers for, with the pool and the identity fixed
//!   by the operator, and connections to images in that pool.
//! - *connections* (`grants/connections.rs`): what a plugin answers is checked before the node sees it. Targets of iSCSI
//!   (`grants/iscsi.rs`) are opened by an account of the operator's that no connection carries.
//!
//! **Both must agree.** A plugin asks in its manifest, the operator grants in the configuration, and the
//! effective power is what both name. So a plugin that is replaced by one that wants more gets no more, and
//! a grant that is too wide is narrowed to what the plugin was written for.

pub(crate) mod aws;
pub(crate) mod ceph;
pub(crate) mod commands;
pub(crate) mod connections;
pub(crate) mod credentials;
pub(crate) mod directories;
pub(crate) mod http;
pub(crate) mod iscsi;
pub(crate) mod leaks;
pub(crate) mod way;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use kato_orchestrator::Error;
use serde::Deserialize;

pub use self::{
    aws::{AwsEndpoints, AwsGrant},
    ceph::CephGrant,
    commands::CommandGrant,
    connections::ConnectionGrants,
    credentials::{Authoriser, Secret, SecretSource},
    http::{Addresses, HttpGrant},
    iscsi::{ChapGrant, IscsiGrant},
    way::ProxyGrant,
};
use crate::manifest::Asks;

/// What the operator grants to a backend.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Directories of this host by the names that the plugin uses for them.
    pub directories: BTreeMap<String, PathBuf>,
    /// Where requests may go.
    pub http: Vec<HttpGrant>,
    /// Command lines by the names that the plugin uses for them.
    pub commands: BTreeMap<String, CommandGrant>,
    /// A region of AWS.
    pub aws: Option<AwsGrant>,
    /// A pool of a Ceph cluster.
    pub ceph: Option<CephGrant>,
    /// What the plugin may tell the node to connect to.
    pub connections: ConnectionGrants,
}

/// One power, as a person compares what is asked with what is granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Power {
    /// `directory`, `command`, `connection`, `http` or `aws`.
    pub kind: &'static str,
    /// What it is about.
    pub name: String,
    /// Whether the plugin's manifest asks for it.
    pub asked: bool,
    /// Whether the operator grants it.
    pub granted: bool,
}

impl Power {
    /// Whether the plugin can use it.
    #[must_use]
    pub fn effective(&self) -> bool {
        self.asked && self.granted
    }
}

impl Grants {
    /// What is asked beside what is granted, for people.
    #[must_use]
    pub fn compare(&self, asks: &Asks) -> Vec<Power> {
        let mut powers = Vec::new();
        let mut both = |kind, asked: &[String], granted: Vec<&str>| {
            for name in asked {
                let granted = granted.contains(&name.as_str());
                powers.push(Power { kind, name: name.clone(), asked: true, granted });
            }
            for name in granted {
                if !asked.iter().any(|ask| ask == name) {
                    powers.push(Power { kind, name: name.to_owned(), asked: false, granted: true });
                }
            }
        };
        both("directory", &asks.directories, self.directories.keys().map(String::as_str).collect());
        let mut commands: Vec<&str> = self.commands.keys().map(String::as_str).collect();
        for name in self.ceph.iter().flat_map(CephGrant::names) {
            commands.push(name);
        }
        both("command", &asks.commands, commands);
        let rbd = self.ceph.as_ref().map(|_| "rbd");
        both("connection", &asks.connections, self.connections.kinds().into_iter().chain(rbd).collect());
        let services: Vec<_> = self.aws.iter().flat_map(AwsGrant::origins).collect();
        for ask in asks.aws.iter().filter(|ask| !services.iter().any(|(service, _)| service == ask)) {
            powers.push(Power { kind: "aws", name: ask.clone(), asked: true, granted: false });
        }
        for (service, origin) in &services {
            let by_origin = asks.http.iter().any(|ask| http::covers(ask, origin));
            let asked = by_origin || asks.aws.iter().any(|ask| ask == service);
            powers.push(Power { kind: "aws", name: (*service).to_owned(), asked, granted: true });
        }
        let origins: Vec<&str> = self.http.iter().map(|grant| grant.url.as_str()).collect();
        for url in &asks.http {
            let of_services = services.iter().map(|(_, origin)| origin.as_str());
            let granted = origins
                .iter()
                .copied()
                .chain(of_services)
                .any(|granted| http::covers(url, granted) || http::covers(granted, url));
            powers.push(Power { kind: "http", name: url.clone(), asked: true, granted });
        }
        for url in origins {
            if !asks.http.iter().any(|ask| ask == url) {
                let asked = asks.http.iter().any(|ask| http::covers(ask, url));
                powers.push(Power { kind: "http", name: url.to_owned(), asked, granted: true });
            }
        }
        powers.sort();
        powers
    }
}

/// How the daemon's environment is looked up: the daemon reads it in one place.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a backend's guests can do: what is asked and granted, ready to be checked against.
#[derive(Debug, Default)]
pub(crate) struct Powers {
    /// Whose they are: what a connection to a cluster is named by.
    pub(crate) backend: String,
    pub(crate) directories: directories::Directories,
    pub(crate) http: Arc<http::Rules>,
    pub(crate) commands: commands::Lines,
    pub(crate) connections: connections::Kinds,
    pub(crate) secrets: credentials::Secrets,
}

impl Powers {
    /// The intersection of what is asked and what is granted. Every mistake of the grants is told, also in
    /// those that nobody asks for.
    pub(crate) fn new(
        backend: &str,
        asks: &Asks,
        grants: &Grants,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let mut mistakes = Vec::new();
        let mut keep = |mistake: Error| mistakes.push(mistake.message);
        let directories = directories::Directories::new(&asks.directories, &grants.directories, &mut keep);
        let secrets = credentials::Secrets::new(environment);
        let mut origins = asks.http.clone();
        let mut requests = grants.http.clone();
        if let Some(aws) = &grants.aws {
            let asked = aws.origins().filter(|(service, _)| asks.aws.iter().any(|ask| ask == service));
            origins.extend(asked.map(|(_, origin)| origin));
            match aws.http() {
                Ok(grants) => requests.splice(0..0, grants).for_each(drop),
                Err(mistake) => keep(mistake),
            }
        }
        let http = http::Rules::new(&origins, &requests, &secrets, &mut keep);
        let mut lines = grants.commands.clone();
        match grants.ceph.as_ref().map(CephGrant::lines) {
            Some(Ok(ceph)) => {
                for (name, line) in ceph {
                    if lines.insert(name.clone(), line).is_some() {
                        keep(Error::invalid(format!(
                            "the command {name:?} is granted twice: the grant of a Ceph pool has it already"
                        )));
                    }
                }
            }
            Some(Err(mistake)) => keep(mistake),
            None => {}
        }
        let commands = commands::Lines::new(&asks.commands, &lines, &mut keep);
        let ceph = grants.ceph.as_ref();
        let connections = connections::Kinds::new(&asks.connections, &grants.connections, ceph, &mut keep);
        if mistakes.is_empty() {
            let (backend, http) = (backend.to_owned(), Arc::new(http));
            Ok(Self { backend, directories, http, commands, connections, secrets })
        } else {
            Err(Error::invalid(format!("the grants have mistakes: {}", mistakes.join("; "))))
        }
    }
}

/// A refusal of something that was not granted.
pub(crate) fn denied(what: impl Into<String>) -> Error {
    Error::permission_denied(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_granted_is_shown_side_by_side() {
        let grants: Grants = toml::from_str(
            "directories = { data = \"/srv/data\", spare = \"/srv/spare\" }\n\
             connections = { file = true }\n[[http]]\nurl = \"https://api.example.com\"",
        )
        .unwrap();
        let asks = Asks {
            directories: vec!["data".into(), "log".into()],
            connections: vec!["file".into()],
            http: vec!["https://*.example.com".into()],
            ..Asks::default()
        };
        let effective = |kind: &str, name: &str| {
            let powers = grants.compare(&asks);
            powers.iter().find(|power| power.kind == kind && power.name == name).map(Power::effective)
        };
        assert_eq!(effective("directory", "data"), Some(true));
        assert_eq!(effective("directory", "log"), Some(false));
        assert_eq!(effective("directory", "spare"), Some(false));
        assert_eq!(effective("connection", "file"), Some(true));
        assert_eq!(effective("http", "https://api.example.com"), Some(true));
    }

    #[test]
    fn a_service_is_asked_for_by_its_name_or_by_where_it_is() {
        let grants: Grants = toml::from_str(
            "[aws]\nregion = \"eu-central-1\"\naddresses = [\"loopback\"]\n\
             endpoints = { ebs = \"http://127.0.0.1:1\" }",
        )
        .unwrap();
        let environment: Environment = Arc::new(|_| None);
        let reaches = |asks: &Asks, method: ::http::Method, uri: &str| {
            let powers = Powers::new("x", asks, &grants, &environment).unwrap();
            powers.http.check(&method, &uri.parse().unwrap()).is_ok()
        };
        let shown = |asks: &Asks, name: &str| {
            let powers = grants.compare(asks);
            powers.iter().find(|power| power.kind == "aws" && power.name == name).map(Power::effective)
        };
        let (post, get) = (::http::Method::POST, ::http::Method::GET);
        let (ec2, ebs) = ("https://ec2.eu-central-1.amazonaws.com/", "http://127.0.0.1:1/snapshots/s/blocks");
        // By name, wherever the operator says that it is.
        let one = Asks { aws: vec!["ebs".into()], ..Asks::default() };
        assert!(reaches(&one, get.clone(), ebs) && !reaches(&one, post.clone(), ec2));
        assert_eq!((shown(&one, "ebs"), shown(&one, "ec2")), (Some(true), Some(false)));
        let other = Asks { http: vec!["https://*.amazonaws.com".into()], ..Asks::default() };
        assert!(reaches(&other, post, ec2) && !reaches(&other, get, ebs));
        assert_eq!((shown(&other, "ebs"), shown(&other, "ec2")), (Some(false), Some(true)));
        let unknown = Asks { aws: vec!["s3".into()], ..Asks::default() };
        assert_eq!(shown(&unknown, "s3"), Some(false));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let grants: Grants = toml::from_str(
            "directories = { data = \"/\" }\ncommands = { x = { line = \"{name} x\" } }\n[[http]]\nurl = \"ftp://x\"",
        )
        .unwrap();
        let environment: Environment = Arc::new(|_| None);
        let error = Powers::new("x", &Asks::default(), &grants, &environment).unwrap_err();
        for word in ["\"/\"", "ftp", "\"x\""] {
            assert!(error.message.contains(word), "{error}");
        }
    }
}
