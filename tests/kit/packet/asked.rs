//! What a request says, wherever it says it: clients put the same parameter into the body, as JSON or as a form, or into
//! the query, and numbers and flags as texts. An answer's shape is asked for by `include` and `exclude`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::Refusal;
use crate::http::{Request, pairs};

/// The parameters of a call.
#[derive(Debug, Default)]
pub(super) struct Asked(Map<String, Value>);

impl Asked {
    pub(super) fn of(request: &Request) -> Result<Self, Refusal> {
        let of_form = |form: &str| pairs(form).into_iter().map(|(name, value)| (name, Value::String(value)));
        let mut all: Map<_, _> = of_form(&request.query).collect();
        let form = request.header("content-type").is_some_and(|kind| kind.contains("form-urlencoded"));
        if form {
            all.extend(of_form(&String::from_utf8_lossy(&request.body)));
        } else if !request.body.iter().all(u8::is_ascii_whitespace) {
            let body = serde_json::from_slice(&request.body)
                .map_err(|_| Refusal::new(400, "The body of the request is not JSON"))?;
            match body {
                Value::Object(body) => all.extend(body),
                Value::Null => {}
                _ => return Err(Refusal::new(400, "The body of the request is not an object")),
            }
        }
        // What is empty is not said.
        all.retain(|_, value| !value.is_null());
        Ok(Self(all))
    }

    /// One that says this and nothing else.
    pub(super) fn saying(name: &str, value: &str) -> Self {
        Self(Map::from_iter([(name.to_owned(), value.into())]))
    }

    /// The first of these that is said.
    pub(super) fn text(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.0.get(*name)?.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
        number.map(Some).ok_or_else(|| Refusal::wrong(format!("{name} is not a number")))
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        match (value.as_bool(), value.as_str()) {
            (Some(flag), _) => Ok(Some(flag)),
            (_, Some("true" | "1")) => Ok(Some(true)),
            (_, Some("false" | "0" | "")) => Ok(Some(false)),
            _ => Err(Refusal::wrong(format!("{name} is neither true nor false"))),
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The objects of a list, or the only one where there is no list.
    pub(super) fn each(&self, name: &str) -> Result<Vec<Self>, Refusal> {
        let object = |value: &Value| match value {
            Value::Object(object) => {
                let said = object.iter().filter(|(_, value)| !value.is_null());
                Ok(Self(said.map(|(name, value)| (name.clone(), value.clone())).collect()))
            }
            _ => Err(Refusal::wrong(format!("{name} is not an object"))),
        };
        match self.0.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(object).collect(),
            Some(value) => Ok(vec![object(value)?]),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        let names = |name: &str| {
            let listed = self.text(&[name]).unwrap_or_default().split(',');
            listed.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Shape { include: names("include"), exclude: names("exclude") }
    }
}

/// Which references are to be told in full. Names that nobody knows are passed over.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    include: BTreeSet<String>,
    exclude: BTreeSet<String>,
}

impl Shape {
    /// Whether this is to be told in full; by itself it is not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.include
            .iter()
            .any(|it| it == name || it.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The same of what is told in full by itself.
    pub(super) fn keeps(&self, name: &str) -> bool {
        !self.exclude.contains(name)
    }

    /// What is asked of the insides of this.
    pub(super) fn within(&self, name: &str) -> Self {
        let inner = |names: &BTreeSet<String>| {
            names
                .iter()
                .filter_map(|it| it.strip_prefix(name)?.strip_prefix('.'))
                .map(str::to_owned)
                .collect()
        };
        Self { include: inner(&self.include), exclude: inner(&self.exclude) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(value: Value) -> Asked {
        Asked(value.as_object().cloned().unwrap())
    }

    #[test]
    fn numbers_and_flags_may_be_texts_and_a_list_may_be_one_thing() {
        let said = asked(json!({ "size": "100", "locked": "false", "policies": { "count": 3 } }));
        assert_eq!((said.number("size"), said.flag("locked")), (Ok(Some(100)), Ok(Some(false))));
        assert_eq!(said.each("policies").unwrap()[0].number("count"), Ok(Some(3)));
        assert_eq!(asked(json!({ "policies": [{}, {}] })).each("policies").unwrap().len(), 2);
        assert!(asked(json!({ "size": "many" })).number("size").is_err());
    }

    #[test]
    fn what_is_asked_for_within_something_asks_for_that_too() {
        let shape = asked(json!({ "include": "facility,attachments.device" })).shape();
        assert!(
            shape.has("facility")
                && shape.has("attachments")
                && !shape.has("attach")
                && !shape.has("project")
        );
        assert!(shape.within("attachments").has("device"));
        assert!(!asked(json!({ "exclude": "plan" })).shape().keeps("plan"));
    }
}
