//! A granted region of AWS: what looks after volumes of EBS there, in five words instead of forty. It becomes two
//! grants for requests, `ec2` with the actions below and `ebs` (the direct APIs) with the paths of snapshots, each
//! signed for its service in this region and no other. Whoever wants more writes them as `http`.
//!
//! Of EC2 a plugin may do what is about volumes and their snapshots, and read what instance it is asked about: no
//! action below starts, stops or makes an instance, reads its user data, or touches a network or a role. What is
//! done to whose volumes is the role's policy to say, for no grant here sees what a tag is on.
//!
//! What a plugin needs to know of the grant (the region and where its services are) is added to its configuration;
//! credentials, and where they come from, are not.

use std::{collections::BTreeMap, path::PathBuf};

use kato_orchestrator::Error;
use serde::Deserialize;

use super::{
    credentials::Authoriser,
    http::{Addresses, HttpGrant},
    way::ProxyGrant,
};
use crate::aws::{self, AwsSigv4};

/// A region of AWS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsGrant {
    /// The region.
    pub region: String,
    /// Whose credentials of the shared files; without one, what the standard chain finds.
    #[serde(default)]
    pub profile: Option<String>,
    /// Where the services are, if not where they usually are.
    #[serde(default)]
    pub endpoints: AwsEndpoints,
    /// The actions of EC2; none given allows those that look after volumes and snapshots.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Which addresses the services may resolve to.
    #[serde(default = "of_services")]
    pub addresses: Addresses,
    /// The proxy that requests go through.
    #[serde(default)]
    pub proxy: Option<ProxyGrant>,
    /// A PEM file of the authorities whose certificates are believed, instead of those that browsers trust.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// Where the services of a region are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwsEndpoints {
    /// EC2.
    pub ec2: Option<String>,
    /// The EBS direct APIs.
    pub ebs: Option<String>,
}

/// An endpoint in a private network (VPC) has a private address.
fn of_services() -> Addresses {
    Addresses::Many(vec!["public".into(), "private".into()])
}

/// What it takes to look after volumes and their snapshots.
const ACTIONS: [&str; 16] = [
    "CreateVolume",
    "DeleteVolume",
    "DescribeVolumes",
    "ModifyVolume",
    "DescribeVolumesModifications",
    "AttachVolume",
    "DetachVolume",
    "CreateTags",
    "DescribeInstances",
    "DescribeInstanceTypes",
    "DescribeVolumeStatus",
    "CreateSnapshot",
    "DeleteSnapshot",
    "DescribeSnapshots",
    "EnableFastSnapshotRestores",
    "DescribeAvailabilityZones",
];

/// The services.
pub(crate) const SERVICES: [&str; 2] = ["ec2", "ebs"];

impl AwsGrant {
    /// Where a service is.
    fn endpoint(&self, service: &str) -> String {
        let said = if service == "ec2" { &self.endpoints.ec2 } else { &self.endpoints.ebs };
        match said {
            Some(said) => said.trim_end_matches('/').to_owned(),
            None => format!("https://{service}.{}.{}", self.region, aws::domain(&self.region)),
        }
    }

