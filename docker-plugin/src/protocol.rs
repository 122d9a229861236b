//! The wire: the JSON of Docker's volume plugin API, and nothing else. Only this file and `convert.rs` name
//! these types. dockerd sends no Content-Type and, when it repeats a request whose connection broke, an empty
//! body: so decoding starts from raw bytes and never takes nothing for a name.

use std::collections::BTreeMap;

use kato_orchestrator::Error;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What dockerd expects answers to be.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// `/VolumeDriver.Create`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct CreateRequest {
    #[serde(rename = "Name", alias = "name", default)]
    pub(crate) name: String,
    /// `null` when `docker run -v` makes the volume.
    #[serde(rename = "Opts", alias = "opts", default)]
    pub(crate) options: Option<BTreeMap<String, String>>,
}

/// `/VolumeDriver.Mount` and `/VolumeDriver.Unmount`. dvdcli and Docker up to 1.11 send no ID.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct HolderRequest {
    #[serde(rename = "Name", alias = "name", default)]
    pub(crate) name: String,
    #[serde(rename = "ID", alias = "Id", alias = "id", default)]
    pub(crate) id: Option<String>,
}

/// `/VolumeDriver.Remove`, `/VolumeDriver.Get` and `/VolumeDriver.Path`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct NameRequest {
    #[serde(rename = "Name", alias = "name", default)]
    pub(crate) name: String,
}

/// Every answer. Exactly one part beside `Err` is set, and none where there is nothing to tell.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) implements: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mountpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<VolumeEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volumes: Option<Vec<NameEntry>>,
    /// Empty when all went well.
    pub(crate) err: String,
}

/// What the driver is like.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Capabilities {
    pub(crate) scope: &'static str,
}

/// A volume as `docker volume inspect` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct VolumeEntry {
    /// Exactly as it was asked for, or dockerd takes it for another one.
    pub(crate) name: String,
    pub(crate) mountpoint: String,
    /// RFC 3339.
    pub(crate) created_at: String,
    pub(crate) status: serde_json::Map<String, serde_json::Value>,
}

/// A volume as `docker volume ls` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NameEntry {
    pub(crate) name: String,
}

/// What dockerd itself answers to `GET /volumes`, as far as we ask.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EngineVolumes {
    /// `null` where there are none.
    pub(crate) volumes: Option<Vec<EngineVolume>>,
}

/// One of them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EngineVolume {
    pub(crate) name: String,
    pub(crate) driver: String,
}

impl Answer {
    /// A failure, in words for a person.
    pub(crate) fn failure(words: impl Into<String>) -> Self {
        Self { err: words.into(), ..Self::default() }
    }

    /// The bytes of it: always an object, because dockerd takes an empty body for a broken answer.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| br#"{"Err":"kato could not write its answer"}"#.to_vec())
    }
}

/// Reads a request. The error is for a person.
pub(crate) fn from_wire<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err("the request has no body: send a JSON object, for example {\"Name\":\"db\"}. dockerd \
                    sends nothing when it repeats a request whose connection broke: try the command again"
            .into());
    }
    serde_json::from_slice(body)
        .map_err(|error| format!("the request is not the JSON that Docker's volume plugins speak: {error}"))
}

/// Reads what dockerd answered.
pub(crate) fn answer_from_wire<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::unavailable(format!("it says what is not what Docker answers: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_dockerd_sends_them() {
        let create: CreateRequest = from_wire(b"{\"Name\":\"db\",\"Opts\":null}\n").unwrap();
        assert_eq!(create, CreateRequest { name: "db".into(), options: None });
        let create: CreateRequest = from_wire(br#"{"Name":"db","Opts":{"size":"10GiB"}}"#).unwrap();
        assert_eq!(create.options.unwrap()["size"], "10GiB");
        let mount: HolderRequest = from_wire(br#"{"Name":"db","ID":"c0ffee"}"#).unwrap();
        assert_eq!(mount, HolderRequest { name: "db".into(), id: Some("c0ffee".into()) });
        let mount: HolderRequest = from_wire(br#"{"Name":"db"}"#).unwrap();
        assert_eq!(mount.id, None);
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        for (body, word) in [
            (&b""[..], "no body"),
            (b"\n", "no body"),
            (b"null", "not the JSON"),
            (b"[]x", "not the JSON"),
            (b"{\"Name\":", "not the JSON"),
            (b"{\"Name\":7}", "not the JSON"),
            (b"{\"Name\":\"a\",\"Opts\":{\"size\":1}}", "not the JSON"),
            (b"{\"Name\":\"\xff\"}", "not the JSON"),
        ] {
            let words = from_wire::<CreateRequest>(body).unwrap_err();
            assert!(words.contains(word), "{body:?}: {words}");
        }
    }

    #[test]
    fn every_answer_is_an_object_with_an_err() {
        assert_eq!(Answer::default().to_wire(), br#"{"Err":""}"#);
        let answer = Answer { mountpoint: Some("/x".into()), ..Answer::default() };
        assert_eq!(answer.to_wire(), br#"{"Mountpoint":"/x","Err":""}"#);
        let answer = Answer { volumes: Some(Vec::new()), ..Answer::default() };
        assert_eq!(answer.to_wire(), br#"{"Volumes":[],"Err":""}"#);
        assert_eq!(Answer::failure("no \"x\"").to_wire(), br#"{"Err":"no \"x\""}"#);
    }
}
