//! What is written on volumes and snapshots, and whose they are.
//!
//! ```text
//! kato-token    the creation token: by it a thing is found whose id nobody heard
//! kato-mark     what the host wrote
//! kato-cluster, kato-class, kato-id, Name    for people and for the bill; nothing here reads them
//! ```
//!
//! Tags are copied by other people's tools, backups for one. So a snapshot is ours only with its token in the description
//! as well, and a volume is deleted by its token alone only while no other carries it.

use kato_plugin_sdk::types::{Error, Which};

use crate::error;

pub(crate) const TOKEN: &str = "kato-token";
pub(crate) const MARK: &str = "kato-mark";
/// The longest name that a tag takes.
const LONGEST: usize = 255;

/// Whether this is an id of EC2's: `vol-0123abcd`.
pub(crate) fn is_id(text: &str, kind: &str) -> bool {
    text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| {
        (1..=32).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The id in a handle.
pub(crate) fn id<'a>(which: &'a Which, kind: &str, what: &str) -> Result<Option<&'a str>, Error> {
    match which.handle.as_deref() {
        Some(handle) if !is_id(handle, kind) => Err(error::not_the_tokens(what, handle, &which.token)),
        handle => Ok(handle),
    }
}

/// The tags of a thing that is made. `more` are the operator's and the class's; ours come first and win.
pub(crate) fn of(token: &str, mark: &str, name: &str, more: &[(String, String)]) -> Vec<(String, String)> {
    let mut tags = vec![(TOKEN.to_owned(), token.to_owned())];
    if !mark.is_empty() {
        tags.push((MARK.to_owned(), mark.to_owned()));
    }
    if !name.is_empty() {
        tags.push(("Name".to_owned(), name.chars().take(LONGEST).collect()));
    }
    let mut words = mark.split(':');
    let (kind, cluster, id) = (words.next(), words.next(), words.next());
    let class = match kind {
        Some("k1" | "s1" | "m1") => words.nth(3),
        _ => None,
    };
    if let (Some(cluster), Some(id), Some(class)) = (cluster, id, class) {
        for (key, value) in [("kato-cluster", cluster), ("kato-id", id), ("kato-class", class)] {
            tags.push((key.to_owned(), value.to_owned()));
        }
    }
    for (key, value) in more {
        if !tags.iter().any(|(known, _)| known == key) {
            tags.push((key.clone(), value.clone()));
        }
    }
    tags
}

/// `team=blue,cost=7` as tags; what is wrong with them otherwise.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut tags = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
            return Err(format!("{part:?} is no tag: write name=value, and commas between them"));
        };
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(format!("{part:?} is no tag: a name has 1 to 128 letters, a value at most 256"));
        }
        if key.starts_with("kato-") || key.to_ascii_lowercase().starts_with("aws:") || key == "Name" {
            return Err(format!("the tag {key:?} is not for you to set"));
        }
        tags.push((key.to_owned(), value.to_owned()));
    }
    if tags.len() > 40 {
        return Err(format!("{} tags are too many: EC2 takes 50, and some are ours", tags.len()));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_words() {
        assert!(is_id("vol-0123abcd", "vol") && is_id("i-0f", "i"));
        for text in [
            "",
            "vol",
            "vol-",
            "vol-0g",
            "vol-0A",
            "vol-01/",
            "snap-01",
            "i-01",
            &format!("vol-{}", "0".repeat(33)),
        ] {
            assert!(!is_id(text, "vol"), "{text}");
        }
    }

    #[test]
    fn a_mark_names_cluster_and_class() {
        let tags = of("kato-a", "k1:c0:v7:2:ext4:B:fast:data:00", "data", &[("Name".into(), "x".into())]);
        let find = |key: &str| tags.iter().find(|tag| tag.0 == key).map(|tag| tag.1.as_str());
        assert_eq!(
            (find("kato-cluster"), find("kato-id"), find("kato-class")),
            (Some("c0"), Some("v7"), Some("fast"))
        );
        assert_eq!((find(TOKEN), find("Name"), tags.len()), (Some("kato-a"), Some("data"), 6));
        let tags = of("kato-a", "s1:c0:s7:v7:2:ext4:fast:data:00", "", &[]);
        assert_eq!(tags.len(), 5);
        assert_eq!(of("kato-a", "mark", "", &[]).len(), 2);
    }

    #[test]
    fn tags_of_the_operators_are_read() {
        assert_eq!(parse("a=1, b = 2,").unwrap(), [("a".into(), "1".into()), ("b".into(), "2".into())]);
        for text in ["a", "=1", "kato-token=x", "Name=x", "AWS:x=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
