//! Amazon's own client for Python, as somebody to ask for the truth about our model: it knows nothing of us, parses what
//! we answer and signs what it asks. One process is started for each test, and asked line by line (`ask.py`).

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use kato_tests::aws::{Aws, Credentials, REGION};
use serde_json::{Value, json};

/// A client and who it is.
pub(super) struct Boto {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    who: Value,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct No {
    /// The error's code; nothing when no answer came.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) reason: String,
    pub(super) status: u64,
}

impl Boto {
    /// The client of whoever may ask this model.
    pub(super) fn of(aws: &Aws) -> Self {
        Self::at(&aws.endpoint(), &aws.credentials())
    }

    pub(super) fn at(endpoint: &str, credentials: &Credentials) -> Self {
        let mut process = Command::new(python())
            .arg("-I")
            .arg(folder().join("ask.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut this = Self { process, input, output: BufReader::new(output), who: json!({}) };
        this.who = json!({ "endpoint": endpoint, "patience": 60 });
        this.become_of(credentials, REGION);
        this
    }

    /// From now on somebody else asks, or asks another region.
    pub(super) fn become_of(&mut self, credentials: &Credentials, region: &str) {
        self.who["region"] = region.into();
        self.who["key"] = credentials.access_key_id.as_str().into();
        self.who["secret"] = credentials.secret_access_key.as_str().into();
        self.who["token"] = credentials.session_token.as_deref().into();
    }

    /// From now on an answer is waited for as long as this, in seconds.
    pub(super) fn wait_for(&mut self, seconds: u32) {
        self.who["patience"] = seconds.into();
    }

    pub(super) fn ec2(&mut self, method: &str, given: Value) -> Result<Value, No> {
        self.ask("ec2", method, given)
    }

    pub(super) fn ebs(&mut self, method: &str, given: Value) -> Result<Value, No> {
        self.ask("ebs", method, given)
    }

    /// The code of a refusal.
    pub(super) fn refused(&mut self, method: &str, given: Value) -> String {
        self.ec2(method, given).unwrap_err().code
    }

    fn ask(&mut self, service: &str, method: &str, given: Value) -> Result<Value, No> {
        let call = json!({ "service": service, "method": method, "given": given, "who": self.who });
        writeln!(self.input, "{call}").expect("python reads");
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("python came to nothing over {method}: {error}: {line:?}"));
        if let Some(answer) = said.get_mut("answer") {
            return Ok(answer.take());
        }
        let text = |name: &str| said["refusal"][name].as_str().unwrap_or_default().to_owned();
        let lost = said["lost"].as_str().unwrap_or_default();
        Err(No {
            code: text("code"),
            message: if lost.is_empty() { text("message") } else { lost.to_owned() },
            reason: text("reason"),
            status: said["refusal"]["status"].as_u64().unwrap_or(0),
        })
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The interpreter that has what `requirements.txt` lists.
pub(super) fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
    let wanted = fs::read_to_string(folder().join("requirements.txt")).unwrap();
    let has = fs::read_to_string(home.join("installed.txt")).unwrap_or_default();
    assert_eq!(
        has,
        wanted,
        "{} lacks the Python packages of tests/suite/ebs/requirements.txt, or has others: `cargo xtask test ebs` \
         installs them",
        home.display()
    );
    home.join("bin/python")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/ebs")
}
