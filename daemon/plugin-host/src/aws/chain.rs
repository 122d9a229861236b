//! Where the daemon's credentials for AWS come from: the standard chain, in its order. The environment, a profile of
//! the shared files, a web identity (a service account of Kubernetes), the container's own, the instance's. A source
//! that is not there is passed over; one that is there and does not work ends the search, because what would be found
//! behind it would act as somebody else. A profile that the grant names is the only source.
//!
//! No source runs a program (`credential_process`) and none asks a person (SSO). The environment is the daemon's, by
//! way of its configuration; what the libraries look up in it themselves is the same.

use std::{error::Error as StdError, path::PathBuf};

use async_trait::async_trait;
use aws_config::{
    BehaviorVersion, Region, ecs, imds,
    profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig,
    web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider},
};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError},
};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::sdk_config::SharedTimeSource;
use kato_orchestrator::Error;

use super::{errands::Errands, keys::Source};
use crate::grants::{Environment, credentials::Secrets, way::Way};

/// The longest reason that is told of one source, in bytes.
const REASON: usize = 300;

/// The sources of one backend.
pub(crate) struct Chain {
    environment: Environment,
    secrets: Secrets,
    region: String,
    profile: Option<String>,
    errands: Errands,
    clock: SharedTimeSource,
}

/// The domain of a region's services.
pub(crate) fn domain(region: &str) -> &'static str {
    const PARTITIONS: [(&str, &str); 7] = [
        ("cn-", "amazonaws.com.cn"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("eusc-", "amazonaws.eu"),
        ("", "amazonaws.com"),
    ];
    let own = PARTITIONS.iter().find(|(beginning, _)| region.starts_with(beginning));
    own.map_or("amazonaws.com", |(_, domain)| domain)
}

/// A source, or why there is none.
type Found = Result<Box<dyn ProvideCredentials>, String>;

impl Chain {
    pub(crate) fn new(
        region: &str,
        profile: Option<&str>,
        environment: &Environment,
        secrets: &Secrets,
        way: &Way,
        clock: SharedTimeSource,
    ) -> Result<Self, Error> {
        let errands = Errands::new(domain(region), environment, secrets, way)?;
        let (environment, secrets) = (Environment::clone(environment), secrets.clone());
        Ok(Self {
            environment,
            secrets,
            region: region.to_owned(),
            profile: profile.map(str::to_owned),
            errands,
            clock,
        })
    }

