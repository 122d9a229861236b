//! The numbers of this door, under the names and labels that dashboards of CSI drivers already know.

use std::time::Duration;

use tonic::Code;

use crate::{error, operation::Operation};

/// One call that was served.
pub(crate) fn served(driver: &str, operation: Operation, code: Code, took: Duration) {
    metrics::histogram!(
        "csi_plugin_operations_seconds",
        "driver_name" => driver.to_owned(),
        "method_name" => operation.path(),
        "grpc_status_code" => error::to_metric(code),
    )
    .record(took.as_secs_f64());
}
