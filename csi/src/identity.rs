//! Identity: who we are, what we can do, and whether we are ready to do it. Served in every role. Being not ready is an
//! answer, not an error: the specification keeps errors of Probe for what only a person can mend.

use std::{collections::BTreeMap, sync::Arc};

use kato_orchestrator::{Error, ops::Context};
use tonic::{Request, async_trait};

use crate::{
    capabilities::Claims,
    door::{Answer, Door},
    protocol::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, ProbeRequest, ProbeResponse, identity_server,
    },
    seal::OURS,
};

/// The service.
pub(crate) struct Identity {
    pub(crate) door: Arc<Door>,
}

#[async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(&self, request: Request<GetPluginInfoRequest>) -> Answer<GetPluginInfoResponse> {
        self.door.call(request, name).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<GetPluginCapabilitiesRequest>,
    ) -> Answer<GetPluginCapabilitiesResponse> {
        self.door.call(request, capabilities).await
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Answer<ProbeResponse> {
        self.door.call(request, probe).await
    }
}

async fn name(door: Arc<Door>, _: Context, _: GetPluginInfoRequest) -> Result<GetPluginInfoResponse, Error> {
    let cluster = (format!("{OURS}cluster"), door.orchestrator.cluster().to_string());
    Ok(GetPluginInfoResponse {
        name: door.config.name.clone(),
        vendor_version: door.config.version.clone(),
        manifest: BTreeMap::from([cluster]),
    })
}

async fn capabilities(
    door: Arc<Door>,
    _: Context,
    _: GetPluginCapabilitiesRequest,
) -> Result<GetPluginCapabilitiesResponse, Error> {
    let claims = Claims::of(&door.config, &door.orchestrator.catalog());
    Ok(GetPluginCapabilitiesResponse { capabilities: claims.plugin_to_wire() })
}

async fn probe(door: Arc<Door>, _: Context, _: ProbeRequest) -> Result<ProbeResponse, Error> {
    let ready = match door.orchestrator.is_alive().await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "the records cannot be read: not ready");
            false
        }
    };
    Ok(ProbeResponse { ready: Some(ready) })
}
