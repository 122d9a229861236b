//! The binary as people and scripts meet it: its configuration (`configuration`), the contract of its commands
//! (`commands`), the folder and the sockets that it refuses or takes (`folders`), whose plugins
//! it loads (`plugins`), records that were lost (`recovery`), what systemd is to it (`service`), and what is told when
//! something is wrong (`trouble`). The program is the shipped one; what touches mounts runs in a machine of the
//! test's own.

mod commands;
mod configuration;
mod folders;
mod plugins;
mod recovery;
mod service;
mod trouble;

use std::{
    path::Path,
    process::{Command, Output},
};

use kato_tests::daemon::binary;

/// Runs `kato` with these words and nothing of this process's surroundings.
fn kato(words: &[&str]) -> Output {
    command(words).output().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the tests run the shipped program")]
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(words);
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a command that was done has printed.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, err(output));
    out(output)
}

/// What a command that ended with this code has told.
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", out(output), err(output));
    assert_eq!(out(output), "", "what is no data belongs on standard error");
    err(output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
