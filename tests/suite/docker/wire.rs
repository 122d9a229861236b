//! Both ends of the plugin protocol, without anything of ours in between: a client that says exactly the bytes
//! it is given, and a plugin that answers what its test wants.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// What one side said to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The second word of the first line: a request's path or an answer's status.
    pub(crate) fn word(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// Reads one message; nothing when the other side closed instead.
pub(crate) fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Message>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((key, value)) = header.trim_end().split_once(':') else { break };
        headers.push((key.to_owned(), value.trim().to_owned()));
    }
    let mut message = Message { line: line.trim_end().to_owned(), headers, body: Vec::new() };
    let length = message.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    message.body.resize(length, 0);
    stream.read_exact(&mut message.body)?;
    Ok(Some(message))
}

/// A plugin's socket, as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Wire(pub(crate) PathBuf);

impl Wire {
    /// Asks as dockerd does, on a connection of its own.
    pub(crate) fn ask(&self, path: &str, body: &str) -> io::Result<Option<Message>> {
        self.say(request(path, body).as_bytes())
    }

    /// Asks and answers the JSON. What is refused has a status that says so, as podman reads nothing else.
    pub(crate) fn call(&self, operation: &str, body: Value) -> Value {
        let answer = self.ask(&format!("/VolumeDriver.{operation}"), &format!("{body}\n")).unwrap().unwrap();
        let refused = answer.json()["Err"].as_str().is_some_and(|error| !error.is_empty());
        assert_eq!(answer.word(), if refused { "500" } else { "200" }, "{operation} {body}: {answer:?}");
        answer.json()
    }

    /// Asks what has to succeed.
    pub(crate) fn done(&self, operation: &str, body: Value) -> Value {
        let answer = self.call(operation, body.clone());
        assert_eq!(answer["Err"], "", "{operation} {body}");
        answer
    }

    /// Asks what has to be refused, and answers why it was.
    pub(crate) fn refused(&self, operation: &str, body: Value) -> String {
        let answer = self.call(operation, body.clone());
        let reason = answer["Err"].as_str().unwrap_or_default();
        assert_ne!(reason, "", "{operation} {body} was done: {answer}");
        reason.to_owned()
    }

    /// Says these bytes and reads one answer.
    pub(crate) fn say(&self, bytes: &[u8]) -> io::Result<Option<Message>> {
        let mut stream = self.connect()?;
        stream.write_all(bytes)?;
        read(&mut BufReader::new(stream))
    }

    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(Duration::from_secs(130)))?;
        Ok(stream)
    }
}

/// A request as dockerd 20.10 writes it: an empty Host and no Content-Type.
pub(crate) fn request(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    )
}

/// What a plugin does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers with this status and body.
    Body(u16, String),
    /// Closes the connection instead.
    Close,
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self::Body(200, value.to_string())
    }
}

/// A plugin that answers what its test wants, and remembers what it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    all: Arc<Mutex<Vec<Message>>>,
    closed: Arc<AtomicBool>,
}

impl Plugin {
    /// Serves at this path until the test ends. Activate and Capabilities answer themselves.
    pub(crate) fn serve(path: &Path, answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve_with_handshake(path, || (), answer)
    }

    /// The same, with something to do before the handshake is answered.
    pub(crate) fn serve_with_handshake(
        path: &Path,
        handshake: impl Fn() + Send + Sync + 'static,
        answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let answer = move |operation: &str, request: &Value| {
            if operation == "Plugin.Activate" {
                handshake();
                return json!({"Implements": ["VolumeDriver"]}).into();
            }
            answer(operation, request)
        };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        let plugin = Self { all: Arc::default(), closed: Arc::default() };
        let (all, closed, answer) = (Arc::clone(&plugin.all), Arc::clone(&plugin.closed), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                let (all, answer, closed) = (Arc::clone(&all), Arc::clone(&answer), Arc::clone(&closed));
                thread::spawn(move || drop(converse(stream, &all, &closed, &*answer)));
            }
        });
        plugin
    }

    /// Ends it: its socket is gone, and its connections are closed instead of answered.
    pub(crate) fn close(&self, path: &Path) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts, so that the socket is closed before its name goes.
        drop(UnixStream::connect(path));
        std::fs::remove_file(path).unwrap();
    }

    /// Everything that it was asked so far.
    pub(crate) fn heard_all(&self) -> Vec<Message> {
        self.all.lock().unwrap().clone()
    }

    /// What it was asked so far, without the questions that answer themselves.
    pub(crate) fn heard(&self) -> Vec<Message> {
        let of_itself = |message: &Message| {
            message.word() == "/Plugin.Activate" || message.word() == "/VolumeDriver.Capabilities"
        };
        self.heard_all().into_iter().filter(|message| !of_itself(message)).collect()
    }

    /// The IDs of all requests for this operation, in order.
    pub(crate) fn ids(&self, operation: &str) -> Vec<String> {
        self.heard()
            .iter()
            .filter(|message| message.word() == format!("/VolumeDriver.{operation}"))
            .map(|message| message.json()["ID"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The operations that it was asked for, in order, about the volume of this name or of none.
    pub(crate) fn operations(&self, name: &str) -> Vec<String> {
        let about = |message: &Message| message.json().get("Name").is_none_or(|asked| asked == name);
        self.heard()
            .iter()
            .filter(|message| about(message))
            .map(|message| message.word().trim_start_matches("/VolumeDriver.").to_owned())
            .collect()
    }
}

fn converse(
    stream: UnixStream,
    all: &Mutex<Vec<Message>>,
    closed: &AtomicBool,
    answer: &dyn Fn(&str, &Value) -> Reply,
) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(message) = read(&mut reader)? {
        if closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let operation = message.word().trim_start_matches('/').to_owned();
        all.lock().unwrap().push(message.clone());
        let reply = match operation.as_str() {
            "VolumeDriver.Capabilities" => json!({"Capabilities": {"Scope": "local"}}).into(),
            _ => answer(operation.trim_start_matches("VolumeDriver."), &message.json()),
        };
        match reply {
            Reply::Body(status, body) => write!(
                writer,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n{body}",
                body.len()
            )?,
            Reply::Close => return Ok(()),
        }
    }
    Ok(())
}
