//! Docker's volume plugin protocol from the caller's side, as the client of Docker 1.11 speaks it: a handshake, then
//! one request for each question, and never an ID. To the driver all who come this way are one holder.
//!
//! A driver that is away, or goes away over a question, is being started or upgraded: the question is asked again, whole,
//! for a while. That is safe because what is asked without an ID is a state and not a count; only a remove that was
//! heard before the answer was lost hears then that there is no such volume. How long an answer takes is the driver's
//! affair; the agent has its own patience.

use std::{fmt, io, thread, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value as Json, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime::Runtime,
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    discovery::{Place, Places},
    log,
};

/// How long it is waited before each further try, in seconds.
const WAITS: [u64; 4] = [1, 2, 4, 8];

/// After how long nothing is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What drivers expect to be asked for.
const ACCEPT: &str = "application/vnd.docker.plugins.v1.2+json";

/// Why a driver did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It said no.
    Refused(String),
    /// It said nothing that can be understood.
    Lost(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(words) | Self::Lost(words)) = self;
        f.write_str(words)
    }
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> Self {
        trouble.to_string()
    }
}

/// A volume that a driver has.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) mountpoint: Option<String>,
}

/// A driver that shook hands.
#[derive(Debug)]
pub(super) struct Driver {
    name: String,
    place: Place,
    runtime: Runtime,
    tasks: TaskTracker,
}

impl Driver {
    /// Looks for a driver, for a while, and shakes hands with it.
    pub(super) fn reach(name: &str, places: &Places) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("nothing can be asked: {error}"))?;
        let mut tries = Tries::begin();
        let place = loop {
            if let Some(place) = places.find(name)? {
                break place;
            }
            if !tries.again(&format!("there is no volume driver {name} yet")) {
                return Err(format!(
                    "there is no volume driver {name}: nothing listens at {}",
                    places.told(name)
                ));
            }
        };
        let driver = Self { name: name.to_owned(), place, runtime, tasks: TaskTracker::new() };
        let answer = driver.ask("Plugin.Activate", None)?;
        let implements = field(&answer, "Implements").and_then(Json::as_array);
        if !implements.is_some_and(|all| all.iter().any(|one| one == "VolumeDriver")) {
            return Err(format!("what listens at {} is a plugin, but no volume driver", driver.place));
        }
        Ok(driver)
    }

    pub(super) fn get(&self, name: &str) -> Result<Found, Trouble> {
        let answer = self.call("Get", json!({"Name": name}))?;
        let volume = field(&answer, "Volume").filter(|volume| volume.is_object());
        let volume = volume.ok_or_else(|| {
            Trouble::Refused(format!("VolumeDriver.Get: the driver {} has no volume {name}", self.name))
        })?;
        let known = text(volume, "Name").filter(|name| !name.is_empty());
        let mountpoint = text(volume, "Mountpoint").filter(|path| !path.is_empty());
        Ok(Found { name: known.unwrap_or(name).to_owned(), mountpoint: mountpoint.map(str::to_owned) })
    }

    pub(super) fn create(&self, name: &str, options: &Map<String, Json>) -> Result<(), Trouble> {
        self.call("Create", json!({"Name": name, "Opts": options})).map(drop)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Trouble> {
        self.call("Remove", json!({"Name": name})).map(drop)
    }

    /// Mounts and answers where. An agent binds whatever stands there, so it has to be a path.
    pub(super) fn mount(&self, name: &str) -> Result<String, Trouble> {
        let answer = self.call("Mount", json!({"Name": name}))?;
        match text(&answer, "Mountpoint") {
            Some(path) if path.starts_with('/') => Ok(path.to_owned()),
            other => Err(Trouble::Lost(format!(
                "VolumeDriver.Mount: the driver {} says that the volume is mounted at {:?}, which is no path",
                self.name,
                other.unwrap_or_default()
            ))),
        }
    }

    pub(super) fn unmount(&self, name: &str) -> Result<(), Trouble> {
        self.call("Unmount", json!({"Name": name})).map(drop)
    }

    pub(super) fn path(&self, name: &str) -> Result<Option<String>, Trouble> {
        let answer = self.call("Path", json!({"Name": name}))?;
        Ok(text(&answer, "Mountpoint").filter(|path| !path.is_empty()).map(str::to_owned))
    }

    pub(super) fn list(&self) -> Result<Vec<String>, Trouble> {
        let answer = self.call("List", json!({}))?;
        let volumes = field(&answer, "Volumes").and_then(Json::as_array).into_iter().flatten();
        Ok(volumes.filter_map(|volume| text(volume, "Name")).map(str::to_owned).collect())
    }

    fn call(&self, operation: &str, body: Json) -> Result<Json, Trouble> {
        self.ask(&format!("VolumeDriver.{operation}"), Some(body))
    }

    /// Asks until there is an answer, or until it is no use.
    fn ask(&self, operation: &str, body: Option<Json>) -> Result<Json, Trouble> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(format!("{body}\n")));
        let mut tries = Tries::begin();
        loop {
            let error = match self.runtime.block_on(self.exchange(operation, body.clone())) {
                Ok((status, answer)) => return understood(operation, status, &answer),
                Err(error) => error,
            };
            let (name, place) = (&self.name, &self.place);
            if error.kind() == io::ErrorKind::PermissionDenied {
                return Err(Trouble::Lost(format!(
                    "{operation}: you may not use the socket {place} of the driver {name}: use sudo"
                )));
            }
            let words = format!("{operation}: the driver {name} at {place} did not answer: {error}");
            if !tries.again(&words) {
                return Err(Trouble::Lost(words));
            }
        }
    }

    async fn exchange(&self, operation: &str, body: Bytes) -> io::Result<(StatusCode, Bytes)> {
        match &self.place {
            Place::Socket(path) => {
                // What dockerd calls a plugin that has no host.
                self.say(UnixStream::connect(path).await?, "plugin.moby.localhost", operation, body).await
            }
            Place::Network(host) => self.say(TcpStream::connect(host).await?, host, operation, body).await,
        }
    }

    async fn say<S>(
        &self,
        stream: S,
        host: &str,
        operation: &str,
        body: Bytes,
    ) -> io::Result<(StatusCode, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // The connection is driven by the runtime of this one command, and ends with it.
        self.tasks.spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{operation}"))
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("kato-dvdcli/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, ACCEPT)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let answer = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok((status, answer))
    }
}

