//! `--watch`: everything there is, then each thing that changes, until somebody interrupts.

use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    client::Client,
    output::{Column, Format, word},
};

/// Follows the changes of what is listed at this place.
pub(super) fn follow(
    global: &Global,
    client: &Client,
    place: &str,
    noun: &str,
    columns: &[Column],
    matches: impl Fn(&Json) -> bool,
) -> Result<Exit, Failure> {
    let out = global.out();
    let mut first = true;
    client.follow(&format!("{place}/watch"), |event| {
        let kind = word(&event, "event");
        if kind == "failed" {
            return Err(Failure::of_problem(event.get("problem").unwrap_or(&Json::Null)));
        }
        let thing = event.get(noun).cloned().unwrap_or_default();
        match out.format {
            // What is gone has nothing left to be filtered by.
            Format::Json if kind == "gone" || matches(&thing) => out.text(&format!("{event}\n")),
            Format::Json => Ok(()),
            _ if kind == "gone" => {
                let gone = json!({ "name": word(&thing, "name"), "state": "gone" });
                global.out_without_headers().list(&[gone], columns)
            }
            _ if matches(&thing) => {
                let out =
                    if std::mem::take(&mut first) { global.out() } else { global.out_without_headers() };
                out.list(&[thing], columns)
            }
            _ => Ok(()),
        }
    })?;
    Ok(Exit::Ok)
}
