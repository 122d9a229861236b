//! HTTP as plainly as it can be spoken: a blocking unix socket, one request after another on a connection that
//! stays open, no library between us and the other side. So what is measured is the daemon and not its client.
//! On top of it the Docker volume plugin's protocol.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::Fallible;

/// A connection over which one asks and is answered.
#[derive(Debug)]
pub(crate) struct Line {
    stream: BufReader<UnixStream>,
}

impl Line {
    pub(crate) fn open(socket: &Path) -> Fallible<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and answers the body of a success.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Fallible<Vec<u8>> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, body) = read_answer(&mut self.stream, method == "HEAD")?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(format!("{method} {path} was answered {status}: {}", String::from_utf8_lossy(&body)).into())
    }
}

/// Status and body of an answer, of known length or in chunks; only its head where that was asked for.
fn read_answer(stream: &mut BufReader<UnixStream>, head: bool) -> Fallible<(u16, Vec<u8>)> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err("the connection ended before an answer".into());
    }
    let status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>()?;
        }
        chunked |= header.starts_with("transfer-encoding:") && header.ends_with("chunked");
    }
    if head {
        return Ok((status, Vec::new()));
    }
    if chunked {
        return Ok((status, read_chunks(stream)?));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}

fn read_chunks(stream: &mut BufReader<UnixStream>) -> Fallible<Vec<u8>> {
    let (mut body, mut line) = (Vec::new(), String::new());
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16)?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk)?;
        chunk.truncate(size);
        if size == 0 {
            return Ok(body);
        }
        body.append(&mut chunk);
    }
}

/// A connection to the Docker door.
#[derive(Debug)]
pub(crate) struct Door {
    line: Line,
}

impl Door {
    pub(crate) fn open(socket: &Path) -> Fallible<Self> {
        Ok(Self { line: Line::open(socket)? })
    }

    pub(crate) fn create(&mut self, name: &str, options: &Value) -> Fallible {
        self.call("Create", &json!({ "Name": name, "Opts": options })).map(drop)
    }

    /// Answers where the data is.
    pub(crate) fn mount(&mut self, name: &str, id: &str) -> Fallible<String> {
        let answer = self.call("Mount", &json!({ "Name": name, "ID": id }))?;
        let path = answer.get("Mountpoint").and_then(Value::as_str).unwrap_or_default();
        if path.is_empty() { Err(format!("{name} was mounted nowhere").into()) } else { Ok(path.to_owned()) }
    }

    pub(crate) fn unmount(&mut self, name: &str, id: &str) -> Fallible {
        self.call("Unmount", &json!({ "Name": name, "ID": id })).map(drop)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Fallible {
        self.call("Remove", &json!({ "Name": name })).map(drop)
    }

    /// Answers how many volumes there are.
    pub(crate) fn list(&mut self) -> Fallible<usize> {
        let answer = self.call("List", &json!({}))?;
        Ok(answer.get("Volumes").and_then(Value::as_array).map_or(0, Vec::len))
    }

    pub(crate) fn get(&mut self, name: &str) -> Fallible {
        self.call("Get", &json!({ "Name": name })).map(drop)
    }

    /// The emptiest of all questions.
    pub(crate) fn activate(&mut self) -> Fallible {
        self.line.ask("POST", "/Plugin.Activate", "").map(drop)
    }

    fn call(&mut self, verb: &str, body: &Value) -> Fallible<Value> {
        let answer = self.line.ask("POST", &format!("/VolumeDriver.{verb}"), &body.to_string())?;
        let answer: Value = serde_json::from_slice(&answer)?;
        match answer.get("Err").and_then(Value::as_str) {
            None | Some("") => Ok(answer),
            Some(error) => Err(format!("{verb} was refused: {error}").into()),
        }
    }
}
