//! The network that credentials are fetched by: the metadata service of the instance or of the container, and the
//! security token service. These are the house's own requests, and they have grants like those of a guest: the
//! origins below and no others, so that no file of profiles and no answer leads elsewhere. What is encrypted takes
//! the way of the operator's grant (its proxy, its authorities); metadata services are never behind a proxy.

use std::{sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use kato_orchestrator::Error;
use tokio::time::timeout;

use crate::{
    grants::{Environment, credentials::Secrets, http::Rules, way::Way},
    imports::http::Client,
};

/// How long an answer may take in all, where nothing is said of it.
const ANSWER: Duration = Duration::from_secs(30);
/// The largest answer.
const LARGEST: usize = 256 << 10;
/// Where instances and containers are told their credentials.
const METADATA: [&str; 5] =
    ["169.254.169.254", "[fd00:ec2::254]", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
/// Variables by which an operator says other places.
const SAID: [&str; 4] = [
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ENDPOINT_URL",
];

/// Sends what the chain of credentials asks for.
#[derive(Clone, Debug)]
pub(super) struct Errands {
    rules: Arc<Rules>,
    client: Client,
    /// How long one may take.
    patience: Duration,
}

impl Errands {
    /// Errands to the services of a domain and to what the environment says.
    pub(super) fn new(
        domain: &str,
        environment: &Environment,
        secrets: &Secrets,
        way: &Way,
    ) -> Result<Self, Error> {
        let anywhere = ["public", "private"].map(str::to_owned);
        let beneath = [format!("https://*.{domain}"), "https://*.api.aws".to_owned()];
        let mut origins: Vec<_> = beneath.map(|origin| (origin, anywhere.to_vec())).into();
        for host in METADATA {
            let address = host.trim_start_matches('[').trim_end_matches(']');
            origins.push((format!("http://{host}"), vec![address.to_owned()]));
        }
        for name in SAID {
            let uri = environment(name).and_then(|text| text.parse::<Uri>().ok());
            let Some((scheme, authority)) =
                uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)))
            else {
                continue;
            };
            let mut addresses = ["public", "private", "loopback"].map(str::to_owned).to_vec();
            let literal = authority.host().trim_start_matches('[').trim_end_matches(']');
            if literal.parse::<std::net::IpAddr>().is_ok() {
                addresses.push(literal.to_owned());
            }
            origins.push((format!("{scheme}://{authority}"), addresses));
        }
        let rules = Arc::new(Rules::own(&origins, way, secrets)?);
        let client = Client::new(&rules)?;
        Ok(Self { rules, client, patience: ANSWER })
    }

    async fn run(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let user = |error: Error| ConnectorError::user(error.into());
        let (parts, body) =
            request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?.into_parts();
        let rule = self.rules.check(&parts.method, &parts.uri).map_err(user)?;
        let body = Bytes::copy_from_slice(body.bytes().unwrap_or_default());
        let answered = async {
            let request = Request::from_parts(parts, Full::new(body));
            let sent = self.client.request(rule.way, request);
            let response = sent.ok_or("there is no way to it")?.await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::from_parts(parts, body.into()))
        };
        let response = match timeout(self.patience, answered).await {
            Ok(response) => response.map_err(ConnectorError::io)?,
            Err(late) => return Err(ConnectorError::timeout(late.into())),
        };
        HttpResponse::try_from(response).map_err(|error| ConnectorError::user(error.into()))
    }
}

impl HttpConnector for Errands {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().run(request))
    }
}

impl HttpClient for Errands {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let connect = settings.connect_timeout().unwrap_or_default();
        let patience = settings.read_timeout().map_or(ANSWER, |read| ANSWER.min(connect + read));
        SharedHttpConnector::new(Self { patience, ..self.clone() })
    }
}
