//! What the daemon tells of itself: a log on standard error, and numbers for Prometheus.

use std::{io::IsTerminal, time::Duration};

use kato_orchestrator::{Error, Gauges, Orchestrator};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat, environment};

/// Starts the log. A second start changes nothing.
pub(crate) fn log(config: &Log) {
    // Which credentials were found is told to who asks for it.
    let filter: Targets = format!("aws_config=warn,{}", config.level).parse().unwrap_or_default();
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry
            .with(lines.json().flatten_event(true).with_current_span(true).with_span_list(false))
            .try_init()
    } else {
        registry.with(lines.with_ansi(terminal && !environment::no_color())).try_init()
    };
    // Only a test can have started one before.
    drop(started);
}

/// The buckets that dashboards of CSI drivers know.
const SECONDS: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

/// The same with room below, for what is quick.
const QUICK_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The numbers.
#[derive(Clone)]
pub(crate) struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Starts counting.
    pub(crate) fn start() -> Result<Self, Error> {
        let failed = |error| Error::internal("the metrics could not be started").caused_by(error);
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full("csi_plugin_operations_seconds".to_owned()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &QUICK_SECONDS)
            })
            .map_err(failed)?
            .install_recorder()
            .map_err(failed)?;
        metrics::describe_histogram!(
            "csi_plugin_operations_seconds",
            "Requests of the doors, by method and result."
        );
        metrics::describe_histogram!("kato_admin_requests_seconds", "Requests of the admin door.");
        metrics::describe_gauge!("kato_volumes", "Volumes, by their state.");
        metrics::describe_gauge!("kato_snapshots", "Snapshots, by their state.");
        metrics::describe_gauge!("kato_mounts", "Mounts on this node, by their state.");
        metrics::describe_gauge!("kato_intents_open", "Records with unfinished wishes.");
        metrics::describe_gauge!(
            "kato_op_pending_age_seconds",
            "How long the oldest unfinished wish has waited."
        );
        metrics::describe_gauge!("kato_mounts_stalled", "Mounts whose device does not answer now.");
        metrics::describe_gauge!("kato_volumes_unwell", "Volumes that their backend complains of.");
        metrics::describe_counter!("kato_mounts_broke_total", "How often a mount was found broken.");
        metrics::describe_gauge!("kato_ops_inflight", "Steps that are being taken now.");
        metrics::describe_gauge!(
            "kato_orphans",
            "What is ours at the backends and in no record, as of the last `kato doctor`."
        );
        metrics::describe_gauge!(
            "kato_tombstones",
            "Things whose creation was never heard of and that are looked for."
        );
        metrics::describe_gauge!("kato_info", "The daemon, as labels.");
        metrics::gauge!("kato_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { handle })
    }

    /// The page for Prometheus.
    pub(crate) async fn page(&self, hall: &Orchestrator) -> Result<String, Error> {
        let Gauges {
            volumes,
            snapshots,
            mounts,
            mounts_stalled,
            volumes_unwell,
            intents,
            oldest_intent,
            tombstones,
        } = hall.gauges().await?;
        for (name, states) in
            [("kato_volumes", volumes), ("kato_snapshots", snapshots), ("kato_mounts", mounts)]
        {
            for (state, count) in states {
                metrics::gauge!(name, "state" => state).set(number(count));
            }
        }
        metrics::gauge!("kato_mounts_stalled").set(number(mounts_stalled));
        metrics::gauge!("kato_volumes_unwell").set(number(volumes_unwell));
        metrics::gauge!("kato_intents_open").set(number(intents));
        metrics::gauge!("kato_op_pending_age_seconds").set(oldest_intent.as_secs_f64());
        metrics::gauge!("kato_tombstones").set(number(tombstones));
        Ok(self.handle.render())
    }

    /// Folds away what histograms have kept; without it they grow between two readers.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// One request to the admin door.
    pub(crate) fn served(method: &str, path: &str, status: u16, took: Duration) {
        metrics::histogram!(
            "kato_admin_requests_seconds",
            "method" => method.to_owned(),
            "path" => path.to_owned(),
            "status" => status.to_string(),
        )
        .record(took.as_secs_f64());
    }
}

/// A count as Prometheus has it: exact up to four thousand million.
fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
