//! `kato dvdcli`, and this program by any name that ends in `dvdcli`: EMC's command line for Docker's volume drivers,
//! which the `docker/volume` isolator of a Mesos agent runs for every volume of every task. It has dvdcli's verbs and
//! flags, asks the driver what dvdcli asked (`driver.rs`), finds it where dvdcli found it and where our own
//! configuration puts it (`discovery.rs`), prints data alone on standard output and tells the rest in dvdcli's
//! lines (`log.rs`). It knows no daemon of ours: to it Káto is one driver among others.
//!
//! It differs where dvdcli would lose something without a word. A value keeps its own `=`, which dvdcli cut off; a command line
//! that makes no sense ends with 64, where dvdcli printed its usage and ended with 0, which an agent takes for an
//! empty path; a driver that cannot be reached is no driver without the volume, so nothing is made then; and an
//! unmount of a volume that its driver does not have is left to the driver to judge, since an agent goes on asking for ever for what
//! it cannot take down.

mod discovery;
mod driver;
mod log;

use std::{
    ffi::OsStr,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::ArgValueCompleter;
use serde_json::{Map, Value as Json};

use self::{
    discovery::Places,
    driver::{Driver, Trouble},
};
use super::{Exit, Failure, complete, told};
use crate::config::{Sources, load};

/// The version of dvdcli that this is like, and ours behind it, which no comparison looks at.
const VERSION: &str = concat!("0.2.1+kato.", env!("CARGO_PKG_VERSION"));

const EXIT: &str = "\
Ends with 0 when it is done, with 64 when the command line makes no sense, and with 1 otherwise. A driver that is not \
there is waited for, a quarter of a minute in all.";

#[derive(Args, Debug)]
#[command(after_help = EXIT)]
pub(super) struct Dvdcli {
    /// The volume driver
    #[arg(long, global = true, value_name = "DRIVER", overrides_with = "volumedriver")]
    volumedriver: Option<String>,
    /// The volume's name
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        overrides_with = "volumename",
        add = ArgValueCompleter::new(complete::volumes)
    )]
    volumename: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a volume
    Create {
        #[command(flatten)]
        options: Options,
    },
    /// Remove a volume
    Remove,
    /// Mount a volume, and print where; it is made if there is none
    Mount {
        #[command(flatten)]
        options: Options,
        /// Make no volume that is not there
        #[arg(
            long,
            alias = "explicitCreate",
            value_name = "TRUE OR FALSE",
            num_args = 0..=1,
            require_equals = true,
            default_value = "false",
            default_missing_value = "true",
            hide_default_value = true,
            overrides_with = "explicitcreate",
            value_parser = truth
        )]
        explicitcreate: bool,
    },
    /// Unmount a volume
    Unmount,
    /// Print where a volume is mounted, if it is
    Path,
    /// Print the name of a volume, if there is one
    Get,
    /// Print the names of all volumes
    List,
    /// Print the version
    Version,
    /// Explain a command
    Help {
        /// The command
        topic: Option<String>,
    },
}

#[derive(Args, Debug)]
struct Options {
    /// What the driver is told of a volume that it makes; several by commas, or by repeating it
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', num_args = 1)]
    volumeopts: Vec<String>,
}

/// The program by its other name.
#[derive(Debug, Parser)]
#[command(
    name = "dvdcli",
    about = "A command line for Docker's volume drivers",
    after_help = EXIT,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(super) struct Alone {
    /// Where the socket of our own driver is written
    #[arg(long, global = true, env = "KATO_CONFIG", value_name = "FILE", hide = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    dvdcli: Dvdcli,
}

/// Whether this program was called by a name that ends in `dvdcli`.
pub(super) fn is_meant() -> bool {
    std::env::args_os().next().is_some_and(|program| is_name(&program))
}

fn is_name(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name.to_string_lossy().ends_with("dvdcli"))
}

impl Alone {
    /// Reads the command line and does what it says.
    pub(super) fn run() -> Exit {
        let alone = match Self::try_parse() {
            Ok(alone) => alone,
            Err(error) => {
                // Nobody is left to be told when this fails.
                drop(error.print());
                return match error.kind() {
                    // dvdcli without a word explains itself, as one that was asked to.
                    ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Exit::Ok,
                    _ => Exit::Usage,
                };
            }
        };
        match alone.dvdcli.run(&Sources::here(alone.config, Vec::new())) {
            Ok(exit) => exit,
            Err(failure) => told(&failure),
        }
    }
}

