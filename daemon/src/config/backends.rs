//! A backend as configured: which plugin, what it is told, what it is granted and how much it may take, in the
//! plugin host's own words. Whether a grant makes sense to the plugin is found when it is loaded.

use std::{collections::BTreeMap, path::PathBuf};

use kato_plugin_host::{
    Addresses, Authoriser, AwsEndpoints, AwsGrant, AwsSigv4, CephGrant, ChapGrant, CommandGrant,
    ConnectionGrants, Grants, HttpGrant, IscsiGrant, Limits, ProxyGrant, SecretSource, embedded,
};

use super::{
    Backend, Plugin,
    mistakes::{Mistake, nearest},
    scope::Scope,
    tree::Node,
};

/// Understands the table of a backend.
pub(super) fn backend(_: &str, scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<Backend> {
    let grants = scope.section("grants");
    let limits = scope.section("limits");
    let directories = grants.words("directories");
    for (name, path) in &directories {
        if !path.starts_with('/') {
            mistakes.push(
                grants
                    .section("directories")
                    .mistake(name, format!("\"{path}\" is not a path from the root: begin it with /")),
            );
        }
    }
    let grants = Grants {
        directories: directories.into_iter().map(|(name, path)| (name, PathBuf::from(path))).collect(),
        http: grants.entries("http").iter().filter_map(|entry| http(entry, mistakes)).collect(),
        commands: commands(&grants.section("commands"), mistakes),
        aws: match is_aws(&grants.section("aws")) {
            true => Some(aws(&grants.section("aws"), mistakes)?),
            false => None,
        },
        ceph: match is_ceph(&grants.section("ceph")) {
            true => Some(ceph(&grants.section("ceph"), mistakes)?),
            false => None,
        },
        connections: connections(&grants.section("connections"), mistakes),
    };
    let plugin = plugin(scope, mistakes)?;
    let mib = |word: &str| limits.size(word).and_then(|size| u32::try_from(size.0.div_ceil(1 << 20)).ok());
    let millis = |word: &str| u64::try_from(limits.span(word).as_millis()).unwrap_or(u64::MAX);
    let count = |word: &str| limits.count(word).and_then(|count| u32::try_from(count).ok());
    let usual = Limits::default();
    Some(Backend {
        plugin,
        configuration: scope.words("configuration"),
        grants,
        limits: Limits {
            memory_mib: mib("memory").unwrap_or(usual.memory_mib),
            cpu_ms: millis("cpu"),
            wall_ms: millis("wall"),
            calls: count("calls").unwrap_or(usual.calls),
            reads: count("reads").unwrap_or(usual.reads),
            answer_mib: mib("answer").unwrap_or(usual.answer_mib),
            response_mib: mib("response").unwrap_or(usual.response_mib),
        },
    })
}

fn http(entry: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<HttpGrant> {
    let authoriser = match entry.node("authoriser") {
        Some(_) => authoriser(&entry.section("authoriser"), mistakes),
        None => None,
    };
    Some(HttpGrant {
        url: entry.required("url", mistakes)?,
        methods: entry.texts("methods"),
        paths: entry.texts("paths"),
        addresses: Addresses::Many(entry.texts("addresses")),
        authoriser,
        proxy: proxied(entry, mistakes)?,
        ca: entry.path("ca"),
    })
}

/// The proxy of a grant, if it has one; nothing at all if that is mistaken.
fn proxied(grant: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<Option<ProxyGrant>> {
    match grant.node("proxy") {
        Some(_) => proxy(&grant.section("proxy"), mistakes).map(Some),
        None => Some(None),
    }
}

fn proxy(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<ProxyGrant> {
    let secret = match scope.node("secret") {
        Some(_) => Some(secret(&scope.section("secret"), mistakes)?),
        None => None,
    };
    Some(ProxyGrant { url: scope.required("url", mistakes)?, user: scope.text("user"), secret })
}

fn authoriser(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<Authoriser> {
    let ways = ["bearer", "header", "basic", "aws-sigv4"];
    let mut written = ways.into_iter().filter(|way| scope.node(way).is_some());
    let (first, second) = (written.next(), written.next());
    let (Some(way), None) = (first, second) else {
        let reason = "write one of bearer, header, basic and aws-sigv4";
        mistakes.push(scope.mistake(first.unwrap_or("bearer"), reason));
        return None;
    };
    let place = scope.section(way);
    if way == "aws-sigv4" {
        let (service, region) = (place.required("service", mistakes), place.required("region", mistakes));
        let (profile, actions) = (place.text("profile"), place.texts("actions"));
        return Some(Authoriser::AwsSigv4(AwsSigv4 { service: service?, region: region?, profile, actions }));
    }
    let secret = secret(&place.section("secret"), mistakes);
    match way {
        "bearer" => Some(Authoriser::Bearer { secret: secret? }),
        "header" => Some(Authoriser::Header { name: place.required("name", mistakes)?, secret: secret? }),
        _ => Some(Authoriser::Basic { user: place.required("user", mistakes)?, secret: secret? }),
    }
}

pub(super) fn secret(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<SecretSource> {
    let mut sources = [
        scope.path("file").map(|file| ("file", SecretSource::File(file))),
        scope.text("env").map(|name| ("env", SecretSource::Env(name))),
        scope.text("credential").map(|name| ("credential", SecretSource::Credential(name))),
    ]
    .into_iter()
    .flatten();
    match (sources.next(), sources.next()) {
        (Some((_, source)), None) => Some(source),
        (Some(_), Some((second, _))) => {
            let reason = "the secret is in two places: write one of file, env and credential";
            mistakes.push(scope.mistake(second, reason));
            None
        }
        (None, _) => {
            mistakes.push(scope.mistake("file", "the secret is nowhere: write file, env or credential"));
            None
        }
    }
}

fn commands(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, CommandGrant> {
    let names = scope.node.and_then(Node::table).into_iter().flat_map(BTreeMap::keys);
    let command = |name: &String, mistakes: &mut Vec<Mistake>| {
        let entry = scope.section(name);
        let id = |word: &str| entry.count(word).and_then(|id| u32::try_from(id).ok()).unwrap_or(65_534);
        Some(CommandGrant {
            line: entry.required("line", mistakes)?,
            uid: id("uid"),
            gid: id("gid"),
            timeout_ms: u64::try_from(entry.span("timeout").as_millis()).unwrap_or(u64::MAX),
            writable: entry.flag("writable"),
        })
    };
    names.filter_map(|name| Some((name.clone(), command(name, mistakes)?))).collect()
}

/// Whether a region is granted. What `kato config show` prints has the defaults of one that is not, too.
fn is_aws(scope: &Scope<'_>) -> bool {
    ["region", "profile", "endpoints", "proxy", "ca"].into_iter().any(|word| scope.node(word).is_some())
}

fn aws(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<AwsGrant> {
    let region = scope.required("region", mistakes);
    let endpoints = scope.section("endpoints");
    Some(AwsGrant {
        region: region?,
        profile: scope.text("profile"),
        endpoints: AwsEndpoints { ec2: endpoints.text("ec2"), ebs: endpoints.text("ebs") },
        actions: scope.texts("actions"),
        addresses: Addresses::Many(scope.texts("addresses")),
        proxy: proxied(scope, mistakes)?,
        ca: scope.path("ca"),
    })
}

/// Whether a pool is granted. What `kato config show` prints has the defaults of one that is not, too.
fn is_ceph(scope: &Scope<'_>) -> bool {
    ["user", "keyring", "pool"].into_iter().any(|word| scope.node(word).is_some())
}

fn ceph(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<CephGrant> {
    let (user, pool) = (scope.required("user", mistakes), scope.required("pool", mistakes));
    let keyring = scope.path("keyring");
    if keyring.is_none() {
        mistakes.push(scope.mistake("keyring", "this has to be written"));
    }
    let id = |word: &str| scope.count(word).and_then(|id| u32::try_from(id).ok()).unwrap_or(65_534);
    let (conf, programs) = (scope.path("conf")?, scope.path("programs")?);
    Some(CephGrant {
        user: user?,
        keyring: keyring?,
        conf,
        pool: pool?,
        namespace: scope.text("namespace").unwrap_or_default(),
        data_pools: scope.texts("data-pools"),
        uid: id("uid"),
        gid: id("gid"),
        programs,
    })
}

fn connections(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> ConnectionGrants {
    ConnectionGrants {
        directory: scope.flag("directory"),
        file: scope.flag("file"),
        device: scope.texts("device"),
        iscsi: iscsi(&scope.section("iscsi"), mistakes),
        nbd: scope.texts("nbd"),
        nfs: scope.texts("nfs"),
    }
}

/// The targets that are granted, if there are any.
fn iscsi(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<IscsiGrant> {
    let iqn_prefix = scope.text("iqn-prefix").unwrap_or_default();
    let portals = scope.texts("portals");
    let chap = chap(&scope.section("chap"), mistakes);
    if portals.is_empty() {
        if !iqn_prefix.is_empty() || chap.is_some() {
            mistakes.push(scope.mistake("portals", "this has to be written"));
        }
        return None;
    }
    Some(IscsiGrant { portals, iqn_prefix, chap })
}

fn chap(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<ChapGrant> {
    let is_written = |scope: &Scope<'_>| ["user", "secret"].iter().any(|word| scope.node(word).is_some());
    let mutual = scope.section("mutual");
    if !is_written(scope) {
        if is_written(&mutual) {
            mistakes.push(
                scope.mistake("user", "a target proves itself to whom it knows: this has to be written"),
            );
        }
        return None;
    }
    let (user, secret) = (scope.required("user", mistakes), secret(&scope.section("secret"), mistakes));
    let mutual = match is_written(&mutual) {
        true => Some(Box::new(chap(&mutual, mistakes)?)),
        false => None,
    };
    Some(ChapGrant { user: user?, secret: secret?, mutual })
}

fn plugin(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<Plugin> {
    let text = scope.required("plugin", mistakes)?;
    let pin = match scope.text("digest") {
        Some(pin) => Some(digest(scope, "digest", &pin, mistakes)?),
        None => None,
    };
    if text.starts_with('/') {
        return Some(Plugin::File(PathBuf::from(text), pin));
    }
    if pin.is_some() {
        let reason = "only a component at a path is pinned so: what is built in or installed cannot change";
        mistakes.push(scope.mistake("digest", reason));
        return None;
    }
    if text.starts_with(DIGEST) {
        return digest(scope, "plugin", &text, mistakes).map(Plugin::Digest);
    }
    if embedded::names().any(|name| name == text) {
        return Some(Plugin::Embedded(text));
    }
    let ours = embedded::names().collect::<Vec<_>>().join(", ");
    let reason =
        format!("\"{text}\" is not among what is built in ({ours}): write a path from the root or a digest");
    mistakes.push(scope.mistake("plugin", reason).meaning(nearest(&text, embedded::names())));
    None
}

/// How a digest begins.
const DIGEST: &str = "sha256:";

/// The digits of a digest.
fn digest(scope: &Scope<'_>, word: &str, text: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
    let digits = text.strip_prefix(DIGEST).filter(|digits| {
        digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    if digits.is_none() {
        mistakes.push(scope.mistake(word, "a digest is sha256: and 64 lower-case hex digits"));
    }
    digits.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kato_plugin_host::{Addresses, Authoriser, Grants, SecretSource};

    use crate::config::{Sources, load};

    /// The grants of a backend that is written like this.
    fn grants(text: &str) -> Result<Grants, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, format!("[backend.x]\nplugin = \"/x.wasm\"\n{text}")).unwrap();
        let sources = Sources { file: Some(file), set: Vec::new(), environment: BTreeMap::new() };
        let config = load(&sources).map_err(|mistakes| mistakes.to_string())?;
        let backend = config.backends.into_iter().find(|(name, _)| name.as_str() == "x").unwrap().1;
        Ok(backend.grants)
    }

    #[test]
    fn a_region_of_aws_is_granted_by_its_name() {
        let aws = grants("[backend.x.grants.aws]\nregion = \"eu-central-1\"\n").unwrap().aws.unwrap();
        assert_eq!((aws.region.as_str(), aws.profile, aws.actions.len()), ("eu-central-1", None, 0));
        let Addresses::Many(addresses) = aws.addresses else { panic!("{:?}", aws.addresses) };
        assert_eq!(addresses, ["public", "private"]);
        let text = "[backend.x.grants.aws]\nregion = \"eu-central-1\"\nprofile = \"kato\"\naddresses = [\"loopback\"]\n\
                    actions = [\"DescribeVolumes\"]\nca = \"/ca.pem\"\nproxy = { url = \"http://p:1\" }\n\
                    endpoints = { ec2 = \"http://127.0.0.1:1\" }\n";
        let aws = grants(text).unwrap().aws.unwrap();
        assert_eq!(aws.profile.as_deref(), Some("kato"));
        assert_eq!((aws.endpoints.ec2.as_deref(), aws.endpoints.ebs), (Some("http://127.0.0.1:1"), None));
        assert_eq!((aws.actions.len(), aws.proxy.unwrap().url.as_str()), (1, "http://p:1"));
        assert!(aws.ca.is_some());
        assert!(grants("").unwrap().aws.is_none());
        let told = grants("[backend.x.grants.aws]\nprofile = \"kato\"\n").unwrap_err();
        assert!(told.contains("grants.aws.region: this has to be written"), "{told}");
    }

    #[test]
    fn targets_are_granted_with_the_account_that_opens_them() {
        let text = "[backend.x.grants.connections.iscsi]\nportals = [\"10.144.0.0/16:3260\"]\niqn-prefix = \"iqn.x\"\n";
        let plain = grants(text).unwrap().connections.iscsi.unwrap();
        assert_eq!((plain.iqn_prefix.as_str(), plain.chap), ("iqn.x", None));
        let with = format!(
            "{text}chap = {{ user = \"u\", secret = {{ file = \"/s\" }}, mutual = {{ user = \"t\", secret = {{ env = \"T\" }} }} }}\n"
        );
        let chap = grants(&with).unwrap().connections.iscsi.unwrap().chap.unwrap();
        assert_eq!((chap.user.as_str(), chap.secret), ("u", SecretSource::File("/s".into())));
        assert_eq!(chap.mutual.unwrap().user, "t");
        let nowhere = grants(&format!("{text}chap = {{ user = \"u\" }}\n")).unwrap_err();
        assert!(nowhere.contains("chap.secret.file: the secret is nowhere"), "{nowhere}");
        let alone =
            "[backend.x.grants.connections.iscsi]\nchap = { user = \"u\", secret = { env = \"S\" } }\n";
        let told = grants(alone).unwrap_err();
        assert!(told.contains("iscsi.portals: this has to be written"), "{told}");
        assert!(grants("").unwrap().connections.iscsi.is_none());
    }

    #[test]
    fn a_signature_is_an_authoriser_like_others() {
        let grant = "[[backend.x.grants.http]]\nurl = \"https://x\"\n";
        let signed =
            format!("{grant}authoriser = {{ aws-sigv4 = {{ service = \"s3\", region = \"eu-west-1\" }} }}\n");
        let Some(Authoriser::AwsSigv4(signer)) = &grants(&signed).unwrap().http[0].authoriser else {
            panic!()
        };
        assert_eq!((signer.service.as_str(), signer.region.as_str()), ("s3", "eu-west-1"));
        let half = format!("{grant}authoriser = {{ aws-sigv4 = {{ service = \"s3\" }} }}\n");
        assert!(grants(&half).unwrap_err().contains("aws-sigv4.region: this has to be written"));
    }
}
