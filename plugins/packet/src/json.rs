//! Reading JSON. What is not there is nothing or empty.

use serde_json::Value;

static NULL: Value = Value::Null;

/// A part of an object.
pub(crate) fn at<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&NULL)
}

pub(crate) fn text(value: &Value, name: &str) -> String {
    at(value, name).as_str().unwrap_or_default().to_owned()
}

pub(crate) fn number(value: &Value, name: &str) -> u64 {
    at(value, name).as_u64().unwrap_or_default()
}

/// What is in a list.
pub(crate) fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    at(value, name).as_array().into_iter().flatten()
}

/// The id of a thing. One that is only referred to comes as `{"href": …}`, unless the request said `include` and the server
/// knows that word: then its id is the last segment.
pub(crate) fn id(value: &Value) -> String {
    let id = text(value, "id");
    if !id.is_empty() {
        return id;
    }
    text(value, "href").trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

/// Whether this can be an id: it goes into paths as it is.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