    /// What a variable says, if it says anything.
    fn said(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// The sources in their order. Each is made anew, because some remember what they read from files.
    async fn sources(&self) -> Vec<(&'static str, Found)> {
        let how = ProviderConfig::without_region()
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_region(Some(Region::new(self.region.clone())))
            .with_http_client(self.errands.clone())
            .with_time_source(self.clock.clone());
        if self.profile.is_some() {
            return vec![("profile", self.profile(&how).await)];
        }
        vec![
            ("environment", self.variables()),
            ("profile", self.profile(&how).await),
            ("web identity", self.web_identity(&how)),
            ("container", self.container(&how)),
            ("instance metadata", self.instance(&how)),
        ]
    }

    fn variables(&self) -> Found {
        const ID: &str = "AWS_ACCESS_KEY_ID";
        const KEY: &str = "AWS_SECRET_ACCESS_KEY";
        match (self.said(ID), self.said(KEY)) {
            (Some(id), Some(key)) => {
                Ok(Box::new(Credentials::new(id, key, self.said("AWS_SESSION_TOKEN"), None, "environment")))
            }
            (None, _) => Err(format!("{ID} is not set")),
            (_, None) => Err(format!("{KEY} is not set")),
        }
    }

    async fn profile(&self, how: &ProviderConfig) -> Found {
        let home = self.said("HOME").map(PathBuf::from);
        let mut files = EnvConfigFiles::builder();
        let (mut there, mut missing) = (false, Vec::new());
        for (kind, variable, usual) in [
            (EnvConfigFileKind::Config, "AWS_CONFIG_FILE", ".aws/config"),
            (EnvConfigFileKind::Credentials, "AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
        ] {
            let said = self.said(variable).map(PathBuf::from);
            match said.or_else(|| Some(home.as_ref()?.join(usual))) {
                Some(path) if tokio::fs::try_exists(&path).await.unwrap_or(false) => {
                    there = true;
                    files = files.with_file(kind, path);
                }
                Some(path) => missing.push(format!("{} is not there", path.display())),
                None => missing.push(format!("neither HOME nor {variable} is set")),
            }
        }
        if !there {
            return Err(missing.join(", "));
        }
        let name = self.profile.clone().or_else(|| self.said("AWS_PROFILE"));
        let named = ProfileFileCredentialsProvider::builder().configure(how).profile_files(files.build());
        Ok(Box::new(match name {
            Some(name) => named.profile_name(name).build(),
            None => named.build(),
        }))
    }

    fn web_identity(&self, how: &ProviderConfig) -> Found {
        const TOKEN: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
        const ROLE: &str = "AWS_ROLE_ARN";
        let token = self.said(TOKEN).ok_or_else(|| format!("{TOKEN} is not set"))?;
        let role_arn = self.said(ROLE).ok_or_else(|| format!("{ROLE} is not set"))?;
        let session_name = self.said("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "kato".to_owned());
        let own = StaticConfiguration { web_identity_token_file: token.into(), role_arn, session_name };
        Ok(Box::new(
            WebIdentityTokenCredentialsProvider::builder().configure(how).static_configuration(own).build(),
        ))
    }

    fn container(&self, how: &ProviderConfig) -> Found {
        const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        if self.said(RELATIVE).or_else(|| self.said(FULL)).is_none() {
            return Err(format!("neither {RELATIVE} nor {FULL} is set"));
        }
        Ok(Box::new(ecs::EcsCredentialsProvider::builder().configure(how).build()))
    }

    fn instance(&self, how: &ProviderConfig) -> Found {
        const OFF: &str = "AWS_EC2_METADATA_DISABLED";
        if self.said(OFF).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(format!("{OFF} says so"));
        }
        let mut service = imds::Client::builder().configure(how);
        if let Some(endpoint) = self.said("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
            service = service.endpoint(&endpoint).map_err(|_| format!("{endpoint:?} is no URL"))?;
        } else if self
            .said("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
            .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"))
        {
            service = service.endpoint_mode(imds::client::EndpointMode::IpV6);
        }
        Ok(Box::new(
            imds::credentials::ImdsCredentialsProvider::builder()
                .configure(how)
                .imds_client(service.build())
                .build(),
        ))
    }

    /// Why a source gave none, in one line and without secrets.
    fn reason(&self, error: &CredentialsError) -> String {
        let mut text = String::new();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = cause {
            let own = error.to_string();
            if !text.contains(&own) {
                text = if text.is_empty() { own } else { format!("{text}: {own}") };
            }
            cause = error.source();
        }
        self.secrets.line(&text, REASON)
    }
}

#[async_trait]
impl Source for Chain {
    async fn load(&self) -> Result<Credentials, Error> {
        let mut tried = Vec::new();
        for (name, source) in self.sources().await {
            let source = match source {
                Ok(source) => source,
                Err(why) => {
                    tried.push(format!("{name} ({why})"));
                    continue;
                }
            };
            match source.provide_credentials().await {
                Ok(credentials) => {
                    tracing::debug!(source = name, region = %self.region, "credentials for AWS were found");
                    return Ok(credentials);
                }
                Err(error) => {
                    tried.push(format!("{name} ({})", self.reason(&error)));
                    if !matches!(error, CredentialsError::CredentialsNotLoaded(_)) {
                        break;
                    }
                }
            }
        }
        Err(Error::unavailable(format!(
            "there are no credentials for AWS; tried were {}: give the daemon an instance role, a service account with \
             a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            tried.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;
    use crate::grants::ProxyGrant;

    /// A server that answers by the beginning of what it is asked, and notes it.
    struct Double {
        port: u16,
        heard: Arc<Mutex<Vec<String>>>,
        _tasks: JoinSet<()>,
    }

    impl Double {
        async fn answering(answers: &'static [(&'static str, &'static str)]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (port, heard) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
            let (noted, mut tasks) = (Arc::clone(&heard), JoinSet::new());
            tasks.spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut bytes = vec![0; 8192];
                    let length = stream.read(&mut bytes).await.unwrap_or(0);
                    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    let answer = answers.iter().find(|(beginning, _)| text.starts_with(beginning));
                    let body = answer.map_or("", |(_, body)| body);
                    let status = if answer.is_some() { "200 OK" } else { "404 No" };
                    noted.lock().unwrap().push(text);
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\
                         x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\r\n{body}",
                        body.len()
                    );
                    // The client may be gone, which is its right.
                    let _gone = stream.write_all(answer.as_bytes()).await;
                }
            });
            Self { port, heard, _tasks: tasks }
        }

        fn heard(&self) -> Vec<String> {
            self.heard.lock().unwrap().clone()
        }
    }

    fn chain_by(profile: Option<&str>, variables: &[(&str, &str)], way: &Way) -> Chain {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment: Environment = Arc::new(move |name| variables.get(name).cloned());
        let secrets = Secrets::new(&environment);
        Chain::new("eu-central-1", profile, &environment, &secrets, way, SharedTimeSource::default()).unwrap()
    }

    /// Whose credentials are found.
    async fn found(profile: Option<&str>, variables: &[(&str, &str)]) -> Result<String, String> {
        let found = chain_by(profile, variables, &Way::default()).load().await;
        found.map(|found| found.access_key_id().to_owned()).map_err(|error| error.message)
    }

    const OWN: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "ID-ENV"), ("AWS_SECRET_ACCESS_KEY", "hush-hush")];
    const OFF: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");

    const INSTANCE: &[(&str, &str)] = &[
        ("PUT /latest/api/token ", "a-token"),
        ("GET /latest/meta-data/iam/security-credentials/ ", "a-role"),
        (
            "GET /latest/meta-data/iam/security-credentials/a-role ",
            r#"{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ID-IMDS",
                "SecretAccessKey":"hush-hush","Token":"a-session","Expiration":"2999-01-01T00:00:00Z"}"#,
        ),
    ];

