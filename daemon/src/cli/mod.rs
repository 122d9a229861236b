//! The command line: nouns, then verbs, as docker and kubectl have them. One file for each noun; `client.rs`
//! reaches the daemon, `output.rs` prints, `exit.rs` says how a command ends. What a verb means is decided by
//! the daemon; here words are only carried there and back. `dvdcli/` speaks another program's command line.

mod backend;
mod class;
mod client;
mod complete;
mod config;
mod copy;
mod deploy;
mod doctor;
mod dvdcli;
mod exit;
mod export;
mod filter;
mod group;
mod list;
mod node;
mod output;
mod plugin;
mod progress;
mod snapshot;
mod store;
mod volume;

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};

pub(crate) use self::exit::{Exit, Failure};
use self::{
    client::Client,
    output::{Format, Output},
};
use crate::config::{Sources, load};

/// Persistent volumes for containers.
#[derive(Debug, Parser)]
#[command(
    name = "kato",
    version,
    about = "Persistent volumes for containers, on any backend",
    after_help = "`kato NOUN --help` lists the verbs of a noun, `kato help exit-codes` says how commands end.",
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The configuration file [default: /etc/kato/config.toml, if it is there]
    #[arg(long, global = true, env = "KATO_CONFIG", value_name = "FILE", help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// Lay a value over the configuration, such as node.id=a
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Everywhere")]
    set: Vec<String>,
    /// The daemon's admin socket [default: what the configuration says]
    #[arg(long, global = true, env = "KATO_SOCKET", value_name = "PATH", help_heading = "Everywhere")]
    socket: Option<PathBuf>,
    /// How long to wait until it is done, such as 30s
    #[arg(long, global = true, env = "KATO_TIMEOUT", value_name = "TIME", value_parser = time, help_heading = "Everywhere")]
    timeout: Option<Duration>,
    /// In which form to print
    #[arg(
        short,
        long,
        global = true,
        env = "KATO_OUTPUT",
        value_name = "FORM",
        value_enum,
        default_value_t,
        help_heading = "Everywhere"
    )]
    output: Format,
    /// Print names only
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    quiet: bool,
    /// Print tables without their first line
    #[arg(long, global = true, help_heading = "Everywhere")]
    no_headers: bool,
    /// Do not ask before something is destroyed
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve {
        /// Open the CSI door, and serve this part of it there
        #[arg(long, value_name = "ROLE", value_parser = ["all", "controller", "node"])]
        role: Option<String>,
    },
    /// Volumes
    #[command(subcommand, visible_alias = "volumes", alias = "vol")]
    Volume(volume::Verb),
    /// Snapshots of several volumes at one moment
    #[command(subcommand, visible_alias = "groups")]
    Group(group::Verb),
    /// Snapshots of volumes
    #[command(subcommand, visible_alias = "snapshots", alias = "snap")]
    Snapshot(snapshot::Verb),
    /// Classes: the recipes by which volumes are made
    #[command(subcommand, visible_alias = "classes")]
    Class(class::Verb),
    /// Backends: where volumes live
    #[command(subcommand, visible_alias = "backends")]
    Backend(backend::Verb),
    /// Plugins: what speaks to backends
    #[command(subcommand, visible_alias = "plugins")]
    Plugin(plugin::Verb),
    /// This host
    #[command(subcommand)]
    Node(node::Verb),
    /// The records
    #[command(subcommand)]
    Store(store::Verb),
    /// Look for what does not fit together
    Doctor(doctor::Doctor),
    /// Rebuild records from what the backends have
    Recover(doctor::Recover),
    /// The configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// What Kubernetes, Nomad and Mesos have to be told
    #[command(subcommand)]
    Deploy(deploy::Verb),
    /// Be dvdcli: ask any of Docker's volume drivers, as Mesos agents do
    Dvdcli(dvdcli::Dvdcli),
    /// Print a script that completes commands and names: source it from your shell's start-up file
    Completion(complete::Completion),
    /// Explain a command, or `exit-codes`
    Help {
        /// The command
        topic: Vec<String>,
    },
    /// Touch a device in place of the daemon (the daemon runs this itself)
    #[command(hide = true)]
    NodeWorker,
}

/// What `main` is to do.
pub(crate) enum Task {
    /// Be the daemon.
    Serve(Sources),
    /// Be the child that touches devices.
    Worker,
    /// It is done.
    Done(Exit),
}

