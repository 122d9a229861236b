//! The Docker volume plugin's protocol, as plainly as it can be spoken: a blocking unix socket, one request
//! after another on a connection that stays open, no library between us and the daemon. So what is measured
//! is the daemon and not its client.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::Fallible;

/// A connection to the Docker door.
#[derive(Debug)]
pub(crate) struct Door {
    stream: BufReader<UnixStream>,
}

impl Door {
    pub(crate) fn open(socket: &Path) -> Fallible<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream: BufReader::new(stream) })
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

    fn call(&mut self, verb: &str, body: &Value) -> Fallible<Value> {
        let body = body.to_string();
        let request = format!(
            "POST /VolumeDriver.{verb} HTTP/1.1\r\nHost: \r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let answer: Value = serde_json::from_slice(&read_answer(&mut self.stream)?)?;
        match answer.get("Err").and_then(Value::as_str) {
            None | Some("") => Ok(answer),
            Some(error) => Err(format!("{verb} was refused: {error}").into()),
        }
    }
}

/// The body of an HTTP answer, of known length or in chunks.
pub(crate) fn read_answer(stream: &mut BufReader<UnixStream>) -> Fallible<Vec<u8>> {
    let mut length = None;
    let mut chunked = false;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err("the connection ended before an answer".into());
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>()?);
        }
        chunked |= header.starts_with("transfer-encoding:") && header.ends_with("chunked");
    }
    let mut body = Vec::new();
    if chunked {
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
    body.resize(length.unwrap_or(0), 0);
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Asks for a page over a unix socket.
pub(crate) fn get(socket: &Path, path: &str) -> Fallible<String> {
    let mut stream = BufReader::new(UnixStream::connect(socket)?);
    stream.get_mut().write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    Ok(String::from_utf8_lossy(&read_answer(&mut stream)?).into_owned())
}
