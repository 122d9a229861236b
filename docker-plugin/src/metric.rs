//! The numbers of this door, under the names and labels that dashboards of CSI drivers already know.

use std::time::Duration;

use kato_orchestrator::Kind;

use crate::error;

/// One request that was served.
pub(crate) fn served(driver: &str, path: &'static str, failure: Option<Kind>, took: Duration) {
    metrics::histogram!(
        "csi_plugin_operations_seconds",
        "driver_name" => driver.to_owned(),
        "method_name" => path,
        "grpc_status_code" => error::to_metric(failure),
    )
    .record(took.as_secs_f64());
}
