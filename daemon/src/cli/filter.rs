//! Filters of lists, the same words for each noun that has them: `key=value`, all of which have to hold.

use serde_json::Value as Json;

use super::{
    Failure,
    output::word,
    volume::{list, nodes},
};

/// What volumes are filtered by.
pub(super) const VOLUMES: &[&str] =
    &["state", "class", "backend", "node", "holder", "name", "label", "used", "all"];

/// What snapshots are filtered by.
pub(super) const SNAPSHOTS: &[&str] = &["state", "volume", "class", "backend", "name", "label"];

/// What classes are filtered by.
pub(super) const CLASSES: &[&str] = &["name", "backend", "fs", "default", "retain"];

/// What backends are filtered by.
pub(super) const BACKENDS: &[&str] = &["name", "usable", "plugin", "ability"];

/// What plugins are filtered by.
pub(super) const PLUGINS: &[&str] = &["name", "version", "origin", "used-by", "offers"];

/// What is yes or no.
const SWITCHES: &[&str] = &["used", "all", "default", "retain", "usable"];

/// What a thing has to be to be listed.
pub(super) struct Filter {
    key: String,
    value: String,
}

/// Those of a list that match all of these filters.
pub(super) fn only(mut things: Vec<Json>, words: &[String], keys: &[&str]) -> Result<Vec<Json>, Failure> {
    let filters = Filter::all(words, keys)?;
    things.retain(|thing| filters.iter().all(|filter| filter.admits(thing)));
    Ok(things)
}

impl Filter {
    /// Reads filters, of which these keys are known.
    pub(super) fn all(words: &[String], keys: &[&str]) -> Result<Vec<Self>, Failure> {
        words.iter().map(|text| Self::parse(text, keys)).collect()
    }

    fn parse(text: &str, keys: &[&str]) -> Result<Self, Failure> {
        match text.split_once('=') {
            Some((key, value)) if keys.contains(&key) => {
                if SWITCHES.contains(&key) && !matches!(value, "true" | "false") {
                    return Err(Failure::usage(format!("{key} is true or false, not {value:?}")));
                }
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(Failure::usage(format!("{text:?} is no filter"))
                .next(format!("write KEY=VALUE with one of {}", keys.join(", ")))),
        }
    }

    /// Whether a thing is so.
    pub(super) fn admits(&self, thing: &Json) -> bool {
        let value = self.value.as_str();
        match self.key.as_str() {
            "name" => glob(value, &word(thing, "name")),
            "node" => nodes(thing).iter().any(|node| node == value),
            "holder" => list(thing, "holders").any(|holder| word(holder, "holder").starts_with(value)),
            "used" => list(thing, "holders").next().is_some() == (value == "true"),
            "all" => value == "true",
            "plugin" => thing.get("plugin").is_some_and(|plugin| word(plugin, "name") == value),
            "ability" => thing.get("plugin").is_some_and(|plugin| has(plugin, "abilities", value)),
            "used-by" => has(thing, "used_by", value),
            "offers" => has(thing, "offers", value),
            "label" => {
                let (key, wanted) = match value.split_once('=') {
                    Some((key, wanted)) => (key, Some(wanted)),
                    None => (value, None),
                };
                let label = thing.get("labels").and_then(|labels| labels.get(key)).and_then(Json::as_str);
                label.is_some_and(|label| wanted.is_none_or(|wanted| label == wanted))
            }
            key => word(thing, key) == value,
        }
    }
}

fn has(thing: &Json, field: &str, value: &str) -> bool {
    list(thing, field).any(|one| one.as_str() == Some(value))
}

/// Whether a text is as a pattern says, in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else { return false };
    let Some(tail) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_find_what_they_say() {
        let volume = json!({
            "name": "web-db", "state": "ready", "labels": { "app": "web" },
            "holders": [{ "holder": "c0ffee" }], "mounts": [{ "node": "a" }],
        });
        for (text, admits) in [
            ("state=ready", true),
            ("state=creating", false),
            ("name=web-*", true),
            ("name=*d*", true),
            ("name=web", false),
            ("label=app", true),
            ("label=app=db", false),
            ("used=true", true),
            ("holder=c0f", true),
            ("node=b", false),
        ] {
            assert_eq!(Filter::parse(text, VOLUMES).unwrap().admits(&volume), admits, "{text}");
        }
        assert!(Filter::parse("stat=ready", VOLUMES).is_err());
        assert!(Filter::parse("used=maybe", VOLUMES).is_err());
        assert!(Filter::parse("used=true", SNAPSHOTS).is_err(), "nobody uses a snapshot");
    }

    #[test]
    fn what_is_configured_is_filtered_by_what_it_is() {
        let backend = json!({
            "name": "local", "usable": true,
            "plugin": { "name": "local", "abilities": ["grow", "snapshots"] },
        });
        let plugin =
            json!({ "name": "mine", "origin": "installed", "used_by": ["fast"], "offers": ["grow"] });
        let class = json!({ "name": "default", "fs": "ext4", "default": true, "retain": false });
        for (thing, keys, text, admits) in [
            (&backend, BACKENDS, "usable=true", true),
            (&backend, BACKENDS, "ability=grow", true),
            (&backend, BACKENDS, "ability=fence", false),
            (&backend, BACKENDS, "plugin=ebs", false),
            (&plugin, PLUGINS, "used-by=fast", true),
            (&plugin, PLUGINS, "offers=clone", false),
            (&plugin, PLUGINS, "origin=installed", true),
            (&class, CLASSES, "default=true", true),
            (&class, CLASSES, "retain=true", false),
            (&class, CLASSES, "fs=ext4", true),
        ] {
            assert_eq!(Filter::parse(text, keys).unwrap().admits(thing), admits, "{text}");
        }
        assert!(Filter::parse("usable=perhaps", BACKENDS).is_err());
        assert!(Filter::parse("state=ready", CLASSES).is_err(), "a class has no state");
    }

    #[test]
    fn patterns_stand_for_the_whole_name() {
        for (pattern, text, fits) in
            [("a*b*c", "a1b2c", true), ("a*b*c", "acb", false), ("*", "", true), ("ab*ba", "aba", false)]
        {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
