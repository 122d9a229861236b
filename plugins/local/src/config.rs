//! What the operator says about the backend, and what a class or a caller says about a volume.

use kato_plugin_sdk::{
    configuration::Reader,
    identity::Parameter,
    types::{Configuration, Error, Pair},
};

use crate::layout::Kind;

/// The operator's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// How much thin images may promise, in hundredths of the filesystem.
    pub(crate) overcommit: u64,
    /// The largest image that is copied where blocks cannot be shared.
    pub(crate) copy_limit: u64,
    /// How large an image is when nobody says.
    pub(crate) default_size: u64,
    /// What the data folder has to lie on, if that matters.
    pub(crate) filesystem: Option<&'static str>,
}

const FILESYSTEMS: [(&str, Option<&str>); 4] =
    [("any", None), ("ext4", Some("ext4")), ("xfs", Some("xfs")), ("btrfs", Some("btrfs"))];

impl Config {
    pub(crate) fn read(configuration: &Configuration) -> Result<Self, Error> {
        let mut reader = Reader::new("configuration", configuration);
        let config = Self {
            overcommit: reader.hundredths("overcommit", 150, 100..=10_000),
            copy_limit: reader.size("copy-limit", 1 << 30),
            default_size: reader.size("default-size", 1 << 30),
            filesystem: reader.word("filesystem", &FILESYSTEMS).flatten(),
        };
        if config.default_size == 0 {
            reader.wrong("`default-size` is 0: write a size such as 1GiB");
        }
        reader.finish()?;
        Ok(config)
    }
}

/// What is asked of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) kind: Option<Kind>,
    pub(crate) thin: bool,
}

impl Parameters {
    pub(crate) fn read(parameters: &[Pair]) -> Result<Self, Error> {
        let mut reader = Reader::new("parameters", parameters);
        let kind = reader.word("kind", &Kind::WORDS);
        let thin = reader.flag("thin", false);
        if thin && kind == Some(Kind::Directory) {
            reader.wrong("`thin` is for images: a directory takes what is written into it anyway");
        }
        reader.finish()?;
        Ok(Self { kind, thin })
    }
}

/// Whether an existing volume is to be thin. Nothing else of it can be changed.
pub(crate) fn thin(parameters: &[Pair]) -> Result<Option<bool>, Error> {
    let mut reader = Reader::new("parameters", parameters);
    let thin = reader.flag("thin", false);
    reader.finish()?;
    Ok((!parameters.is_empty()).then_some(thin))
}

/// The parameters, as they are told to the host.
pub(crate) fn parameters() -> Vec<Parameter> {
    let parameter = |name: &str, summary: &str, default: &str, shape: &str| Parameter {
        name: name.into(),
        summary: summary.into(),
        default: default.into(),
        shape: shape.into(),
        mutable: name == "thin",
    };
    vec![
        parameter(
            "kind",
            "A plain directory, or an image file with a filesystem of its own; without it, an image where a size \
             or thin is asked for and a directory otherwise",
            "",
            "directory|image",
        ),
        parameter("thin", "Whether an image takes its blocks only when they are written", "false", "bool"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_empty_configuration_is_a_good_one() {
        let config = Config::read(&Vec::new()).unwrap();
        assert_eq!((config.overcommit, config.copy_limit, config.filesystem), (150, 1 << 30, None));
    }

    #[test]
    fn every_mistake_of_a_configuration_is_told() {
        let wrong =
            pairs(&[("overcommit", "0.5"), ("copy-limit", "big"), ("filesystem", "zfs"), ("colour", "red")]);
        let message = Config::read(&wrong).unwrap_err().message;
        for name in ["overcommit", "copy-limit", "filesystem", "colour"] {
            assert!(message.contains(name), "{name}: {message}");
        }
        assert!(Config::read(&pairs(&[("default-size", "0")])).is_err());
    }

    #[test]
    fn a_thin_directory_is_refused() {
        assert!(Parameters::read(&pairs(&[("kind", "directory"), ("thin", "true")])).is_err());
        assert!(Parameters::read(&pairs(&[("thin", "true")])).is_ok());
        assert!(Parameters::read(&pairs(&[("kind", "disk")])).is_err());
        assert!(Parameters::read(&pairs(&[("size", "1")])).is_err());
    }

    #[test]
    fn only_what_is_told_to_be_mutable_can_be_changed() {
        for parameter in parameters() {
            let value =
                if parameter.shape == "bool" { "true" } else { parameter.shape.split('|').next().unwrap() };
            let changed = thin(&pairs(&[(&parameter.name, value)]));
            assert_eq!(changed.is_ok(), parameter.mutable, "{}", parameter.name);
        }
        assert_eq!(thin(&[]).unwrap(), None);
    }

    #[test]
    fn the_parameters_that_are_told_are_the_ones_that_are_read() {
        for parameter in parameters() {
            let value =
                if parameter.shape == "bool" { "true" } else { parameter.shape.split('|').next().unwrap() };
            Parameters::read(&pairs(&[(&parameter.name, value)])).unwrap();
        }
    }
}
