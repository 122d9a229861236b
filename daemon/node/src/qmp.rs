//! Speaking to a running `qemu-storage-daemon`: one JSON object a line on a unix socket (QMP). A question has an
//! answer within a limit or is an error; events in between are passed over. Nothing here knows what is served.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use kato_orchestrator::Error;
use serde_json::{Value, json};

use crate::errno::failed;

/// How long an answer may take. A server that waits for its cluster answers nothing.
const PATIENCE: Duration = Duration::from_secs(15);

/// A conversation.
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and says hello.
    pub(crate) fn open(socket: &Path) -> Result<Self, Error> {
        let what = |error| failed(format_args!("talk to the server at {}", socket.display()), error);
        let stream = UnixStream::connect(socket).map_err(what)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(what)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(what)?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.hear()?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Has a command done.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let question = json!({ "execute": command, "arguments": arguments });
        self.stream
            .get_mut()
            .write_all(format!("{question}\n").as_bytes())
            .map_err(|error| failed(format_args!("ask the server for {command}"), error))?;
        loop {
            let mut answer = self.hear()?;
            if let Some(refusal) = answer.pointer("/error/desc").and_then(Value::as_str) {
                return Err(Error::unavailable(format!("the server refused {command}: {refusal}")));
            }
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    fn hear(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        match read {
            Ok(0) => Err(Error::unavailable("the server hung up")),
            Ok(_) => serde_json::from_str(&line)
                .map_err(|error| Error::internal("the server said something else").caused_by(error)),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Err(Error::timeout("the server does not answer").pending())
            }
            Err(error) => Err(failed("hear from the server", error)),
        }
    }
}