    /// The services by name, with their origins.
    pub(crate) fn origins(&self) -> impl Iterator<Item = (&'static str, String)> + use<'_> {
        SERVICES.into_iter().map(|service| (service, self.endpoint(service)))
    }

    /// The grants that it stands for.
    pub(crate) fn http(&self) -> Result<Vec<HttpGrant>, Error> {
        self.check()?;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let actions = if self.actions.is_empty() { words(&ACTIONS) } else { self.actions.clone() };
        let grant = |service: &str, methods: &[&str], paths: &[&str], actions| HttpGrant {
            url: self.endpoint(service),
            methods: words(methods),
            paths: words(paths),
            addresses: self.addresses.clone(),
            authoriser: Some(Authoriser::AwsSigv4(AwsSigv4 {
                service: service.to_owned(),
                region: self.region.clone(),
                profile: self.profile.clone(),
                actions,
            })),
            proxy: self.proxy.clone(),
            ca: self.ca.clone(),
        };
        Ok(vec![
            grant("ec2", &["POST"], &["/"], actions),
            grant("ebs", &["GET", "PUT", "POST"], &["/snapshots", "/snapshots/**"], Vec::new()),
        ])
    }

    /// What the plugin is told of the grant.
    pub(crate) fn told(&self) -> BTreeMap<String, String> {
        let endpoints = self.origins().map(|(service, origin)| (format!("{service}-endpoint"), origin));
        endpoints.chain([("region".to_owned(), self.region.clone())]).collect()
    }

    fn check(&self) -> Result<(), Error> {
        let mut mistakes = Vec::new();
        if !aws::is_name(&self.region) {
            mistakes.push(format!("`region` is {:?}: it takes one as in eu-central-1", self.region));
        }
        for action in self.actions.iter().filter(|action| !aws::is_action(action)) {
            mistakes.push(format!(
                "`actions` has {action:?}: an action is letters and digits, as in CreateVolume"
            ));
        }
        let words = match &self.addresses {
            Addresses::One(word) => std::slice::from_ref(word),
            Addresses::Many(words) => words,
        };
        for (service, origin) in self.origins() {
            if origin.contains('*') {
                mistakes.push(format!("`endpoints.{service}` is {origin:?}: name one host"));
            }
            if origin.starts_with("http:") && words.iter().any(|word| word != "loopback") {
                mistakes.push(format!(
                    "`endpoints.{service}` is {origin:?}, which is not encrypted: that is for this host itself alone \
                     (`addresses = [\"loopback\"]`)"
                ));
            }
        }
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("the grant of a region of AWS: {}", mistakes.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::grants::{credentials::Secrets, http::Rules};

    fn grant(toml: &str) -> AwsGrant {
        toml::from_str(toml).unwrap()
    }

    fn allows(grant: &AwsGrant, method: &str, uri: &str) -> Option<AwsSigv4> {
        let asks = ["https://*:*".to_owned(), "http://*:*".to_owned()];
        let rules =
            Rules::new(&asks, &grant.http().unwrap(), &Secrets::default(), &mut |error| panic!("{error}"));
        let rule =
            rules.check(&Method::from_bytes(method.as_bytes()).unwrap(), &uri.parse().unwrap()).ok()?;
        match rule.authoriser.clone() {
            Some(Authoriser::AwsSigv4(signer)) => Some(signer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_region_is_two_services_with_their_methods_and_paths() {
        let grant = grant("region = \"eu-central-1\"");
        let ec2 = allows(&grant, "POST", "https://ec2.eu-central-1.amazonaws.com/").unwrap();
        assert_eq!((ec2.service.as_str(), ec2.region.as_str()), ("ec2", "eu-central-1"));
        assert!(ec2.actions.contains(&"CreateVolume".to_owned()) && ec2.actions.len() == ACTIONS.len());
        let host = "https://ebs.eu-central-1.amazonaws.com";
        for (method, path) in [
            ("POST", "/snapshots"),
            ("POST", "/snapshots/completion/snap-1"),
            ("GET", "/snapshots/snap-1/blocks?maxResults=100"),
            ("PUT", "/snapshots/snap-1/blocks/7"),
        ] {
            assert_eq!(allows(&grant, method, &format!("{host}{path}")).unwrap().service, "ebs", "{path}");
        }
        for (method, uri) in [
            ("GET", "https://ec2.eu-central-1.amazonaws.com/"),
            ("POST", "https://ec2.eu-central-1.amazonaws.com/x"),
            ("POST", "https://ec2.us-east-1.amazonaws.com/"),
            ("POST", "https://sts.eu-central-1.amazonaws.com/"),
            ("POST", "http://ec2.eu-central-1.amazonaws.com/"),
            ("DELETE", "https://ebs.eu-central-1.amazonaws.com/snapshots/snap-1"),
            ("GET", "https://ebs.eu-central-1.amazonaws.com/"),
            ("GET", "https://ebs.eu-central-1.amazonaws.com/snapshots/../x"),
        ] {
            assert_eq!(allows(&grant, method, uri), None, "{method} {uri}");
        }
    }

    #[test]
    fn every_partition_has_its_domain() {
        for (region, origin) in [
            ("cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn"),
            ("us-gov-west-1", "https://ec2.us-gov-west-1.amazonaws.com"),
            ("us-iso-east-1", "https://ec2.us-iso-east-1.c2s.ic.gov"),
            ("us-isob-east-1", "https://ec2.us-isob-east-1.sc2s.sgov.gov"),
            ("eusc-de-east-1", "https://ec2.eusc-de-east-1.amazonaws.eu"),
        ] {
            assert_eq!(grant(&format!("region = {region:?}")).told()["ec2-endpoint"], origin);
        }
    }

    #[test]
    fn an_endpoint_of_the_operators_is_used_and_told() {
        let grant = grant(
            "region = \"eu-central-1\"\naddresses = [\"loopback\"]\nactions = [\"DescribeVolumes\"]\n\
             endpoints = { ec2 = \"http://127.0.0.1:4566/\", ebs = \"http://127.0.0.1:4566\" }",
        );
        let ec2 = allows(&grant, "POST", "http://127.0.0.1:4566/").unwrap();
        assert_eq!((ec2.service.as_str(), ec2.actions), ("ec2", vec!["DescribeVolumes".to_owned()]));
        assert_eq!(allows(&grant, "GET", "http://127.0.0.1:4566/snapshots/s/blocks").unwrap().service, "ebs");
        let told = grant.told();
        assert_eq!(
            (told["region"].as_str(), told["ec2-endpoint"].as_str(), told["ebs-endpoint"].as_str()),
            ("eu-central-1", "http://127.0.0.1:4566", "http://127.0.0.1:4566")
        );
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let wrong = grant(
            "region = \"Frankfurt\"\nactions = [\"Create*\"]\n\
             endpoints = { ec2 = \"http://ec2.example.com\", ebs = \"https://*.example.com\" }",
        );
        let message = wrong.http().unwrap_err().message;
        for word in ["`region`", "\"Create*\"", "not encrypted", "name one host"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
