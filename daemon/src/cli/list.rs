//! Lists: what there is of a noun, filtered, as a table or as the daemon's own words; or watched, each thing as it
//! comes, changes and goes.

use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    client::Client,
    filter::Filter,
    output::{Column, Format, word},
};

/// What is listed.
pub(super) struct List<'a> {
    /// Where the daemon has it.
    pub(super) place: &'static str,
    /// What an event calls the thing that it is about.
    pub(super) noun: &'static str,
    /// How people see it.
    pub(super) columns: &'static [Column],
    /// What has to be so.
    pub(super) filters: &'a [Filter],
}

impl List<'_> {
    fn admits(&self, thing: &Json) -> bool {
        self.filters.iter().all(|filter| filter.admits(thing))
    }

    /// Prints what there is.
    pub(super) fn show(&self, global: &Global, client: &Client) -> Result<Exit, Failure> {
        let mut found = client.list(self.place)?;
        found.retain(|thing| self.admits(thing));
        global.out().list(&found, self.columns)?;
        Ok(Exit::Ok)
    }

    /// Prints what there is, then each that changes.
    pub(super) fn watch(&self, global: &Global, client: &Client) -> Result<Exit, Failure> {
        let out = global.out();
        let mut first = true;
        client.follow(&format!("{}?watch=true", self.place), |event| {
            let kind = word(&event, "event");
            if kind == "failed" {
                return Err(Failure::of_problem(event.get("problem").unwrap_or(&Json::Null)));
            }
            let mut thing = event.get(self.noun).cloned().unwrap_or_default();
            match out.format {
                // What is gone has nothing left to be filtered by.
                Format::Json if kind == "gone" || self.admits(&thing) => out.text(&format!("{event}\n")),
                Format::Json => Ok(()),
                _ if kind == "gone" => {
                    if let Some(thing) = thing.as_object_mut() {
                        thing.insert("state".to_owned(), json!("gone"));
                    }
                    global.out_without_headers().list(&[thing], self.columns)
                }
                _ if self.admits(&thing) => {
                    let out =
                        if std::mem::take(&mut first) { global.out() } else { global.out_without_headers() };
                    out.list(&[thing], self.columns)
                }
                _ => Ok(()),
            }
        })?;
        Ok(Exit::Ok)
    }
}
