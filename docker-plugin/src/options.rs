//! What `docker volume create -o key=value` may say. Every option is known or refused: a word that is silently
//! dropped would leave somebody with a volume that is not what they asked for.
//!
//! | option | means |
//! | --- | --- |
//! | `size` | `10GiB`, `512MiB`; a bare number below 65536 counts gibibytes, as REX-Ray's users write it, a larger one bytes |
//! | `class` | the recipe |
//! | `fs` | `ext4` or `xfs` (REX-Ray: `newFsType`, `fsType`) |
//! | `mode`, `uid`, `gid` | owner and mode of what the container gets, set once |
//! | `root` | the directory that the container gets; `/` for the whole filesystem |
//! | `from` | `snapshot:NAME` or `volume:NAME` (REX-Ray: `snapshotName`) |
//! | `label`, `label.x` | `label=x=y` or `label.x=y` |
//! | `param.x`, or `x` | a parameter that the class's backend declares |
//!
//! Keys are compared without regard to case, `-` and `_`.

use std::collections::BTreeMap;

use kato_orchestrator::{
    Catalog, Error,
    model::{Bytes, CapacityRange, ClassName, DataRoot, FsType, SnapshotName, VolumeName},
    ops::{CreateVolume, SourceName},
};

/// The words that mean the same on every backend.
const WORDS: [&str; 9] = ["size", "class", "fs", "mode", "uid", "gid", "root", "from", "label"];

/// REX-Ray's words for them.
const ALIASES: [(&str, &str); 5] = [
    ("newfstype", "fs"),
    ("fstype", "fs"),
    ("snapshotname", "snapshot"),
    ("snapshot", "snapshot"),
    ("overwritefs", "overwritefs"),
];

/// REX-Ray's words for parameters that backends call otherwise.
const PARAMETER_ALIASES: [(&str, &str); 3] =
    [("volumetype", "type"), ("availabilityzone", "zone"), ("zone", "availabilityzone")];

/// Below this a bare number counts gibibytes.
const GIBIBYTES_BELOW: u64 = 65_536;

/// Reads options into a wish.
pub(crate) fn read(
    name: VolumeName,
    options: &BTreeMap<String, String>,
    catalog: &Catalog,
) -> Result<CreateVolume, Error> {
    let mut wish = CreateVolume::named(name);
    wish.exact = !options.is_empty();
    let mut given: BTreeMap<String, &str> = BTreeMap::new();
    let mut others = Vec::new();
    for (key, value) in options {
        let plain = plain(key);
        let word = ALIASES.iter().find(|(alias, _)| *alias == plain).map_or(plain.as_str(), |(_, word)| word);
        let meaning = if word == "snapshot" { "from" } else { word };
        if let Some(label) = prefixed(key, "label.") {
            add_label(&mut wish, label, value)?;
            continue;
        }
        if !WORDS.contains(&meaning) && meaning != "overwritefs" {
            others.push((key, value));
            continue;
        }
        if let Some(before) = given.insert(meaning.to_owned(), key) {
            return Err(Error::invalid(format!(
                "the options \"{before}\" and \"{key}\" mean the same: give one of them"
            )));
        }
        set(&mut wish, word, value).map_err(|error| in_option(key, error))?;
    }
    if !others.is_empty() {
        let declared = declared(&wish, catalog)?;
        for (key, value) in others {
            let parameter = find(key, &declared).ok_or_else(|| unknown(key, &declared))?;
            if wish.parameters.insert(parameter.clone(), value.clone()).is_some() {
                return Err(Error::invalid(format!(
                    "the option \"{key}\" sets the parameter \"{parameter}\", which another option sets as well"
                )));
            }
        }
    }
    Ok(wish)
}

fn set(wish: &mut CreateVolume, word: &str, value: &str) -> Result<(), Error> {
    match word {
        "size" => wish.size = CapacityRange::at_least(size(value)?),
        "class" => wish.class = Some(ClassName::parse(value)?),
        "fs" => wish.fs = Some(FsType::parse(value)?),
        "mode" => wish.root.mode = Some(mode(value)?),
        "uid" => wish.root.uid = Some(id(value)?),
        "gid" => wish.root.gid = Some(id(value)?),
        "root" => wish.root.directory = Some(root(value)?),
        "from" => wish.source = Some(source(value)?),
        "snapshot" => wish.source = Some(SourceName::Snapshot(SnapshotName::parse(value)?.into())),
        "label" => {
            let (key, value) = value.split_once('=').unwrap_or((value, ""));
            add_label(wish, key, value)?;
        }
        "overwritefs" => {
            if value != "false" {
                return Err(Error::invalid(
                    "a filesystem that is there is never made anew: delete the volume and create it again",
                ));
            }
        }
        _ => return Err(Error::internal(format!("the option {word:?} has no meaning"))),
    }
    Ok(())
}

