//! Where a driver listens, by nothing but its name: at our own daemon's socket, wherever the configuration puts it,
//! and in the folders where Docker looks, in Docker's order. First a socket, then a file that holds an address
//! (`.spec`: the address alone; `.json`: with words on TLS beside it). Whoever listens there is asked by `driver.rs`.

use std::{
    fmt, fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::driver::text;

/// What our driver is called when nobody has called it otherwise.
const OURS: &str = "kato";

/// Where a driver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At a socket of this host.
    Socket(PathBuf),
    /// At a host and port.
    Network(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Network(address) => f.write_str(address),
        }
    }
}

/// Where drivers are looked for.
#[derive(Debug)]
pub(super) struct Places {
    /// The socket that our own daemon has by its configuration.
    ours: Option<PathBuf>,
    sockets: PathBuf,
    addresses: Vec<PathBuf>,
}

impl Places {
    pub(super) fn of_docker(ours: Option<PathBuf>) -> Self {
        Self {
            ours,
            sockets: PathBuf::from("/run/docker/plugins"),
            addresses: ["/etc/docker/plugins", "/usr/lib/docker/plugins"].map(PathBuf::from).to_vec(),
        }
    }

    /// Where the driver of this name listens; nothing if it has no place yet. An error is one that waiting does
    /// not mend.
    pub(super) fn find(&self, driver: &str) -> Result<Option<Place>, String> {
        if driver.contains('/') {
            return Err(format!(
                "the driver {driver:?} has a name that no socket can have: Docker keeps managed plugins to itself"
            ));
        }
        let ours = |meant: bool| self.ours.iter().filter(move |_| meant).cloned();
        for path in ours(self.ours_is(driver)).chain(places(&self.sockets, driver, "sock")) {
            if is_socket(&path)? {
                return Ok(Some(Place::Socket(path)));
            }
        }
        for path in self.files(driver) {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let read = address(&path, &text).and_then(|address| place(&address));
                    return read.map(Some).map_err(|words| format!("{}: {words}", path.display()));
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
            }
        }
        // A daemon whose driver has another name is still the one that is meant, if there is no other.
        for path in ours(driver == OURS) {
            if is_socket(&path)? {
                return Ok(Some(Place::Socket(path)));
            }
        }
        Ok(None)
    }

    /// Where it was looked, for a person.
    pub(super) fn told(&self, driver: &str) -> String {
        let ours = self.ours.iter().filter(|_| driver == OURS || self.ours_is(driver)).cloned();
        let mut paths: Vec<PathBuf> =
            ours.chain(places(&self.sockets, driver, "sock")).chain(self.files(driver)).collect();
        paths.dedup();
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn ours_is(&self, driver: &str) -> bool {
        let stem = self.ours.as_ref().and_then(|socket| socket.file_stem());
        stem.is_some_and(|stem| stem == driver)
    }

    fn files(&self, driver: &str) -> impl Iterator<Item = PathBuf> {
        self.addresses.iter().flat_map(move |folder| {
            ["spec", "json"].into_iter().flat_map(move |ending| places(folder, driver, ending))
        })
    }
}

/// Whether there is a socket. Docker lets nobody but root look into its folder.
fn is_socket(path: &Path) -> Result<bool, String> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.file_type().is_socket()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("you may not see whether there is a driver at {}: use sudo", path.display()))
        }
        Err(_) => Ok(false),
    }
}

/// The two places of a name in a folder.
fn places(folder: &Path, driver: &str, ending: &str) -> [PathBuf; 2] {
    let file = format!("{driver}.{ending}");
    [folder.join(&file), folder.join(driver).join(file)]
}

/// The address that a file holds.
fn address(path: &Path, content: &str) -> Result<String, String> {
    if path.extension().is_none_or(|ending| ending != "json") {
        return Ok(content.trim().to_owned());
    }
    let read: Json = serde_json::from_str(content).map_err(|error| format!("this is not JSON: {error}"))?;
    text(&read, "Addr").map(str::to_owned).ok_or_else(|| "there is no \"Addr\" in it".to_owned())
}

