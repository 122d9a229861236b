//! Records as JSON for people: what a dump's line holds, and what a load takes. The payload passes through
//! as it is, with fields that this program does not know, after it was checked to be what it says it is.

use serde_json::{Value, json};

use super::{SCHEMA, check, envelope, keys::KeyKind, kind_of};
use crate::{
    error::Error,
    ports::store::{Entry, Key},
};

/// An entry as `{"key", "schema", "kind", "record"}`.
pub fn to_json(entry: &Entry) -> Result<Value, Error> {
    let opened = envelope::open(&entry.key, &entry.value)?;
    let kind = kind_of(opened.tag)
        .ok_or_else(|| envelope::damaged(&entry.key, &format!("its kind {} is unknown", opened.tag)))?;
    let record: Value = serde_json::from_slice(opened.payload)
        .map_err(|error| envelope::damaged(&entry.key, &error.to_string()))?;
    Ok(json!({ "key": entry.key, "schema": opened.schema, "kind": kind, "record": record }))
}

/// The key and the value of such a line.
pub fn from_json(line: &Value) -> Result<(Key, Vec<u8>), Error> {
    let wrong = |key: &str, why: String| {
        Error::invalid(format!("{why}: the dump was changed by hand or is of another program")).about(key)
    };
    let key = line
        .get("key")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("", "a line of the dump has no key".to_owned()))?;
    let schema = line
        .get("schema")
        .and_then(Value::as_u64)
        .and_then(|schema| u16::try_from(schema).ok())
        .ok_or_else(|| wrong(key, "the record has no schema".to_owned()))?;
    envelope::check_schema(key, schema)?;
    let kind = line
        .get("kind")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong(key, "the record has no kind".to_owned()))?;
    let record = line.get("record").ok_or_else(|| wrong(key, "the record itself is missing".to_owned()))?;
    let tag = check(kind, record)
        .ok_or_else(|| wrong(key, format!("the kind {kind:?} is unknown")))?
        .map_err(|error| wrong(key, format!("the record is no {kind} ({error})")))?;
    match KeyKind::of(key).record() {
        Some(expected) if expected == kind => {}
        Some(expected) => {
            return Err(wrong(key, format!("a {expected} belongs under this key, not a {kind}")));
        }
        None => return Err(wrong(key, "no record belongs under this key".to_owned())),
    }
    let payload = serde_json::to_vec(record)
        .map_err(|error| wrong(key, format!("the record cannot be written ({error})")))?;
    Ok((key.to_owned(), envelope::seal(key, schema.min(SCHEMA), tag, &payload)))
}
