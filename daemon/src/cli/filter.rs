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
pub(super) const CLASSES: &[&str] = &["name", "backend", "fs", "default"];

/// What backends are filtered by.
pub(super) const BACKENDS: &[&str] = &["name", "plugin", "ability", "usable"];

/// What plugins are filtered by.
pub(super) const PLUGINS: &[&str] = &["name", "origin", "version", "offers", "used-by", "used"];

/// What is either so or not.
const FLAGS: &[&str] = &["used", "all", "default", "usable"];

/// What a thing has to be to be listed.
pub(super) struct Filter {
    key: String,
    value: String,
}

impl Filter {
    /// Reads filters, of which these keys are known.
    pub(super) fn all(words: &[String], keys: &[&str]) -> Result<Vec<Self>, Failure> {
        words.iter().map(|text| Self::parse(text, keys)).collect()
    }

    fn parse(text: &str, keys: &[&str]) -> Result<Self, Failure> {
        match text.split_once('=') {
            Some((key, value)) if keys.contains(&key) => {
                if FLAGS.contains(&key) && !matches!(value, "true" | "false") {
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
            // Volumes are used by who holds them, plugins by the backends that are made of them.
            "used" => {
                let users = list(thing, "holders").chain(list(thing, "used_by")).next();
                users.is_some() == (value == "true")
            }
            "used-by" => list(thing, "used_by").any(|user| user == value),
            "offers" => list(thing, "offers").any(|ability| ability == value),
            "plugin" => thing.get("plugin").is_some_and(|plugin| word(plugin, "name") == value),
            "ability" => thing
                .get("plugin")
                .is_some_and(|plugin| list(plugin, "abilities").any(|ability| ability == value)),
            "all" => value == "true",
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
    fn recipes_backends_and_plugins_are_found_by_what_they_are() {
        let class = json!({ "name": "fast", "backend": "cloud", "fs": "xfs", "default": false });
        let backend = json!({
            "name": "cloud", "usable": true,
            "plugin": { "name": "ebs", "abilities": ["grow", "snapshots"] },
        });
        let plugin =
            json!({ "name": "ebs", "origin": "installed", "offers": ["grow"], "used_by": ["cloud"] });
        for (text, keys, thing, admits) in [
            ("default=false", CLASSES, &class, true),
            ("default=true", CLASSES, &class, false),
            ("backend=cloud", CLASSES, &class, true),
            ("plugin=ebs", BACKENDS, &backend, true),
            ("plugin=ceph", BACKENDS, &backend, false),
            ("ability=grow", BACKENDS, &backend, true),
            ("ability=clone", BACKENDS, &backend, false),
            ("usable=false", BACKENDS, &backend, false),
            ("used-by=cloud", PLUGINS, &plugin, true),
            ("used-by=local", PLUGINS, &plugin, false),
            ("used=true", PLUGINS, &plugin, true),
            ("offers=clone", PLUGINS, &plugin, false),
        ] {
            assert_eq!(Filter::parse(text, keys).unwrap().admits(thing), admits, "{text}");
        }
        assert!(Filter::parse("usable=maybe", BACKENDS).is_err());
        assert!(Filter::parse("state=ready", CLASSES).is_err());
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