/// Reads the command line and does what it says, or says what is left to do.
pub(crate) fn run() -> Task {
    match complete::answered() {
        Ok(false) => {}
        Ok(true) => return Task::Done(Exit::Ok),
        Err(failure) => return Task::Done(told(&failure)),
    }
    if dvdcli::is_meant() {
        return Task::Done(dvdcli::Alone::run());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nobody is left to be told when this fails.
            drop(error.print());
            return Task::Done(if asked { Exit::Ok } else { Exit::Usage });
        }
    };
    let global = cli.global;
    let done = match cli.command {
        Command::Serve { role } => {
            let mut sources = global.sources();
            if let Some(role) = role {
                sources.set.extend(["csi.enabled=true".to_owned(), format!("csi.role={role}")]);
            }
            return Task::Serve(sources);
        }
        Command::NodeWorker => return Task::Worker,
        Command::Volume(verb) => verb.run(&global),
        Command::Group(verb) => verb.run(&global),
        Command::Snapshot(verb) => verb.run(&global),
        Command::Class(verb) => verb.run(&global),
        Command::Backend(verb) => verb.run(&global),
        Command::Plugin(verb) => verb.run(&global),
        Command::Node(verb) => verb.run(&global),
        Command::Store(verb) => verb.run(&global),
        Command::Doctor(verb) => verb.run(&global),
        Command::Recover(verb) => verb.run(&global),
        Command::Config(verb) => verb.run(&global),
        Command::Deploy(verb) => verb.run(&global),
        Command::Dvdcli(dvdcli) => dvdcli.run(&global.sources()),
        Command::Completion(verb) => verb.run(&global),
        Command::Help { topic } => help(&global, &topic),
    };
    Task::Done(match done {
        Ok(exit) => exit,
        Err(failure) => told(&failure),
    })
}

/// Tells a person why a command failed.
pub(crate) fn told(failure: &Failure) -> Exit {
    if !failure.what.is_empty() {
        // Nobody is left to be told when this fails.
        drop(writeln!(io::stderr().lock(), "{failure}"));
    }
    failure.exit
}

fn help(global: &Global, topic: &[String]) -> Result<Exit, Failure> {
    let out = global.out();
    if topic.first().is_some_and(|topic| topic == "exit-codes") {
        out.text(&format!("{}\n", exit::CODES))?;
        return Ok(Exit::Ok);
    }
    let mut command = Cli::command();
    command.build();
    let mut place = &mut command;
    for word in topic {
        place = place.find_subcommand_mut(word).ok_or_else(|| {
            Failure::usage(format!("there is no command {word:?}")).next("see `kato --help`")
        })?;
    }
    out.text(&place.render_long_help().to_string())?;
    Ok(Exit::Ok)
}

fn time(text: &str) -> Result<Duration, String> {
    crate::config::span(text)
}

impl Global {
    /// Where the configuration comes from.
    pub(crate) fn sources(&self) -> Sources {
        Sources::here(self.config.clone(), self.set.clone())
    }

    fn out(&self) -> Output {
        Output::new(self.output, self.quiet, self.no_headers)
    }

    fn out_without_headers(&self) -> Output {
        Output::new(self.output, self.quiet, true)
    }

    /// The daemon. Where its socket is, the configuration says, if we may read it.
    fn client(&self) -> Result<Client, Failure> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => match load(&self.sources()) {
                Ok(config) => config.admin.socket,
                Err(_) if self.config.is_none() => PathBuf::from("/run/kato/admin.sock"),
                Err(mistakes) => return Err(Failure::new(Exit::Config, mistakes.to_string())),
            },
        };
        Client::new(socket, self.timeout)
    }

    /// Asks before something is destroyed: the name has to be typed. Without a terminal there is nobody to ask,
    /// and a script that names a thing means it.
    fn confirm(&self, what: &str, name: &str) -> Result<(), Failure> {
        if self.yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(());
        }
        self.must_confirm(what, name)
    }

    /// Asks, and takes silence for a no: for what a script could not have meant by naming it.
    #[expect(clippy::unused_self, reason = "asking is the command line's alone")]
    fn must_confirm(&self, what: &str, name: &str) -> Result<(), Failure> {
        write!(io::stderr().lock(), "{what}\nType {name} to go on: ")?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        if line.trim() == name {
            return Ok(());
        }
        Err(Failure::new(Exit::Failure, "nothing was done"))
    }
}

/// Does something to each of several names, and goes on after a failure.
fn each(names: &[String], mut work: impl FnMut(&str) -> Result<(), Failure>) -> Result<Exit, Failure> {
    let mut failures = Vec::new();
    for name in names {
        if let Err(failure) = work(name) {
            failures.push(failure);
        }
    }
    if failures.len() < names.len() && !failures.is_empty() {
        for failure in &failures {
            told(failure);
        }
        return Ok(Exit::Partial);
    }
    match failures.pop() {
        None => Ok(Exit::Ok),
        Some(last) => {
            for failure in &failures {
                told(failure);
            }
            Err(last)
        }
    }
}

/// `key=value` words of a command line as a JSON object.
fn pairs(words: &[String]) -> Result<serde_json::Value, Failure> {
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.into())),
        _ => Err(Failure::usage(format!("{word:?} is not KEY=VALUE"))),
    };
    Ok(serde_json::Value::Object(words.iter().map(pair).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn pairs_have_a_key_and_may_lack_a_value() {
        assert_eq!(
            pairs(&["a=b=c".into(), "d=".into()]).unwrap(),
            serde_json::json!({ "a": "b=c", "d": "" })
        );
        assert_eq!(pairs(&["=x".into()]).unwrap_err().exit, Exit::Usage);
        assert!(pairs(&["x".into()]).is_err());
    }
}