    #[tokio::test]
    async fn the_first_source_that_is_there_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        let keys = |id: &str| format!("aws_access_key_id = {id}\naws_secret_access_key = hush-hush\n");
        let file = format!("[default]\n{}[other]\n{}", keys("ID-FILE"), keys("ID-OTHER"));
        std::fs::write(folder.join("credentials"), file).unwrap();
        let instance = Double::answering(INSTANCE).await;
        let home = ("HOME", temp.path().to_str().unwrap());
        let endpoint = format!("http://127.0.0.1:{}", instance.port);
        let service = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str());
        let all = [OWN[0], OWN[1], home, service];
        assert_eq!(found(None, &all).await.unwrap(), "ID-ENV");
        assert_eq!(found(None, &all[2..]).await.unwrap(), "ID-FILE");
        assert_eq!(found(None, &[home, service, ("AWS_PROFILE", "other")]).await.unwrap(), "ID-OTHER");
        assert_eq!(found(None, &all[3..]).await.unwrap(), "ID-IMDS");
        // A profile that the grant names goes before everything, and is not replaced by anything.
        assert_eq!(found(Some("other"), &all).await.unwrap(), "ID-OTHER");
        let told = found(Some("third"), &all).await.unwrap_err();
        assert!(
            told.contains("profile (") && told.contains("third") && !told.contains("instance metadata"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn the_instance_is_asked_with_a_token() {
        let instance = Double::answering(INSTANCE).await;
        let endpoint = format!("http://127.0.0.1:{}", instance.port);
        let chain = chain_by(None, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)], &Way::default());
        let found = chain.load().await.unwrap();
        assert_eq!((found.access_key_id(), found.session_token()), ("ID-IMDS", Some("a-session")));
        assert!(found.expiry().is_some());
        let heard = instance.heard();
        assert!(heard[0].starts_with("PUT /latest/api/token"), "{heard:?}");
        assert!(
            heard[1..].iter().all(|heard| heard.contains("x-aws-ec2-metadata-token: a-token")),
            "{heard:?}"
        );
    }

    #[tokio::test]
    async fn without_any_source_all_are_named_with_what_to_do() {
        let told = found(None, &[OFF]).await.unwrap_err();
        for words in [
            "environment (AWS_ACCESS_KEY_ID is not set)",
            "profile (",
            "web identity (AWS_WEB_IDENTITY_TOKEN_FILE is not set)",
            "container (",
            "instance metadata (AWS_EC2_METADATA_DISABLED says so)",
            "give the daemon an instance role",
        ] {
            assert!(told.contains(words), "{told}");
        }
        let told = found(None, &[OFF, ("AWS_ACCESS_KEY_ID", "x"), ("HOME", "/nowhere")]).await.unwrap_err();
        assert!(told.contains("AWS_SECRET_ACCESS_KEY is not set"), "{told}");
        assert!(told.contains("/nowhere/.aws/config is not there"), "{told}");
    }

    #[tokio::test]
    async fn a_web_identity_is_shown_to_the_regions_token_service_by_the_grants_way() {
        let temp = tempfile::tempdir().unwrap();
        let token = temp.path().join("token");
        std::fs::write(&token, "a-web-token").unwrap();
        let proxy = Double::answering(&[]).await;
        let grant = ProxyGrant { url: format!("http://127.0.0.1:{}", proxy.port), user: None, secret: None };
        let way = Way::new(Some(&grant), None).unwrap();
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/kato"),
            OFF,
        ];
        let told = chain_by(None, &variables, &way).load().await.unwrap_err().message;
        let heard = proxy.heard();
        assert!(heard[0].starts_with("CONNECT sts.eu-central-1.amazonaws.com:443 "), "{heard:?}");
        assert!(told.contains("web identity (") && !told.contains("a-web-token"), "{told}");
        // It is there and does not work: nobody else's credentials are looked for.
        assert!(!told.contains("container"), "{told}");
    }

    #[tokio::test]
    async fn what_a_profile_names_leads_nowhere_else() {
        let temp = tempfile::tempdir().unwrap();
        let config = temp.path().join("config");
        let elsewhere = Double::answering(&[]).await;
        let text = format!(
            "[profile x]\nrole_arn = arn:aws:iam::123456789012:role/kato\ncredential_source = Ec2InstanceMetadata\n\
             ec2_metadata_service_endpoint = http://127.0.0.1:{}\n",
            elsewhere.port
        );
        std::fs::write(&config, text).unwrap();
        let file = ("AWS_CONFIG_FILE", config.to_str().unwrap());
        let told = found(Some("x"), &[file]).await.unwrap_err();
        assert!(told.contains("no grant"), "{told}");
        assert!(elsewhere.heard().is_empty());
    }

    /// The library reads where the container's credentials are from the process itself, so this test runs twice.
    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the second run needs an environment of its own")]
    async fn a_container_is_asked_where_its_environment_says() {
        const PLACE: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        const NAME: &str = "aws::chain::tests::a_container_is_asked_where_its_environment_says";
        if let Some(place) = std::env::var_os("KATO_SECOND_RUN").and_then(|_yes| std::env::var_os(PLACE)) {
            let id = found(None, &[OFF, (PLACE, place.to_str().unwrap())]).await.unwrap();
            assert_eq!(id, "ID-POD");
            return;
        }
        let answer = r#"{"AccessKeyId":"ID-POD","SecretAccessKey":"hush-hush","Token":"a-session",
            "Expiration":"2999-01-01T00:00:00Z"}"#;
        let answers: &'static _ = Box::leak(Box::new([("GET /v1/credentials ", answer)]));
        let container = Double::answering(answers).await;
        let place = format!("http://127.0.0.1:{}/v1/credentials", container.port);
        let second = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("KATO_SECOND_RUN", "yes")
            .env(PLACE, place)
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token")
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&second.stdout);
        assert!(second.status.success() && told.contains("1 passed"), "{told}");
        assert!(container.heard()[0].contains("authorization: pod-token"), "{:?}", container.heard());
    }
}
