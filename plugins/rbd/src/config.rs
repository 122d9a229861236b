//! What the operator says about the backend, and what a class or a caller says about a volume. Pool, namespace and the
//! pools for data come from the grant; the host adds them to the configuration.

use kato_plugin_sdk::{
    capacity::Limits,
    configuration::Reader,
    identity::Parameter,
    types::{Configuration, Error, Pair},
};

/// The smallest image, and what sizes are multiples of.
pub(crate) const STEP: u64 = 1 << 20;
/// The longest that a volume is kept after its end.
const MOST_DAYS: u64 = 3650;

/// The sets of features that an image can have, the usual one first.
pub(crate) const FEATURES: [&str; 3] =
    ["layering,exclusive-lock,object-map,fast-diff,deep-flatten", "layering,exclusive-lock", "layering"];

/// The operator's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) pool: String,
    /// Empty for the default one.
    pub(crate) namespace: String,
    /// Pools in which the data of images may lie.
    pub(crate) data_pools: Vec<String>,
    /// How large an image is when nobody says.
    pub(crate) default_size: u64,
}

impl Config {
    pub(crate) fn read(configuration: &Configuration) -> Result<Self, Error> {
        let mut reader = Reader::new("configuration", configuration);
        let data_pools = reader.text("data-pools", "");
        let config = Self {
            pool: reader.text("pool", ""),
            namespace: reader.text("namespace", ""),
            data_pools: data_pools
                .split(',')
                .map(str::trim)
                .filter(|pool| !pool.is_empty())
                .map(str::to_owned)
                .collect(),
            default_size: reader.size("default-size", 1 << 30),
        };
        if config.default_size == 0 {
            reader.wrong("`default-size` is 0: write a size such as 1GiB");
        }
        reader.finish()?;
        Ok(config)
    }

    /// The same, for what needs a pool: one that was not granted is no mistake of the configuration.
    pub(crate) fn granted(configuration: &Configuration) -> Result<Self, Error> {
        let config = Self::read(configuration)?;
        if config.pool.is_empty() {
            return Err(Error::permission_denied(
                "no pool is granted to this backend: write user, keyring and pool into its grants.ceph",
            ));
        }
        Ok(config)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { min: STEP, max: None, step: STEP, default: self.default_size }
    }

    /// All pools that images may fill.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.pool.as_str()).chain(self.data_pools.iter().map(String::as_str))
    }
}

/// What is asked of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) features: &'static str,
    pub(crate) data_pool: Option<String>,
    /// How many days it is kept after its end.
    pub(crate) trash_days: u64,
}

impl Parameters {
    pub(crate) fn read(config: &Config, parameters: &[Pair]) -> Result<Self, Error> {
        let mut reader = Reader::new("parameters", parameters);
        let [usual, ..] = FEATURES;
        let features = reader.word("features", &FEATURES.map(|set| (set, set))).unwrap_or(usual);
        let data_pool = reader.given("data-pool").filter(|pool| !pool.is_empty()).map(str::to_owned);
        let trash_days = reader.integer("trash-days", 0, 0..=MOST_DAYS);
        if let Some(pool) = data_pool.as_ref().filter(|pool| !config.data_pools.contains(pool)) {
            reader.wrong(if config.data_pools.is_empty() {
                format!("`data-pool` is {pool:?}: the grant of this backend names no data pools")
            } else {
                format!("`data-pool` is {pool:?}: write one of {}", config.data_pools.join(", "))
            });
        }
        reader.finish()?;
        Ok(Self { features, data_pool, trash_days })
    }
}

/// The parameters, as they are told to the host.
pub(crate) fn parameters(config: &Config) -> Vec<Parameter> {
    let parameter = |name: &str, summary: &str, default: &str, shape: String| Parameter {
        name: name.into(),
        summary: summary.into(),
        default: default.into(),
        shape,
        mutable: false,
    };
    let [usual, ..] = FEATURES;
    let mut parameters = vec![
        parameter(
            "features",
            "The features of the image; the kernel's own client knows few",
            usual,
            FEATURES.join("|"),
        ),
        parameter(
            "trash-days",
            "How many days a deleted volume stays in the trash, from which an administrator can restore it",
            "0",
            "integer".into(),
        ),
    ];
    if !config.data_pools.is_empty() {
        let shape = if config.data_pools.len() > 1 { config.data_pools.join("|") } else { "text".into() };
        parameters.push(parameter("data-pool", "The pool that the data of the image lies in", "", shape));
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn config(data_pools: &str) -> Config {
        Config::read(&pairs(&[("pool", "kato"), ("data-pools", data_pools)])).unwrap()
    }

    #[test]
    fn without_a_grant_the_configuration_is_good_and_nothing_can_be_done() {
        let config = Config::read(&Vec::new()).unwrap();
        assert_eq!((config.pool.as_str(), config.default_size), ("", 1 << 30));
        assert!(Config::granted(&Vec::new()).unwrap_err().message.contains("grants.ceph"));
        let error = Config::read(&pairs(&[("default-size", "0"), ("colour", "red")])).unwrap_err();
        assert!(error.message.contains("default-size") && error.message.contains("colour"));
    }

    #[test]
    fn every_mistake_of_the_parameters_is_told() {
        let wrong =
            pairs(&[("features", "journaling"), ("trash-days", "-1"), ("data-pool", "x"), ("kind", "y")]);
        let message = Parameters::read(&config(""), &wrong).unwrap_err().message;
        for name in ["features", "trash-days", "data-pool", "kind"] {
            assert!(message.contains(&format!("`{name}`")), "{name}: {message}");
        }
        let good = pairs(&[("features", "layering"), ("trash-days", "7"), ("data-pool", "ec")]);
        let read = Parameters::read(&config("hdd, ec"), &good).unwrap();
        assert_eq!((read.features, read.data_pool.as_deref(), read.trash_days), ("layering", Some("ec"), 7));
    }

    #[test]
    fn pools_for_data_are_a_parameter_where_there_are_some() {
        assert_eq!(parameters(&config("")).len(), 2);
        assert_eq!(parameters(&config("a,b"))[2].shape, "a|b");
        assert_eq!(parameters(&config("a"))[2].shape, "text");
    }
}