/// The place that an address means.
fn place(address: &str) -> Result<Place, String> {
    let wrong = |why: &str| {
        Err(format!("the address {address:?} {why}: write unix:///run/NAME.sock or tcp://HOST:PORT"))
    };
    let Some((scheme, rest)) = address.split_once("://") else { return wrong("names no protocol") };
    match scheme.to_ascii_lowercase().as_str() {
        "unix" if rest.starts_with('/') => Ok(Place::Socket(PathBuf::from(rest))),
        "unix" => wrong("is no path from the root"),
        "tcp" | "http" => {
            let host = rest.split('/').next().unwrap_or_default();
            let port = host.rsplit(']').next().unwrap_or_default();
            match (host.is_empty(), port.contains(':')) {
                (true, _) => wrong("names no host"),
                (false, true) => Ok(Place::Network(host.to_owned())),
                (false, false) => Ok(Place::Network(format!("{host}:80"))),
            }
        }
        "https" => wrong("asks for TLS, which dvdcli does not speak here"),
        _ => wrong("is of an unknown protocol"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    struct Folders {
        all: tempfile::TempDir,
        places: Places,
    }

    impl Folders {
        fn new(ours: Option<&str>) -> Self {
            let all = tempfile::tempdir().unwrap();
            let at = |name: &str| all.path().join(name);
            let places =
                Places { ours: ours.map(at), sockets: at("run"), addresses: vec![at("etc"), at("lib")] };
            Self { all, places }
        }

        fn socket(&self, name: &str) -> Option<Place> {
            let path = self.all.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(UnixListener::bind(&path).unwrap());
            Some(Place::Socket(path))
        }

        fn file(&self, name: &str, content: &str) {
            let path = self.all.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn find(&self, driver: &str) -> Option<Place> {
            self.places.find(driver).unwrap()
        }
    }

    #[test]
    fn a_socket_wins_over_a_file_and_each_has_two_places() {
        let folders = Folders::new(None);
        assert_eq!(folders.find("x"), None);
        folders.file("lib/x.spec", "tcp://127.0.0.1:7000\n");
        assert_eq!(folders.find("x"), Some(Place::Network("127.0.0.1:7000".into())));
        folders.file("etc/x/x.json", r#"{"Name": "other", "addr": "unix:///run/x.sock"}"#);
        assert_eq!(folders.find("x"), Some(Place::Socket("/run/x.sock".into())));
        folders.file("etc/x.spec", "http://[::1]/");
        assert_eq!(folders.find("x"), Some(Place::Network("[::1]:80".into())));
        let inner = folders.socket("run/x/x.sock");
        assert_eq!(folders.find("x"), inner);
        // What is no socket is passed over.
        folders.file("run/x.sock", "");
        assert_eq!(folders.find("x"), inner);
        assert_eq!(folders.find("y"), None);
        assert!(folders.places.told("y").contains("run/y/y.sock, "), "{}", folders.places.told("y"));
    }

    #[test]
    fn our_own_socket_is_found_wherever_it_is() {
        let folders = Folders::new(Some("srv/kato.sock"));
        assert_eq!(folders.find("kato"), None);
        let docker = folders.socket("run/kato.sock");
        assert_eq!(folders.find("kato"), docker);
        let ours = folders.socket("srv/kato.sock");
        assert_eq!(folders.find("kato"), ours);
        assert_eq!(folders.find("srv"), None);

        let renamed = Folders::new(Some("srv/rexray.sock"));
        let ours = renamed.socket("srv/rexray.sock");
        assert_eq!((renamed.find("rexray"), renamed.find("kato")), (ours.clone(), ours));
        let other = renamed.socket("run/kato.sock");
        assert_eq!(renamed.find("kato"), other, "another daemon has the name");
    }

    #[test]
    fn an_address_that_leads_nowhere_is_told_with_its_file() {
        for (content, word) in [
            ("/run/x.sock", "no protocol"),
            ("unix://run/x.sock", "from the root"),
            ("tcp:///", "no host"),
            ("https://127.0.0.1:1", "TLS"),
            ("npipe:////./pipe/x", "unknown protocol"),
        ] {
            let folders = Folders::new(None);
            folders.file("etc/x.spec", content);
            let told = folders.places.find("x").unwrap_err();
            assert!(told.contains("etc/x.spec") && told.contains(word), "{told}");
        }
        let folders = Folders::new(None);
        folders.file("etc/x.json", "{}");
        assert!(folders.places.find("x").unwrap_err().contains("Addr"));
        assert!(folders.places.find("vendor/x:latest").unwrap_err().contains("managed"));
    }
}
