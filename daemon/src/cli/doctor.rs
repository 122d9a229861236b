//! `kato doctor` and `kato recover`: what does not fit together, and mending it.

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    output::{Column, Format, column, word},
};

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Mend what can be mended without risk
    #[arg(long)]
    fix: bool,
}

#[derive(Args, Debug)]
pub(super) struct Recover {
    /// Look through all backends for volumes of ours that no record knows
    #[arg(long, required = true)]
    scan: bool,
}

const COLUMNS: &[Column] = &[
    column("FINDING", |finding| word(finding, "code")),
    column("SUBJECT", |finding| word(finding, "subject")),
    column("MENDED", |finding| match (word(finding, "fixed").as_str(), word(finding, "fixable").as_str()) {
        ("true", _) => "yes".to_owned(),
        (_, "true") => "with --fix".to_owned(),
        _ => "by hand".to_owned(),
    }),
    column("WHAT", |finding| word(finding, "message")),
];

impl Doctor {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        let found = match self.fix {
            true => client.post("/v1/doctor", &json!({}))?,
            false => client.get("/v1/doctor")?,
        };
        let findings = items(found);
        let open = findings.iter().any(|finding| word(finding, "fixed") != "true");
        show(global, &findings)?;
        Ok(if open { Exit::Partial } else { Exit::Ok })
    }
}

impl Recover {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let found = global.client()?.post("/v1/recover", &json!({ "scan": self.scan }))?;
        show(global, &items(found))?;
        Ok(Exit::Ok)
    }
}

fn items(mut page: Json) -> Vec<Json> {
    match page.get_mut("items").map(Json::take) {
        Some(Json::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn show(global: &Global, findings: &[Json]) -> Result<(), Failure> {
    let out = global.out();
    if findings.is_empty() && matches!(out.format, Format::Table | Format::Wide) {
        return out.text("Everything fits together.\n");
    }
    out.list(findings, COLUMNS)
}