fn in_option(key: &str, error: Error) -> Error {
    error.about(format!("option \"{key}\""))
}

fn size(text: &str) -> Result<Bytes, Error> {
    let text = text.trim();
    match text.parse::<u64>() {
        Ok(number @ 1..GIBIBYTES_BELOW) if !text.starts_with('+') => Bytes::parse(&format!("{number}GiB")),
        _ => Bytes::parse(text),
    }
}

fn mode(text: &str) -> Result<u32, Error> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let right = !digits.is_empty() && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    u32::from_str_radix(digits, 8).ok().filter(|mode| right && *mode <= 0o7777).ok_or_else(|| {
        Error::invalid(format!("the mode {text:?} is not an octal number: write for example 0755"))
    })
}

fn id(text: &str) -> Result<u32, Error> {
    text.parse().ok().filter(|_| text.bytes().all(|digit| digit.is_ascii_digit())).ok_or_else(|| {
        Error::invalid(format!(
            "the owner {text:?} is not a number: names differ between host and container, so give the number, \
             for example 1000"
        ))
    })
}

fn root(text: &str) -> Result<String, Error> {
    if matches!(text, "" | "/") {
        return Ok("/".into());
    }
    let text = text.strip_prefix('/').unwrap_or(text);
    DataRoot::check_directory(text)?;
    Ok(text.to_owned())
}

fn source(text: &str) -> Result<SourceName, Error> {
    match text.split_once(':') {
        Some(("snapshot", name)) => Ok(SourceName::Snapshot(SnapshotName::parse(name)?.into())),
        Some(("volume", name)) => Ok(SourceName::Volume(VolumeName::parse(name)?.into())),
        _ => Err(Error::invalid(format!("{text:?} is no source: write snapshot:NAME or volume:NAME"))),
    }
}

fn add_label(wish: &mut CreateVolume, key: &str, value: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid("a label has no name: write label=NAME=VALUE or label.NAME=VALUE"));
    }
    match wish.labels.insert(key.to_owned(), value.to_owned()) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("the label \"{key}\" is given twice: give it once"))),
    }
}

/// What the backend of the wished class declares. A copy without a class gets its source's, which only the
/// hall knows: then it is what any backend declares, and the hall refuses the rest.
fn declared(wish: &CreateVolume, catalog: &Catalog) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = if wish.source.is_some() && wish.class.is_none() {
        catalog
            .backends
            .values()
            .flat_map(|backend| backend.describe().parameters)
            .map(|it| it.name)
            .collect()
    } else {
        let class = catalog.class(wish.class.as_ref())?;
        catalog.backend(&class.backend)?.describe().parameters.into_iter().map(|it| it.name).collect()
    };
    names.sort();
    names.dedup();
    Ok(names)
}

fn find<'a>(key: &str, declared: &'a [String]) -> Option<&'a String> {
    let key = plain(prefixed(key, "param.").unwrap_or(key));
    let by = |wanted: &str| declared.iter().find(|name| plain(name) == wanted);
    by(&key).or_else(|| {
        PARAMETER_ALIASES.iter().filter(|(alias, _)| *alias == key).find_map(|(_, wanted)| by(wanted))
    })
}

fn unknown(key: &str, declared: &[String]) -> Error {
    let allowed: Vec<&str> = WORDS.into_iter().chain(declared.iter().map(String::as_str)).collect();
    let wanted = plain(prefixed(key, "param.").unwrap_or(key));
    let nearest = allowed
        .iter()
        .map(|word| (distance(&wanted, &plain(word)), word))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2.max(wanted.len() / 3));
    let guess = nearest.map_or_else(String::new, |(_, word)| format!(", did you mean \"{word}\"?"));
    Error::invalid(format!(
        "the option \"{key}\" is unknown{guess}{} the options are {}",
        if guess.is_empty() { ":" } else { "" },
        allowed.join(", ")
    ))
}

fn prefixed<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = key.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

