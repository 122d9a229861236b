//! What the operator says about the backend, and what a class or a caller says about a volume. Region and endpoints come
//! from the grant; the host adds them to the configuration.

use kato_plugin_sdk::{
    configuration::Reader,
    identity::Parameter,
    types::{Configuration, Error, Pair},
};

use crate::{
    kind::{GIB, KINDS, Kind},
    tags,
};

/// How large a volume is when nobody says.
const DEFAULT_SIZE: u64 = 10 * GIB;

/// The operator's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) region: String,
    /// Scheme, host and port.
    pub(crate) ec2: String,
    /// The same of the EBS direct APIs.
    pub(crate) ebs: String,
    /// Where volumes are made when nobody says where; empty for nowhere.
    pub(crate) zone: String,
    pub(crate) default_size: u64,
    /// Put on everything that is made.
    pub(crate) tags: Vec<(String, String)>,
    /// Whether a detachment that does not end is forced once the machine is known to be stopped.
    pub(crate) force: bool,
    /// How many volumes a machine gets, its own included; zero for as many as EC2 allows.
    pub(crate) attach_limit: u64,
}

impl Config {
    pub(crate) fn read(configuration: &Configuration) -> Result<Self, Error> {
        let mut reader = Reader::new("configuration", configuration);
        let region = reader.text("region", "");
        let ec2 = origin(&mut reader, "ec2-endpoint");
        let ebs = origin(&mut reader, "ebs-endpoint");
        let zone = reader.text("zone", "");
        let default_size = reader.size("default-size", DEFAULT_SIZE);
        let tags = reader.text("tags", "");
        let force = reader.word("forced-detach", &[("never", false), ("stopped", true)]);
        let attach_limit = reader.integer("attach-limit", 0, 0..=1_000);
        if default_size == 0 {
            reader.wrong("`default-size` is 0: write a size such as 10GiB");
        }
        let tags = tags::parse(&tags).unwrap_or_else(|wrong| {
            reader.wrong(format!("`tags`: {wrong}"));
            Vec::new()
        });
        reader.finish()?;
        Ok(Self { region, ec2, ebs, zone, default_size, tags, force: force.unwrap_or(false), attach_limit })
    }

    /// The same, for what needs an endpoint: one that was not granted is no mistake of the configuration.
    pub(crate) fn granted(configuration: &Configuration) -> Result<Self, Error> {
        let mut config = Self::read(configuration)?;
        if config.region.is_empty() {
            return Err(Error::permission_denied(
                "no region is granted to this backend: write `region` into its grants.aws",
            ));
        }
        if config.ec2.is_empty() {
            config.ec2 = format!("https://ec2.{}.amazonaws.com", config.region);
        }
        if config.ebs.is_empty() {
            config.ebs = format!("https://ebs.{}.amazonaws.com", config.region);
        }
        Ok(config)
    }
}

fn origin(reader: &mut Reader<'_>, name: &'static str) -> String {
    let text = reader.text(name, "");
    let origin = text.trim_end_matches('/');
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    if !text.is_empty() && host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', '@'])) {
        reader.wrong(format!(
            "`{name}` is {text:?}: write scheme and host, such as https://ec2.eu-central-1.amazonaws.com"
        ));
    }
    origin.to_owned()
}

/// What is asked of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) kind: Kind,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
    /// Nothing leaves it to the account.
    pub(crate) encrypted: Option<bool>,
    /// Empty for the account's own.
    pub(crate) kms_key: String,
    pub(crate) multi_attach: bool,
    /// Whether the snapshot that it is made from is kept ready in its zone.
    pub(crate) fast_restore: bool,
    pub(crate) tags: Vec<(String, String)>,
}

impl Parameters {
    pub(crate) fn read(parameters: &[Pair]) -> Result<Self, Error> {
        let mut reader = Reader::new("parameters", parameters);
        let kind = reader.word("type", &KINDS.map(|kind| (kind.name, kind))).unwrap_or_else(Kind::usual);
        let iops = number(&mut reader, "iops");
        let throughput = number(&mut reader, "throughput");
        let encrypted = reader.word("encrypted", &[("true", true), ("false", false)]);
        let kms_key = reader.text("kms-key", "");
        let multi_attach = reader.flag("multi-attach", false);
        let fast_restore = reader.flag("fast-restore", false);
        let tags = tags::parse(&reader.text("tags", "")).unwrap_or_else(|wrong| {
            reader.wrong(format!("`tags`: {wrong}"));
            Vec::new()
        });
        let named = kind.name;
        if kind.needs_iops() && iops.is_none() {
            reader.wrong(format!("`iops` is missing: volumes of type {named} need it"));
        }
        if multi_attach && !kind.shared {
            reader.wrong(format!("`multi-attach` is for the types io1 and io2, not for {named}"));
        }
        if !kms_key.is_empty() && encrypted == Some(false) {
            reader.wrong("`kms-key` is given, and `encrypted` is false: leave one of them out");
        }
        // Sizes are checked where they are chosen.
        if let Err(error) = kind.check(kind.largest() / GIB, iops, throughput) {
            reader.wrong(error.message);
        }
        reader.finish()?;
        let encrypted = encrypted.or_else(|| (!kms_key.is_empty()).then_some(true));
        Ok(Self { kind, iops, throughput, encrypted, kms_key, multi_attach, fast_restore, tags })
    }
}

