//! What Ceph's programs print, as values. Shapes are those of Pacific; what later releases add is passed over, and a
//! field that is missing and matters makes the whole answer unreadable, so that nothing is ever guessed.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::marks::Marks;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) size: u64,
    pub(crate) objects: u64,
    /// Those that were deleted and wait for their clones included.
    pub(crate) snapshots: u64,
    pub(crate) features: Vec<String>,
    pub(crate) data_pool: Option<String>,
    pub(crate) parent: Option<Parent>,
    /// Whether nobody wrote to it for longer than a minute after it was made.
    pub(crate) untouched: bool,
}

/// What a clone hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) pool: String,
    pub(crate) namespace: String,
    pub(crate) image: String,
    pub(crate) id: String,
    /// The snapshot's name, or another one since it was deleted.
    pub(crate) snapshot: String,
    /// Whether the image is in the trash.
    pub(crate) trash: bool,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// Whether it is one of ours, or anybody's: not one that was deleted, and none of a group or mirror.
    pub(crate) live: bool,
}

/// An image or a snapshot of one, in the list of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) image: String,
    pub(crate) id: String,
    pub(crate) snapshot: Option<String>,
}

/// An image in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trashed {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Whether the time is over that it is to be kept.
    pub(crate) over: bool,
}

/// Who has claimed an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) shared: bool,
    pub(crate) claims: Vec<Claim>,
}

/// A claim: the name of a rados lock's owner, and the node as its cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) locker: String,
    pub(crate) node: String,
}

impl Claims {
    pub(crate) fn has(&self, node: &str) -> bool {
        self.claims.iter().any(|claim| claim.node == node)
    }

    /// The other nodes.
    pub(crate) fn others(&self, node: &str) -> Vec<&str> {
        let mut others: Vec<_> =
            self.claims.iter().map(|claim| claim.node.as_str()).filter(|other| *other != node).collect();
        others.sort_unstable();
        others.dedup();
        others
    }
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) stored: u64,
    pub(crate) available: u64,
}

/// Which cluster it is, and the numbers of its pools: one that is made again under its name gets another.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) fsid: String,
    pub(crate) pools: BTreeMap<String, u64>,
}

/// Who opened an image, and what for is not told.
pub(crate) fn watchers(value: &Value) -> Option<Vec<String>> {
    value.get("watchers")?.as_array()?.iter().map(|one| Some(client(text(one, "address")?))).collect()
}

/// An address without the protocol that some releases put before it.
fn client(address: String) -> String {
    match address.split_once(':') {
        Some(("v1" | "v2" | "any", rest)) => rest.to_owned(),
        _ => address,
    }
}

pub(crate) fn image(value: &Value) -> Option<Image> {
    let stamp = |name| value.get(name).and_then(Value::as_str);
    let features = value.get("features")?.as_array()?;
    Some(Image {
        name: text(value, "name")?,
        id: text(value, "id")?,
        size: number(value, "size")?,
        objects: number(value, "objects")?,
        snapshots: number(value, "snapshot_count")?,
        features: features.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        data_pool: text(value, "data_pool"),
        parent: match value.get("parent") {
            None => None,
            Some(parent) => Some(Parent {
                pool: text(parent, "pool")?,
                namespace: text(parent, "pool_namespace").unwrap_or_default(),
                image: text(parent, "image")?,
                id: text(parent, "id")?,
                snapshot: text(parent, "snapshot")?,
                trash: parent.get("trash").and_then(Value::as_bool).unwrap_or(false),
            }),
        },
        untouched: stamp("modify_timestamp").is_some()
            && stamp("modify_timestamp") == stamp("create_timestamp"),
    })
}

pub(crate) fn cuts(value: &Value) -> Option<Vec<Cut>> {
    let cut = |one: &Value| {
        let kind = one.get("namespace").and_then(|namespace| namespace.get("type")).and_then(Value::as_str);
        Some(Cut {
            name: text(one, "name")?,
            size: number(one, "size")?,
            live: kind.is_none_or(|kind| kind == "user"),
        })
    };
    value.as_array()?.iter().map(cut).collect()
}