/// A key as it is compared.
fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for ((to, above), corner) in b.iter().zip(row.iter().skip(1)).zip(row.iter()) {
            left = (corner + usize::from(from != *to)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[(&str, &str)]) -> Result<CreateVolume, Error> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        read(VolumeName::parse("db").unwrap(), &options, &Catalog::default())
    }

    #[test]
    fn sizes_read_as_docker_and_rexray_users_write_them() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("10", 10 << 30),
            ("65535", 65_535 << 30),
            ("65536", 65_536),
            ("1073741824", 1 << 30),
            ("512MiB", 512 << 20),
        ] {
            assert_eq!(with(&[("size", text)]).unwrap().size.required, Bytes(bytes), "{text}");
        }
        for text in ["0", "", "ten", "-5", "+5", "5e3"] {
            let error = with(&[("size", text)]).unwrap_err();
            assert!(error.to_string().contains("option \"size\""), "{text}: {error}");
        }
    }

    #[test]
    fn modes_and_owners_are_numbers() {
        for (text, mode) in [("0755", 0o755), ("755", 0o755), ("0o1777", 0o1777), ("0", 0)] {
            assert_eq!(with(&[("mode", text)]).unwrap().root.mode, Some(mode), "{text}");
        }
        for (key, text) in [
            ("mode", "0855"),
            ("mode", "rwx"),
            ("mode", "+755"),
            ("mode", "77777"),
            ("mode", ""),
            ("uid", "root"),
            ("uid", "-1"),
            ("uid", "+1"),
            ("gid", "4294967296"),
            ("gid", ""),
        ] {
            assert!(with(&[(key, text)]).is_err(), "{key}={text}");
        }
        let wish = with(&[("uid", "1000"), ("gid", "4294967295")]).unwrap();
        assert_eq!((wish.root.uid, wish.root.gid), (Some(1000), Some(u32::MAX)));
    }

    #[test]
    fn roots_stay_inside_of_the_volume() {
        for (text, root) in [("/", "/"), ("", "/"), ("data", "data"), ("/data", "data")] {
            assert_eq!(with(&[("root", text)]).unwrap().root.directory.as_deref(), Some(root), "{text}");
        }
        for text in ["..", "a/../b", "a//b", ".", "a/", "a\0b", "pg/data"] {
            assert!(with(&[("root", text)]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sources_are_snapshots_or_volumes_by_name() {
        let snapshot = SourceName::Snapshot(SnapshotName::parse("a:b").unwrap().into());
        assert_eq!(with(&[("from", "snapshot:a:b")]).unwrap().source, Some(snapshot.clone()));
        assert_eq!(with(&[("snapshotName", "a:b")]).unwrap().source, Some(snapshot));
        let volume = SourceName::Volume(VolumeName::parse("a").unwrap().into());
        assert_eq!(with(&[("from", "volume:a")]).unwrap().source, Some(volume));
        for text in ["a", "snapshot:", "disk:a", ""] {
            assert!(with(&[("from", text)]).is_err(), "{text}");
        }
        assert!(with(&[("from", "volume:a"), ("snapshot", "b")]).is_err());
    }

    #[test]
    fn labels_come_in_two_spellings() {
        let wish = with(&[("label", "env=prod=x"), ("label.Team", "db")]).unwrap();
        assert_eq!(wish.labels["env"], "prod=x");
        assert_eq!(wish.labels["Team"], "db");
        assert!(with(&[("label", "a=1"), ("label.a", "2")]).is_err());
        assert!(with(&[("label", "=1")]).is_err());
        assert!(with(&[("label.", "1")]).is_err());
    }

    #[test]
    fn rexray_words_mean_what_they_meant() {
        let wish = with(&[("newFsType", "xfs"), ("overwriteFs", "false"), ("Size", "16")]).unwrap();
        assert_eq!((wish.fs, wish.size.required), (Some(FsType::Xfs), Bytes(16 << 30)));
        assert!(with(&[("overwriteFs", "true")]).is_err());
        assert!(with(&[("newFsType", "xfs"), ("fs", "xfs")]).is_err());
    }

    #[test]
    fn a_wish_is_exact_only_when_something_is_said() {
        assert!(!with(&[]).unwrap().exact);
        assert!(with(&[("size", "1")]).unwrap().exact);
    }

    #[test]
    fn parameters_are_found_by_their_name_in_any_spelling() {
        let declared = ["availability-zone", "iops", "type"].map(String::from);
        for (key, name) in [
            ("iops", "iops"),
            ("IOPS", "iops"),
            ("param.iops", "iops"),
            ("volumeType", "type"),
            ("volumetype", "type"),
            ("availabilityZone", "availability-zone"),
            ("zone", "availability-zone"),
        ] {
            assert_eq!(find(key, &declared).map(String::as_str), Some(name), "{key}");
        }
        assert_eq!(find("iop", &declared), None);
        assert_eq!(find("param.", &declared), None);
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_and_all() {
        let words = unknown("sise", &["iops".into()]).to_string();
        assert!(words.contains("\"sise\" is unknown, did you mean \"size\"?"), "{words}");
        assert!(words.contains("size, class, fs") && words.ends_with("iops"), "{words}");
        let words = unknown("tenancy-model", &[]).to_string();
        assert!(words.contains("\"tenancy-model\" is unknown: the options"), "{words}");
        assert!(unknown("param.iop", &["iops".into()]).to_string().contains("\"iops\"?"));
    }

    #[test]
    fn distances_count_letters() {
        for (a, b, letters) in [("", "", 0), ("size", "sise", 1), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), letters, "{a} {b}");
        }
    }
}
