//! `kato doctor` and `kato recover`: what does not fit together, mending it, and making records again that were
//! lost. Findings are data; how it goes, and what it comes to, is told on standard error.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    output::{Column, Format, column, word},
};

#[derive(Args, Debug)]
#[command(
    after_help = "Mended are only records: a mount that is missing is wished again, what stands here and nobody \
                        holds is taken down as after a last holder, and a volume that came back is used again. \
                        Nothing that could hold data is removed. Ends with 6 while something is left to mend."
)]
pub(super) struct Doctor {
    /// Mend what can be mended without risk
    #[arg(long)]
    fix: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Volumes and snapshots come back by the marks that they carry at their backends, with all that the \
                        newest dump knows of them; what stands mounted here keeps its mount and counts as held until \
                        no container has had it for a while. Nothing is removed, what belongs to another cluster is \
                        left alone, and repeating it is harmless."
)]
pub(super) struct Recover {
    /// Look through all backends, dumps and mounts for what is ours and no record knows
    #[arg(long, required = true)]
    scan: bool,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Take what the marks have no room for from this dump, instead of from those that are kept
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// A name that was too long for its mark; it is checked
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
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

const RECOVERED: &[Column] = &[
    column("FINDING", |finding| word(finding, "code")),
    column("SUBJECT", |finding| word(finding, "subject")),
    column("WHAT", |finding| word(finding, "message")),
];

impl Doctor {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        let mut found = match self.fix {
            true => client.post("/v1/doctor", &json!({}))?,
            false => client.get("/v1/doctor")?,
        };
        let findings = list(&mut found, "items");
        for note in list(&mut found, "notes") {
            tell(note.as_str().unwrap_or_default())?;
        }
        let out = global.out();
        let is_table = matches!(out.format, Format::Table | Format::Wide);
        if findings.is_empty() && is_table {
            out.text("Everything fits together.\n")?;
            return Ok(Exit::Ok);
        }
        out.list(&named_by_subject(&findings, out.format), COLUMNS)?;
        // What a class retains is as somebody wanted it.
        let problems: Vec<&Json> = findings.iter().filter(|one| word(one, "code") != "retained").collect();
        let left = problems.iter().copied().filter(|finding| word(finding, "fixed") != "true");
        let (mendable, by_hand): (Vec<_>, Vec<_>) = left.partition(|one| word(one, "fixable") == "true");
        let mended = problems.len() - mendable.len() - by_hand.len();
        if is_table {
            tell(&format!(
                "{mended} mended, {} left that `kato doctor --fix` mends, {} left to you",
                mendable.len(),
                by_hand.len()
            ))?;
        }
        Ok(if mended == problems.len() { Exit::Ok } else { Exit::Partial })
    }
}

impl Recover {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let mut wish = json!({ "dry_run": self.dry_run, "names": self.names });
        if let (Some(path), Some(wish)) = (&self.dump, wish.as_object_mut()) {
            let lines = fs::read_to_string(path).map_err(|error| super::store::named(path, &error))?;
            wish.insert("dump".to_owned(), lines.into());
        }
        let mut findings = Vec::new();
        let mut ended = false;
        global.client()?.watch_done("/v1/recover", &wish, |mut event| {
            match word(&event, "event").as_str() {
                "progress" if !global.quiet => tell(&word(&event, "text")),
                "finding" => {
                    findings.extend(event.get_mut("finding").map(Json::take));
                    Ok(())
                }
                "failed" => Err(Failure::of_problem(event.get("problem").unwrap_or(&Json::Null))),
                "end" => {
                    ended = true;
                    Ok(())
                }
                _ => Ok(()),
            }
        })?;
        if !ended {
            return Err(Failure::new(Exit::Unreachable, "the daemon ended before the recovery did")
                .next("repeat it: what was recovered stays so"));
        }
        let out = global.out();
        if !findings.is_empty() || !matches!(out.format, Format::Table | Format::Wide) {
            out.list(&named_by_subject(&findings, out.format), RECOVERED)?;
        }
        summary(&findings, self.dry_run)
    }
}

/// What a recovery came to.
fn summary(findings: &[Json], dry_run: bool) -> Result<Exit, Failure> {
    let recovered = |kind: &str| {
        let of_kind = |finding: &&Json| word(finding, "subject").starts_with(kind);
        findings.iter().filter(|one| word(one, "code") == "recovered").filter(of_kind).count()
    };
    let (volumes, snapshots) = (recovered("volume "), recovered("snapshot "));
    // What may have been deleted, or is somebody else's, is for information.
    let left = findings
        .iter()
        .filter(|one| !["recovered", "missing", "foreign"].contains(&word(one, "code").as_str()));
    let left = left.count();
    let verb = if dry_run { "would be taken back" } else { "were taken back" };
    tell(&match (volumes + snapshots, left) {
        (0, 0) => "nothing is to be taken back: every volume and snapshot of ours has its record".to_owned(),
        (_, 0) => format!("{} and {} {verb}", many(volumes, "volume"), many(snapshots, "snapshot")),
        (_, left) => format!(
            "{} and {} {verb}; {} left to you",
            many(volumes, "volume"),
            many(snapshots, "snapshot"),
            many(left, "thing")
        ),
    })?;
    Ok(if left == 0 || dry_run { Exit::Ok } else { Exit::Partial })
}

/// Where names are asked for, a finding's is its subject.
fn named_by_subject(findings: &[Json], format: Format) -> Vec<Json> {
    if format != Format::Name {
        return findings.to_vec();
    }
    findings.iter().map(|finding| json!({ "name": word(finding, "subject") })).collect()
}

fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn list(answer: &mut Json, field: &str) -> Vec<Json> {
    match answer.get_mut(field).map(Json::take) {
        Some(Json::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Says something that is no data.
fn tell(text: &str) -> Result<(), Failure> {
    writeln!(io::stderr().lock(), "kato: {text}")?;
    Ok(())
}