fn number(reader: &mut Reader<'_>, name: &'static str) -> Option<u64> {
    // The type says which numbers are good.
    match reader.integer(name, 0, 1..=1_000_000) {
        0 => None,
        number => Some(number),
    }
}

/// What is asked of a volume that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) kind: Option<Kind>,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
}

impl Changes {
    pub(crate) fn read(parameters: &[Pair]) -> Result<Self, Error> {
        let mut reader = Reader::new("parameters that can be changed", parameters);
        let changes = Self {
            kind: reader.word("type", &KINDS.map(|kind| (kind.name, kind))),
            iops: number(&mut reader, "iops"),
            throughput: number(&mut reader, "throughput"),
        };
        reader.finish()?;
        Ok(changes)
    }
}

/// What is asked of a snapshot: whether it is kept ready for fast restore in its volume's zone.
pub(crate) fn fast_restore(parameters: &[Pair]) -> Result<bool, Error> {
    let mut reader = Reader::new("parameters", parameters);
    let fast = reader.flag("fast-restore", false);
    reader.finish()?;
    Ok(fast)
}

/// The parameters, as they are told to the host.
pub(crate) fn parameters() -> Vec<Parameter> {
    let parameter = |name: &str, summary: &str, default: &str, shape: &str, mutable: bool| Parameter {
        name: name.into(),
        summary: summary.into(),
        default: default.into(),
        shape: shape.into(),
        mutable,
    };
    let kinds = KINDS.map(|kind| kind.name).join("|");
    vec![
        parameter("type", "The type of the volume", Kind::usual().name, &kinds, true),
        parameter("iops", "Operations a second, for gp3, io1 and io2, which need it", "", "integer", true),
        parameter("throughput", "MiB a second, for gp3", "", "integer", true),
        parameter(
            "encrypted",
            "Whether it is encrypted; as the account has it when not given",
            "",
            "bool",
            false,
        ),
        parameter("kms-key", "The key that it is encrypted with: id, ARN or alias", "", "text", false),
        parameter(
            "multi-attach",
            "Whether several machines can have it, for io1 and io2",
            "false",
            "bool",
            false,
        ),
        parameter(
            "fast-restore",
            "Whether the snapshot that it is made from is kept ready in its zone, at a price by the hour",
            "false",
            "bool",
            false,
        ),
        parameter("tags", "Tags besides ours: name=value, with commas between them", "", "text", false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn without_a_grant_the_configuration_is_good_and_nothing_can_be_done() {
        let config = Config::read(&Vec::new()).unwrap();
        assert_eq!((config.region.as_str(), config.force, config.default_size), ("", false, 10 * GIB));
        assert!(Config::granted(&Vec::new()).unwrap_err().message.contains("grants.aws"));
        let config = Config::granted(&pairs(&[("region", "eu-central-1")])).unwrap();
        assert_eq!(config.ec2, "https://ec2.eu-central-1.amazonaws.com");
        assert_eq!(config.ebs, "https://ebs.eu-central-1.amazonaws.com");
    }

    #[test]
    fn every_mistake_of_the_configuration_is_told() {
        let wrong = pairs(&[
            ("ec2-endpoint", "ec2.eu-central-1.amazonaws.com"),
            ("ebs-endpoint", "https://x/y"),
            ("default-size", "0"),
            ("tags", "a"),
            ("forced-detach", "always"),
            ("attach-limit", "many"),
            ("colour", "red"),
        ]);
        let message = Config::read(&wrong).unwrap_err().message;
        for (name, _) in &wrong {
            assert!(message.contains(&format!("`{name}`")), "{name}: {message}");
        }
    }

    #[test]
    fn every_mistake_of_the_parameters_is_told() {
        let wrong = pairs(&[
            ("type", "io2"),
            ("throughput", "125"),
            ("kms-key", "k"),
            ("encrypted", "false"),
            ("x", "y"),
        ]);
        let message = Parameters::read(&wrong).unwrap_err().message;
        for name in ["iops", "throughput", "kms-key", "x"] {
            assert!(message.contains(&format!("`{name}`")), "{name}: {message}");
        }
        assert!(Parameters::read(&pairs(&[("multi-attach", "true")])).is_err());
        let good =
            Parameters::read(&pairs(&[("type", "gp3"), ("iops", "4000"), ("kms-key", "alias/x")])).unwrap();
        assert_eq!((good.iops, good.throughput, good.encrypted), (Some(4_000), None, Some(true)));
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        assert!(Changes::read(&pairs(&[("encrypted", "true")])).is_err());
        assert_eq!(
            Changes::read(&pairs(&[("type", "gp2")])).unwrap().kind.map(|kind| kind.name),
            Some("gp2")
        );
    }
}
