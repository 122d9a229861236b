//! `kato config`: checking, showing and explaining the configuration, mostly without any daemon.

use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    output::{Format, word},
};
use crate::{
    config::{load, print},
    yaml::yaml,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Tell every mistake in the configuration
    Check,
    /// Show what is written and where
    Show {
        /// Everything that is in force, written or not
        #[arg(long)]
        effective: bool,
    },
    /// Print a JSON schema for editors
    Schema,
    /// Print a file with every key explained
    Default,
    /// Have the daemon read its configuration again
    Reload,
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let out = global.out();
        let read =
            || load(&global.sources()).map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()));
        match self {
            Self::Check => {
                read()?;
                out.text("The configuration has no mistakes.\n")?;
            }
            Self::Show { effective } => {
                let config = read()?;
                match out.format {
                    Format::Json => out.things(vec![print::show_json(&config, effective)])?,
                    Format::Yaml => out.text(&yaml(&print::show_json(&config, effective)))?,
                    Format::Table | Format::Wide | Format::Name => {
                        out.text(&print::show(&config, effective))?
                    }
                }
            }
            Self::Schema => {
                let mut text = serde_json::to_string_pretty(&print::schema()).unwrap_or_default();
                text.push('\n');
                out.text(&text)?;
            }
            Self::Default => out.text(&print::default_file())?,
            Self::Reload => {
                let answer = global.client()?.post("/v1/config/reload", &json!({}))?;
                match out.format {
                    Format::Json | Format::Yaml => out.things(vec![answer])?,
                    Format::Table | Format::Wide | Format::Name => out.text(&changes(&answer))?,
                }
            }
        }
        Ok(Exit::Ok)
    }
}

/// What a reload did, for a person.
fn changes(answer: &Json) -> String {
    let list = |field: &str| answer.get(field).and_then(Json::as_array).cloned().unwrap_or_default();
    let mut text = String::new();
    for key in list("applied").iter().filter_map(Json::as_str) {
        text.push_str(&format!("{key} is in force\n"));
    }
    for key in list("needs_restart").iter().filter_map(Json::as_str) {
        text.push_str(&format!("{key} has changed and needs a restart of the daemon\n"));
    }
    for broken in &list("broken") {
        text.push_str(&format!("backend {} cannot be used: {}\n", word(broken, "name"), word(broken, "why")));
    }
    if text.is_empty() {
        text.push_str("Nothing has changed.\n");
    }
    text
}
