//! What a command prints. Data goes to standard output and nothing else does; a table for people, or the
//! daemon's own words as JSON, as YAML, or as bare names for scripts.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value as Json;

use super::exit::Failure;
use crate::{config::environment, yaml::yaml};

/// In which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns for people.
    Wide,
    /// The daemon's words as they are.
    Json,
    /// The same, easier on the eye.
    Yaml,
    /// One name a line.
    Name,
}

/// Where output goes.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) headers: bool,
    bold: bool,
}

/// A column: its title and what it says of a thing.
pub(crate) struct Column {
    title: &'static str,
    wide: bool,
    cell: fn(&Json) -> String,
}

/// A column that is always shown.
pub(crate) const fn column(title: &'static str, cell: fn(&Json) -> String) -> Column {
    Column { title, wide: false, cell }
}

/// A column that only the wide table has room for.
pub(crate) const fn wide(title: &'static str, cell: fn(&Json) -> String) -> Column {
    Column { title, wide: true, cell }
}

impl Output {
    pub(crate) fn new(format: Format, quiet: bool, no_headers: bool) -> Self {
        let format = if quiet { Format::Name } else { format };
        let bold = io::stdout().is_terminal() && !environment::no_color();
        Self { format, headers: !no_headers, bold }
    }

    /// Prints a list.
    pub(crate) fn list(&self, items: &[Json], columns: &[Column]) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => self.text(&self.table(items, columns)),
            Format::Json => self.text(&pretty(&Json::from(items))),
            Format::Yaml => self.text(&yaml(&Json::from(items))),
            Format::Name => self.text(&names(items)),
        }
    }

    /// Prints one thing, or several as a list.
    pub(crate) fn things(&self, mut items: Vec<Json>) -> Result<(), Failure> {
        match (self.format, items.len()) {
            (Format::Name, _) => self.text(&names(&items)),
            (Format::Json, 1) => self.text(&pretty(&items.remove(0))),
            (Format::Json, _) => self.text(&pretty(&Json::from(items))),
            (Format::Table | Format::Wide | Format::Yaml, 1) => self.text(&yaml(&items.remove(0))),
            (Format::Table | Format::Wide | Format::Yaml, _) => self.text(&yaml(&Json::from(items))),
        }
    }

    /// Prints bytes as they are.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are.
    #[expect(clippy::unused_self, reason = "printing is this type's alone")]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    fn table(&self, items: &[Json], columns: &[Column]) -> String {
        let shown: Vec<&Column> =
            columns.iter().filter(|column| self.format == Format::Wide || !column.wide).collect();
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| shown.iter().map(|column| printable(&(column.cell)(item))).collect())
            .collect();
        let mut widths: Vec<usize> =
            shown.iter().map(|column| if self.headers { column.title.len() } else { 0 }).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        if self.headers {
            let titles: Vec<String> = shown.iter().map(|column| column.title.to_owned()).collect();
            let line = aligned(&titles, &widths);
            if self.bold {
                text += &format!("\u{1b}[1m{line}\u{1b}[0m\n");
            } else {
                text += &format!("{line}\n");
            }
        }
        for row in &rows {
            text += &format!("{}\n", aligned(row, &widths));
        }
        text
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += &format!("{cell:<width$}   ");
    }
    line.trim_end().to_owned()
}

/// A name may hold anything; a terminal must not be told to do things by one.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn names(items: &[Json]) -> String {
    items.iter().fold(String::new(), |text, item| text + &printable(&word(item, "name")) + "\n")
}

fn pretty(value: &Json) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// A field as text; empty if there is none.
pub(crate) fn word(item: &Json, field: &str) -> String {
    match item.get(field) {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] =
        &[column("NAME", |item| word(item, "name")), wide("ID", |item| word(item, "id"))];

    fn output(format: Format, headers: bool) -> Output {
        Output { format, headers, bold: false }
    }

    #[test]
    fn tables_line_up_and_hide_what_a_terminal_would_obey() {
        let items = [json!({ "name": "a\u{1b}[2J", "id": 1 }), json!({ "name": "long-name" })];
        assert_eq!(output(Format::Table, true).table(&items, COLUMNS), "NAME\na\u{fffd}[2J\nlong-name\n");
        let wide = output(Format::Wide, false).table(&items, COLUMNS);
        assert_eq!(wide, "a\u{fffd}[2J       1\nlong-name   -\n");
    }
}