impl Dvdcli {
    pub(super) fn run(self, sources: &Sources) -> Result<Exit, Failure> {
        match &self.verb {
            Verb::Version => print(&version())?,
            Verb::Help { topic } => print(help(topic.as_deref())?.trim_end())?,
            verb => match self.ask(verb, sources) {
                Ok(lines) => lines.iter().try_for_each(|line| print(line))?,
                Err(words) => {
                    let volume = self.volumename.as_deref().map(|name| ("volumeName", name));
                    let driver = self.volumedriver.as_deref().map(|name| ("volumeDriver", name));
                    log::line("error", &words, &volume.or(driver).into_iter().collect::<Vec<_>>());
                    return Err(Failure::silent(Exit::Failure));
                }
            },
        }
        Ok(Exit::Ok)
    }

    /// Does what the driver is needed for; the lines are data.
    fn ask(&self, verb: &Verb, sources: &Sources) -> Result<Vec<String>, String> {
        // What makes no sense is told before a driver is waited for.
        let options = match verb {
            Verb::Create { options } | Verb::Mount { options, .. } => options.pairs()?,
            _ => Map::new(),
        };
        let name = match (verb, self.volumename.as_deref()) {
            (Verb::List, _) => "",
            (_, None | Some("")) => return Err("no volume is named: give --volumename=NAME".to_owned()),
            (_, Some(name)) => name,
        };
        let driver = self.driver(sources)?;
        match verb {
            Verb::Create { .. } => {
                driver.create(name, &options)?;
                log::line("info", name, &[]);
                Ok(Vec::new())
            }
            Verb::Remove => {
                let found = driver.get(name)?;
                driver.remove(&found.name)?;
                Ok(Vec::new())
            }
            Verb::Mount { explicitcreate, .. } => {
                let path = mount(&driver, name, &options, *explicitcreate)?;
                log::line("info", &path, &[]);
                Ok(vec![path])
            }
            Verb::Unmount => {
                unmount(&driver, name)?;
                Ok(Vec::new())
            }
            Verb::Path => {
                let found = driver.get(name)?;
                let path = match found.mountpoint {
                    Some(path) => Some(path),
                    None => driver.path(&found.name)?,
                };
                if let Some(path) = &path {
                    log::line("info", path, &[]);
                }
                Ok(path.into_iter().collect())
            }
            Verb::Get => Ok(vec![driver.get(name)?.name]),
            Verb::List => Ok(driver.list()?),
            Verb::Version | Verb::Help { .. } => Ok(Vec::new()),
        }
    }

    fn driver(&self, sources: &Sources) -> Result<Driver, String> {
        let name = match self.volumedriver.as_deref() {
            None | Some("") => return Err("no volume driver is named: give --volumedriver=NAME".to_owned()),
            Some(name) => name,
        };
        // A configuration that cannot be read, or is wrong, matters only if nothing else leads to the driver.
        let (ours, mistakes) = match load(sources) {
            Ok(config) => (Some(config.docker.socket), None),
            Err(mistakes) => (None, Some(mistakes)),
        };
        Driver::reach(name, &Places::of_docker(ours)).map_err(|words| match mistakes {
            None => words,
            Some(mistakes) => format!("{words}; and where kato's own socket is cannot be told: {mistakes}"),
        })
    }
}

/// Mounts, and makes the volume first where there is none. A driver that gave no answer has not said that.
fn mount(
    driver: &Driver,
    name: &str,
    options: &Map<String, Json>,
    explicit: bool,
) -> Result<String, Trouble> {
    match driver.get(name) {
        Ok(found) => driver.mount(&found.name),
        Err(Trouble::Refused(_)) if !explicit => {
            driver.create(name, options)?;
            driver.mount(name)
        }
        Err(trouble) => Err(trouble),
    }
}

/// Unmounts. An agent that restarts asks for what may be gone since, and keeps its records of a task until the answer
/// is yes.
fn unmount(driver: &Driver, name: &str) -> Result<(), Trouble> {
    match driver.get(name) {
        Ok(found) => driver.unmount(&found.name),
        Err(Trouble::Refused(words)) => {
            driver.unmount(name)?;
            log::line("warning", &format!("there was nothing to unmount: {words}"), &[("volumeName", name)]);
            Ok(())
        }
        Err(trouble) => Err(trouble),
    }
}

impl Options {
    fn pairs(&self) -> Result<Map<String, Json>, String> {
        let pair = |word: &String| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.into())),
            _ => Err(format!("the option {word:?} is not KEY=VALUE (a comma begins another option)")),
        };
        self.volumeopts.iter().map(pair).collect()
    }
}

/// A truth as dvdcli reads one.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// The lines of dvdcli's own; what a build of ours does not know stays empty, as in a plain build of dvdcli.
fn version() -> String {
    let binary = std::env::current_exe().unwrap_or_default();
    let architecture = std::env::consts::ARCH;
    format!(
        "Binary: {}\nSemVer: {VERSION}\nOsArch: Linux-{architecture}\nBranch: \nCommit: \nFormed: ",
        binary.display()
    )
}