/// What an answer means.
fn understood(operation: &str, status: StatusCode, answer: &[u8]) -> Result<Json, Trouble> {
    let read = serde_json::from_slice::<Json>(answer);
    let error = read.as_ref().ok().and_then(|answer| text(answer, "Err")).filter(|error| !error.is_empty());
    if let Some(error) = error {
        return Err(Trouble::Refused(format!("{operation}: {error}")));
    }
    if status != StatusCode::OK {
        let words = String::from_utf8_lossy(answer);
        return Err(Trouble::Refused(format!("{operation}: {status}: {}", words.trim())));
    }
    read.map_err(|error| {
        Trouble::Lost(format!("{operation}: what the driver answers is not what drivers say: {error}"))
    })
}

/// A part of what a driver says. Docker does not look at how its name is spelled, so drivers spell it as they like.
fn field<'a>(answer: &'a Json, name: &str) -> Option<&'a Json> {
    let fields = answer.as_object()?;
    fields
        .get(name)
        .or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// The same, as text.
pub(super) fn text<'a>(answer: &'a Json, name: &str) -> Option<&'a str> {
    field(answer, name)?.as_str()
}

/// How often something is tried again.
struct Tries {
    begun: Instant,
    waits: std::slice::Iter<'static, u64>,
}

impl Tries {
    fn begin() -> Self {
        Self { begun: Instant::now(), waits: WAITS.iter() }
    }

    /// Waits until it is time for another try, and tells why; false when there is to be none.
    fn again(&mut self, why: &str) -> bool {
        let Some(wait) = self.waits.next().map(|seconds| Duration::from_secs(*seconds)) else { return false };
        if self.begun.elapsed() + wait >= PATIENCE {
            return false;
        }
        log::line("warning", &format!("{why}; trying again in {} s", wait.as_secs()), &[]);
        thread::sleep(wait);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_and_nonsense_are_told_apart() {
        let read = |status: u16, answer: &str| {
            understood("VolumeDriver.Get", StatusCode::from_u16(status).unwrap(), answer.as_bytes())
        };
        assert_eq!(read(200, r#"{"Err":""}"#), Ok(json!({"Err": ""})));
        for (status, answer, told) in [
            (200, r#"{"Err":"no"}"#, "VolumeDriver.Get: no"),
            (500, r#"{"err":"no"}"#, "VolumeDriver.Get: no"),
            (404, "404 page not found\n", "VolumeDriver.Get: 404 Not Found: 404 page not found"),
            (500, "{}", "VolumeDriver.Get: 500 Internal Server Error: {}"),
        ] {
            assert_eq!(read(status, answer), Err(Trouble::Refused(told.to_owned())));
        }
        for nonsense in ["", "hello"] {
            assert!(matches!(read(200, nonsense), Err(Trouble::Lost(_))), "{nonsense}");
        }
    }

    #[test]
    fn names_are_found_however_they_are_spelled() {
        let answer = json!({"mountpoint": "/a", "Name": "b", "name": "c"});
        assert_eq!(text(&answer, "Mountpoint"), Some("/a"));
        assert_eq!(text(&answer, "Name"), Some("b"));
        assert_eq!(text(&json!([]), "Name"), None);
    }
}
