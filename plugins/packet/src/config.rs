//! What the operator says about the backend, and what a class or a caller says about a volume.

use kato_plugin_sdk::{
    capacity::Limits,
    configuration::Reader,
    identity::Parameter,
    types::{Configuration, Error, Pair},
};

use crate::{answers::Policy, json::is_id};

pub(crate) const GIB: u64 = 1 << 30;

/// How often a policy can cut, in the API's words.
const FREQUENCIES: [&str; 7] = ["1min", "15min", "1hour", "1day", "1week", "1month", "1year"];

/// The operator's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where the API is: scheme, host, and the path before `/projects`, if there is one.
    pub(crate) base: String,
    pub(crate) project: String,
    /// Where volumes are made when nobody says where; empty for nowhere.
    pub(crate) facility: String,
    pub(crate) plan: String,
    pub(crate) billing_cycle: String,
    /// The metadata service that tells portals where the API does not; empty for none.
    pub(crate) metadata: String,
    /// The TCP port of the portals.
    pub(crate) port: u64,
    /// Which unit a volume is at its target.
    pub(crate) lun: u32,
    /// Whether the cloud lets volumes grow that are attached.
    pub(crate) grows_attached: bool,
    pub(crate) sizes: Limits,
}

impl Config {
    pub(crate) fn read(configuration: &Configuration) -> Result<Self, Error> {
        let mut reader = Reader::new("configuration", configuration);
        let address = |reader: &mut Reader<'_>, name, text: String| {
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            if !text.is_empty() && rest.is_none_or(|rest| rest.is_empty() || rest.contains(['?', '#', '@'])) {
                reader.wrong(format!(
                    "`{name}` is {text:?}: write scheme, host and path, such as https://api.x/v1"
                ));
            }
            text.trim_end_matches('/').to_owned()
        };
        let base = reader.required("base-url");
        let base = address(&mut reader, "base-url", base);
        let metadata = reader.text("metadata-url", "");
        let metadata = address(&mut reader, "metadata-url", metadata);
        let project = reader.required("project");
        if !project.is_empty() && !is_id(&project) {
            reader.wrong(format!("`project` is {project:?}: write the project's id"));
        }
        let facility = reader.text("facility", "");
        let plan = reader.text("plan", "storage_1");
        let billing_cycle = reader.text("billing-cycle", "hourly");
        let port = reader.integer("portal-port", 3260, 1..=65_535);
        // What SCSI can address of a target; the API leaves it out.
        let lun = u32::try_from(reader.integer("lun", 0, 0..=16_383)).unwrap_or_default();
        let grows_attached = reader.flag("grows-attached", false);
        let min = reader.size("min-size", 10 * GIB).next_multiple_of(GIB);
        let max = reader.size("max-size", 10_000 * GIB) / GIB * GIB;
        let default = reader.size("default-size", min.max(100 * GIB).min(max));
        if min == 0 || min > max || !(min..=max).contains(&default) {
            reader.wrong("`default-size` has to lie between `min-size` and `max-size`, which begin at 1GiB");
        }
        reader.finish()?;
        let sizes = Limits { min, max: Some(max), step: GIB, default };
        Ok(Self { base, project, facility, plan, billing_cycle, metadata, port, lun, grows_attached, sizes })
    }
}

/// What is asked of a volume. What is not given is the configuration's to say where one is made, and stays as it is where
/// one is copied or changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) facility: Option<String>,
    pub(crate) plan: Option<String>,
    pub(crate) billing_cycle: Option<String>,
    pub(crate) policies: Option<Vec<Policy>>,
}

impl Parameters {
    /// Those of a volume that is made.
    pub(crate) fn read(parameters: &[Pair]) -> Result<Self, Error> {
        let mut reader = Reader::new("parameters", parameters);
        let facility = reader.given("facility").map(str::to_owned);
        let asked = Self { facility, ..Self::mutable(&mut reader) };
        reader.finish()?;
        Ok(asked)
    }

    /// Those of one that is changed.
    pub(crate) fn changes(parameters: &[Pair]) -> Result<Self, Error> {
        let mut reader = Reader::new("parameters that can be changed", parameters);
        let asked = Self::mutable(&mut reader);
        reader.finish()?;
        Ok(asked)
    }

    fn mutable(reader: &mut Reader<'_>) -> Self {
        let plan = reader.given("plan").map(str::to_owned);
        let billing_cycle = reader.given("billing-cycle").map(str::to_owned);
        let policies = reader.given("snapshot-policies").map(|text| policies(reader, text));
        Self { facility: None, plan, billing_cycle, policies }
    }
}

/// `1day:7,1hour:24`: how often one is cut, and how many of these are kept.
fn policies(reader: &mut Reader<'_>, text: &str) -> Vec<Policy> {
    let mut policies = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (frequency, count) = part.split_once(':').unwrap_or((part, ""));
        match count.parse() {
            Ok(count) if (1..=256).contains(&count) && FREQUENCIES.contains(&frequency) => {
                policies.push(Policy { id: String::new(), frequency: frequency.to_owned(), count });
            }
            _ => reader.wrong(format!(
                "`snapshot-policies` has {part:?}: write how often and how many are kept, such as 1day:7, of {}",
                FREQUENCIES.join(", ")
            )),
        }
    }
    policies
}

/// The parameters, as they are told to the host.
pub(crate) fn parameters(config: &Config) -> Vec<Parameter> {
    let parameter = |name: &str, summary: &str, default: &str, mutable| Parameter {
        name: name.into(),
        summary: summary.into(),
        default: default.into(),
        shape: "text".into(),
        mutable,
    };
    let policies =
        "Which snapshots the cloud cuts by itself: 1day:7,1hour:24 keeps seven days and a day's hours";
    vec![
        parameter("plan", "How quick it is: a plan's slug or id", &config.plan, true),
        parameter("facility", "Where it lies, by code or id", &config.facility, false),
        parameter("billing-cycle", "How it is billed", &config.billing_cycle, true),
        parameter("snapshot-policies", policies, "", true),
    ]
}
