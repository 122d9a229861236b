//! What a test asks of a cluster's pool, and does to it, behind the back of whom it tests: which images, snapshots and
//! watchers there are, who is kept out. Everything is asked as the administrator, who sees also what a user has put
//! away. An answer that cannot be had ends the test.

use serde_json::Value;

use super::{Cluster, POOL};

impl Cluster<'_> {
    /// What `rbd` answers when it is asked for JSON.
    pub fn rbd_json(&self, words: &[&str]) -> Result<Value, String> {
        parsed(&self.rbd(&[words, &["--format", "json"]].concat())?)
    }

    /// What `ceph` answers when it is asked for JSON.
    pub fn ceph_json(&self, words: &[&str]) -> Result<Value, String> {
        parsed(&self.ceph(&[words, &["--format", "json"]].concat())?)
    }

    /// The images of the pool, by name.
    #[must_use]
    pub fn images(&self) -> Vec<String> {
        self.images_in(POOL)
    }

    /// The images of another pool, or of a namespace as `kato/name`.
    #[must_use]
    pub fn images_in(&self, pool: &str) -> Vec<String> {
        let images = self.rbd_json(&["ls", pool]).unwrap();
        each(&images).map(text).collect()
    }

    /// The images that were put into the pool's trash, by the names that they had.
    #[must_use]
    pub fn trash(&self) -> Vec<String> {
        let images = self.rbd_json(&["trash", "ls", "--all", POOL]).unwrap();
        each(&images).map(|image| text(&image["name"])).collect()
    }

    /// All snapshots of the pool, as `image@snapshot`. One that was removed and is still there for the sake of its
    /// copies is `image@(snapshot)`.
    #[must_use]
    pub fn snapshots(&self) -> Vec<String> {
        let of = |image: String| {
            let snapshots = self.rbd_json(&["snap", "ls", "--all", &image]).unwrap();
            let shown = |snapshot: &Value| {
                let of = &snapshot["namespace"];
                match of["type"].as_str() {
                    Some("user") => format!("{image}@{}", text(&snapshot["name"])),
                    _ => format!("{image}@({})", of["original_name"].as_str().unwrap_or("?")),
                }
            };
            each(&snapshots).map(shown).collect::<Vec<_>>()
        };
        self.images().into_iter().flat_map(of).collect()
    }

    /// The addresses of who has an image open, as `127.0.0.1:0/NUMBER`.
    #[must_use]
    pub fn watchers(&self, image: &str) -> Vec<String> {
        let status = self.rbd_json(&["status", image]).unwrap();
        each(&status["watchers"]).map(|watcher| text(&watcher["address"])).collect()
    }

    /// The addresses that are kept out.
    #[must_use]
    pub fn blocklist(&self) -> Vec<String> {
        let entries = self.ceph_json(&["osd", "blocklist", "ls"]).unwrap();
        each(&entries).map(|entry| text(&entry["addr"])).collect()
    }

    /// Does something with an image as librbd's own language has it, where `image` is the image: what it printed.
    pub fn touch(&self, namespace: &str, image: &str, line: &str) -> String {
        self.python(&self.script(namespace, image, line)).unwrap()
    }

    /// The program that does it. It closes the image when it is asked to end.
    pub fn script(&self, namespace: &str, image: &str, line: &str) -> String {
        format!(
            "import rados, rbd, signal, sys, time\n\
             signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n\
             with rados.Rados(conffile='{conf}', rados_id='admin', conf=dict(keyring='{keyring}')) as cluster:\n \
             with cluster.open_ioctx('{POOL}') as pool:\n  pool.set_namespace('{namespace}')\n  \
             with rbd.Image(pool, '{image}') as image:\n   {line}\n",
            conf = self.conf().display(),
            keyring = self.admin().keyring().display(),
        )
    }

    /// What is in a namespace: images, what was put away of them, and snapshots.
    #[must_use]
    pub fn left_in(&self, namespace: &str) -> Vec<String> {
        let place = format!("{POOL}/{namespace}");
        let put_away = self.rbd_json(&["trash", "ls", "--all", &place]).unwrap();
        let mut left: Vec<String> = each(&put_away).map(|image| text(&image["name"])).collect();
        for image in self.images_in(&place) {
            let snapshots = self.rbd_json(&["snap", "ls", "--all", &format!("{place}/{image}")]).unwrap();
            left.extend(each(&snapshots).map(|snapshot| format!("{image}@{}", text(&snapshot["name"]))));
            left.push(image);
        }
        left
    }

    /// Makes another pool. The user may not use it.
    pub fn create_pool(&self, name: &str) {
        self.ceph(&["osd", "pool", "create", name]).unwrap();
        self.rbd(&["pool", "init", name]).unwrap();
    }

    /// Makes a namespace in the pool.
    pub fn create_namespace(&self, name: &str) {
        self.rbd(&["namespace", "create", &format!("{POOL}/{name}")]).unwrap();
    }

    /// Limits how many bytes a pool takes; 0 for no limit. Whether it is reached is compared only every few seconds.
    pub fn set_quota(&self, pool: &str, bytes: u64) {
        self.ceph(&["osd", "pool", "set-quota", pool, "max_bytes", &bytes.to_string()]).unwrap();
    }
}

/// The first value: `ceph osd blocklist ls` says a second one, which is empty.
fn parsed(text: &str) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    values.next().unwrap_or(Ok(Value::Null)).map_err(|error| format!("{error}: {text}"))
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().unwrap_or_else(|| panic!("{list} is not a list")).iter()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}