pub(crate) fn names(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

pub(crate) fn all(value: &Value) -> Option<Vec<Listed>> {
    let listed = |one: &Value| {
        Some(Listed { image: text(one, "image")?, id: text(one, "id")?, snapshot: text(one, "snapshot") })
    };
    value.as_array()?.iter().map(listed).collect()
}

pub(crate) fn trash(value: &Value) -> Option<Vec<Trashed>> {
    let trashed = |one: &Value| {
        let over =
            one.get("status").and_then(Value::as_str).is_some_and(|status| status.starts_with("expired"));
        Some(Trashed { id: text(one, "id")?, name: text(one, "name")?, over })
    };
    value.as_array()?.iter().map(trashed).collect()
}

pub(crate) fn claims(value: &Value) -> Option<Claims> {
    let claim = |one: &Value| Some(Claim { locker: text(one, "name")?, node: text(one, "cookie")? });
    Some(Claims {
        shared: value.get("type").and_then(Value::as_str) == Some("shared"),
        claims: value.get("lockers")?.as_array()?.iter().map(claim).collect::<Option<_>>()?,
    })
}

/// The metadata of an image that nobody can ask for, as there is none: nothing at all is printed then.
pub(crate) fn marks(value: &Value) -> Option<Marks> {
    let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    Some(Marks(value.as_object()?.iter().filter_map(pair).collect()))
}

/// The clients of the active mgr: it opens images itself, to flatten them for one.
pub(crate) fn mgr_clients(value: &Value) -> Option<Vec<String>> {
    let mut clients = Vec::new();
    for client in value.get("active_clients")?.as_array()? {
        for address in client.get("addrvec")?.as_array()? {
            clients.push(format!("{}/{}", text(address, "addr")?, number(address, "nonce")?));
        }
    }
    Some(clients)
}

/// Clients, and the moments at which they may come in again.
pub(crate) fn blocklisted(value: &Value) -> Option<Vec<(String, String)>> {
    value.as_array()?.iter().map(|entry| Some((text(entry, "addr")?, text(entry, "until")?))).collect()
}

pub(crate) fn map(value: &Value) -> Option<Map> {
    let pools = value.get("pools")?.as_array()?.iter();
    let pools =
        pools.map(|pool| Some((text(pool, "pool_name")?, number(pool, "pool")?))).collect::<Option<_>>()?;
    Some(Map { fsid: text(value, "fsid")?, pools })
}

/// How full the pool of this name is; the inner nothing where there is no such pool.
pub(crate) fn fill(value: &Value, pool: &str) -> Option<Option<Fill>> {
    let pools = value.get("pools")?.as_array()?;
    let Some(found) = pools.iter().find(|one| one.get("name").and_then(Value::as_str) == Some(pool)) else {
        return Some(None);
    };
    let stats = found.get("stats")?;
    let (stored, free) = (number(stats, "stored")?, number(stats, "max_avail")?);
    let available = match number(stats, "quota_bytes")? {
        0 => free,
        quota => free.min(quota.saturating_sub(stored)),
    };
    Some(Some(Fill { stored, available }))
}

/// The metadata in a dump of the keys and values of an image's header, which is how it is read of images in the trash.
///
/// ```text
/// metadata_kato.mark
/// value (15 bytes) :
/// 00000000  61 20 6d 61 72 6b 3a 20  78 20 3d 20 7b 31 7d     |a mark: x = {1}|
/// 0000000f
/// ```
pub(crate) fn dumped_marks(dump: &str) -> Marks {
    let mut marks: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut key: Option<String> = None;
    let mut last = "";
    for line in dump.lines() {
        if line.starts_with("value (") {
            key = last.strip_prefix("metadata_").map(str::to_owned);
        } else if let (Some(key), Some(bytes)) = (&key, row(line)) {
            marks.entry(key.clone()).or_default().extend(bytes);
        }
        last = line;
    }
    Marks(marks.into_iter().filter_map(|(key, value)| Some((key, String::from_utf8(value).ok()?))).collect())
}

/// The bytes of one row of a dump.
fn row(line: &str) -> Option<Vec<u8>> {
    let (hex, _) = line.split_once('|')?;
    let mut words = hex.split_whitespace();
    let offset = words.next()?;
    if offset.len() < 8 {
        return None;
    }
    words.map(|word| u8::from_str_radix(word, 16).ok()).collect()
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name)?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_image_and_its_parent_are_read() {
        let value = read(
            r#"{"name":"zz-b","id":"114740ec2b03","size":4194304,"objects":1,"order":22,"object_size":4194304,
            "snapshot_count":0,"block_name_prefix":"rbd_data.114740ec2b03","format":2,"features":["layering",
            "operations"],"op_features":["clone-child"],"flags":[],"create_timestamp":"Thu Nov 26 10:41:10 2026",
            "access_timestamp":"Thu Nov 26 10:41:10 2026","modify_timestamp":"Thu Nov 26 10:41:10 2026","parent":
            {"pool":"rbd","pool_namespace":"","image":"zz-a","id":"11334aa6e0d9","snapshot":"kato-s1","trash":true,
            "overlap":4194304}}"#,
        );
        let image = image(&value).unwrap();
        assert_eq!((image.id.as_str(), image.size, image.untouched), ("114740ec2b03", 4 << 20, true));
        let parent = image.parent.unwrap();
        assert_eq!(
            (parent.id.as_str(), parent.snapshot.as_str(), parent.trash),
            ("11334aa6e0d9", "kato-s1", true)
        );
        assert_eq!(super::image(&read(r#"{"name":"x"}"#)), None);
    }

    #[test]
    fn snapshots_that_were_deleted_are_told_apart() {
        let cuts = cuts(&read(
            r#"[{"id":5,"name":"f5d06962","size":4194304,"protected":"false","timestamp":"x","namespace":
            {"type":"trash","original_name":"kato-s1"}},{"id":6,"name":"kato-s2","size":1,"protected":"false",
            "timestamp":"x","namespace":{"type":"user"}},{"id":7,"name":"kato-s3","size":1,"protected":"false"}]"#,
        ))
        .unwrap();
        assert_eq!(cuts.iter().map(|cut| cut.live).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn watchers_and_the_mgrs_clients_are_spelt_alike() {
        let status = read(r#"{"watchers":[{"address":"127.0.0.1:0/3686511880","client":4589,"cookie":1}]}"#);
        let mgr = read(
            r#"{"active_clients":[{"name":"rbd_support","addrvec":[{"type":"v2","addr":"127.0.0.1:0",
            "nonce":3686511880}]}]}"#,
        );
        assert_eq!(watchers(&status), mgr_clients(&mgr));
        let newer = read(r#"{"watchers":[{"address":"v1:[::1]:0/12","client":1,"cookie":1}]}"#);
        assert_eq!(watchers(&newer).unwrap(), ["[::1]:0/12"]);
    }

    #[test]
    fn the_quota_limits_what_is_available() {
        let df = |quota: u64| {
            read(&format!(
                r#"{{"pools":[{{"name":"rbd","id":2,"stats":{{"stored":200,"max_avail":1000,"quota_bytes":{quota}}}}}]}}"#
            ))
        };
        let available = |quota| fill(&df(quota), "rbd").unwrap().unwrap().available;
        assert_eq!((available(0), available(500), available(100)), (1000, 300, 0));
        assert_eq!(fill(&df(0), "other"), Some(None));
    }

    #[test]
    fn metadata_is_read_from_a_dump() {
        let dump = "features\nvalue (8 bytes) :\n00000000  3d 01 00 00 00 00 00 00                           |=.......|\n\
                    00000008\n\nmetadata_kato.mark\nvalue (17 bytes) :\n\
                    00000000  61 20 6d 61 72 6b 3a 20  78 20 3d 20 7b 31 7d 7c  |a mark: x = {1}||\n\
                    00000010  61                                                |a|\n00000011\n\nmetadata_empty\n\
                    value (0 bytes) :\n\nsize\nvalue (8 bytes) :\n\
                    00000000  00 00 40 00 00 00 00 00                           |..@.....|\n00000008\n\n";
        let marks = dumped_marks(dump);
        assert_eq!(marks.0.get("kato.mark").map(String::as_str), Some("a mark: x = {1}|a"));
        assert_eq!(marks.0.len(), 1);
    }

    #[test]
    fn what_is_over_in_the_trash_is_told() {
        let trash = trash(&read(
            r#"[{"id":"1","name":"a","source":"USER","deleted_at":"x","status":"expired at Thu Nov 26 10:41:11 2026"},
            {"id":"2","name":"b","source":"USER","deleted_at":"x","status":"protected until Thu Dec 31 23:59:59 2026"}]"#,
        ))
        .unwrap();
        assert_eq!(trash.iter().map(|one| one.over).collect::<Vec<_>>(), [true, false]);
    }
}