fn help(topic: Option<&str>) -> Result<String, Failure> {
    let mut command = Alone::command();
    command.build();
    let Some(topic) = topic else { return Ok(command.render_long_help().to_string()) };
    let verb = command.find_subcommand_mut(topic).ok_or_else(|| {
        Failure::usage(format!("dvdcli has no command {topic:?}")).next("see `dvdcli help`")
    })?;
    Ok(verb.render_long_help().to_string())
}

fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Dvdcli, ErrorKind> {
        let words = ["dvdcli"].iter().chain(words);
        Alone::try_parse_from(words).map(|alone| alone.dvdcli).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Alone::command().debug_assert();
    }

    #[test]
    fn a_name_that_ends_in_dvdcli_is_enough() {
        for name in ["dvdcli", "/usr/bin/dvdcli", "/opt/bin/kato-dvdcli", "./dvdcli"] {
            assert!(is_name(OsStr::new(name)), "{name}");
        }
        for name in ["kato", "/opt/dvdcli/kato", "dvdcli.old", ""] {
            assert!(!is_name(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn flags_stand_before_and_behind_the_verb_and_the_last_one_counts() {
        for words in [
            &["mount", "--volumedriver=kato", "--volumename=db"][..],
            &["--volumedriver", "kato", "mount", "--volumename", "db"],
            &["--volumedriver=kato", "--volumename=db", "mount"],
            &["mount", "--volumedriver=other", "--volumename=x", "--volumedriver=kato", "--volumename=db"],
        ] {
            let dvdcli = read(words).unwrap();
            let names = (dvdcli.volumedriver.as_deref(), dvdcli.volumename.as_deref());
            assert_eq!(names, (Some("kato"), Some("db")), "{words:?}");
        }
    }

    #[test]
    fn options_are_split_at_commas_and_at_the_first_sign_of_equality() {
        let options = |words: &[&str]| {
            let words: Vec<&str> = ["mount"].iter().chain(words).copied().collect();
            match read(&words).unwrap().verb {
                Verb::Mount { options, .. } => options.pairs(),
                verb => panic!("{verb:?}"),
            }
        };
        let read =
            options(&["--volumeopts=size=5,iops=150", "--volumeopts", "label=a=b", "--volumeopts=size=6"]);
        assert_eq!(
            Json::from(read.unwrap()),
            serde_json::json!({"size": "6", "iops": "150", "label": "a=b"})
        );
        assert_eq!(options(&[]), Ok(Map::new()));
        assert_eq!(Json::from(options(&["--volumeopts=a="]).unwrap()), serde_json::json!({"a": ""}));
        for wrong in ["--volumeopts=", "--volumeopts=size", "--volumeopts==5", "--volumeopts=a=b,"] {
            assert!(options(&[wrong]).unwrap_err().contains("KEY=VALUE"), "{wrong}");
        }
    }

    #[test]
    fn explicit_creation_is_a_truth_in_any_of_its_spellings() {
        let explicit = |word: &str| match read(&["mount", word])?.verb {
            Verb::Mount { explicitcreate, .. } => Ok(explicitcreate),
            verb => panic!("{verb:?}"),
        };
        for word in ["--explicitcreate", "--explicitCreate", "--explicitcreate=true", "--explicitcreate=1"] {
            assert_eq!(explicit(word), Ok(true), "{word}");
        }
        for word in ["--explicitcreate=false", "--explicitcreate=F", "--volumename=explicitcreate"] {
            assert_eq!(explicit(word), Ok(false), "{word}");
        }
        assert_eq!(explicit("--explicitcreate=maybe"), Err(ErrorKind::ValueValidation));
    }

    #[test]
    fn what_dvdcli_does_not_know_is_refused() {
        assert_eq!(read(&["mount", "--containerid=x"]).unwrap_err(), ErrorKind::UnknownArgument);
        assert_eq!(read(&["unmount", "--volumeopts=a=b"]).unwrap_err(), ErrorKind::UnknownArgument);
        assert_eq!(read(&["mount", "db"]).unwrap_err(), ErrorKind::UnknownArgument);
        assert_eq!(read(&["attach"]).unwrap_err(), ErrorKind::InvalidSubcommand);
        assert_eq!(read(&[]).unwrap_err(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    }

    #[test]
    fn help_knows_every_verb() {
        for verb in ["create", "remove", "mount", "unmount", "path", "get", "list", "version", "help"] {
            assert!(help(None).unwrap().contains(&format!("\n  {verb}")), "{verb}");
            assert!(help(Some(verb)).unwrap().contains(&format!("dvdcli {verb}")), "{verb}");
        }
        assert!(help(Some("mount")).unwrap().contains("--explicitcreate"));
        assert_eq!(help(Some("attach")).unwrap_err().exit, Exit::Usage);
    }
}
