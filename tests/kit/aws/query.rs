//! What a client asks of EC2: a form of names and values, in which lists are numbered from one and filters have names and
//! values of their own. Nothing here knows an action.

use std::collections::BTreeMap;

use super::{error::Refusal, world::Tags};
use crate::{clock::Moment, http::pairs};

/// How many values a filter may have.
const FILTER_VALUES: usize = 200;

/// How long a page's token is good for.
const PAGE_LIFE: Moment = Moment::from_secs(3600);

/// The parameters of a call.
#[derive(Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(form: &str) -> Self {
        Self(pairs(form).into_iter().collect())
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).filter(|value| !value.is_empty()).ok_or_else(|| Refusal::missing(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse =
            |text: &str| text.parse().map_err(|_| Refusal::value(name, text, "It is no whole number."));
        self.text(name).map(parse).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// The values of `name.1`, `name.2` and so on.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        (1..).map_while(|number| self.text(&format!("{name}.{number}"))).collect()
    }

    /// The tags of `prefix.1.Key`, `prefix.1.Value` and so on.
    pub(super) fn tags(&self, prefix: &str) -> Result<Tags, Refusal> {
        let mut tags = Tags::new();
        for number in 1.. {
            let Some(key) = self.text(&format!("{prefix}.{number}.Key")) else { break };
            let value = self.text(&format!("{prefix}.{number}.Value")).unwrap_or_default();
            if key.starts_with("aws:") || key.is_empty() || key.chars().count() > 127 {
                return Err(Refusal::value(
                    "key",
                    key,
                    "Tag keys are of 1 to 127 letters and do not begin with aws:",
                ));
            }
            if value.chars().count() > 255 {
                return Err(Refusal::value("value", value, "Tag values are of 255 letters at most."));
            }
            tags.insert(key.to_owned(), value.to_owned());
        }
        if tags.len() > 50 {
            return Err(Refusal::new(
                "TagLimitExceeded",
                "The maximum number of Tags for a resource has been reached.",
            ));
        }
        Ok(tags)
    }

    /// The tags with which something of this kind is to be made.
    pub(super) fn tags_for(&self, kind: &str) -> Result<Tags, Refusal> {
        let mut tags = Tags::new();
        for number in 1.. {
            let prefix = format!("TagSpecification.{number}");
            let Some(named) = self.text(&format!("{prefix}.ResourceType")) else { break };
            if named != kind {
                let why = format!("'{named}' is not a valid taggable resource type for this operation.");
                return Err(Refusal::new("InvalidParameterValue", why));
            }
            tags.extend(self.tags(&format!("{prefix}.Tag"))?);
        }
        Ok(tags)
    }

    /// Everything that makes the call what it is, without what only names it.
    pub(super) fn asked(&self) -> Vec<(String, String)> {
        let names = ["Action", "Version", "ClientToken"];
        let told = self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        told.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// What is asked for by what it is like. Of `known` names, `tag:` stands for every tag.
    pub(super) fn filters(&self, known: &[&str]) -> Result<Filters, Refusal> {
        let mut filters = Vec::new();
        for number in 1.. {
            let Some(name) = self.text(&format!("Filter.{number}.Name")) else { break };
            let kind = if name.starts_with("tag:") { "tag:" } else { name };
            if !known.contains(&kind) {
                return Err(Refusal::new("InvalidParameterValue", format!("The filter '{name}' is invalid")));
            }
            let values = self.list(&format!("Filter.{number}.Value"));
            if values.len() > FILTER_VALUES {
                let why = format!(
                    "The maximum number of filter values specified on a single call is {FILTER_VALUES}"
                );
                return Err(Refusal::new("FilterLimitExceeded", why));
            }
            filters.push((name.to_owned(), values.into_iter().map(str::to_owned).collect()));
        }
        Ok(Filters(filters))
    }

    /// How many are to be on a page at most, and behind which the page begins.
    pub(super) fn page(&self, most: u64, now: Moment) -> Result<Page, Refusal> {
        let size = self.number("MaxResults")?;
        if let Some(size) = size
            && size < 5
        {
            return Err(Refusal::value("maxResults", size, "Expecting a value greater than 5."));
        }
        let behind = self.text("NextToken").filter(|token| !token.is_empty());
        let behind = behind.map(|token| Page::behind(token, now)).transpose()?;
        Ok(Page { size: size.map(|size| size.min(most)), behind, now })
    }
}

/// What is asked for by what it is like.
#[derive(Debug)]
pub(super) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    /// Whether something passes of which `field` tells what it has of a name.
    pub(super) fn pass(&self, field: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|(name, values)| {
            let found = field(name);
            values.iter().any(|value| found.iter().any(|found| is_like(value, found)))
        })
    }
}

/// What there is of `tag-key` and of `tag:KEY`.
pub(super) fn tag_field(tags: &Tags, name: &str) -> Vec<String> {
    if name == "tag-key" {
        return tags.keys().cloned().collect();
    }
    let value = name.strip_prefix("tag:").and_then(|key| tags.get(key));
    value.into_iter().cloned().collect()
}

/// Whether a text is of this pattern, in which `*` is anything and `?` a letter.
fn is_like(pattern: &str, text: &str) -> bool {
    fn from(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                (0..=text.len()).any(|skip| from(rest, text.get(skip..).unwrap_or_default()))
            }
            (['?', pattern @ ..], [_, text @ ..]) => from(pattern, text),
            ([wanted, pattern @ ..], [letter, text @ ..]) => wanted == letter && from(pattern, text),
            _ => false,
        }
    }
    from(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    size: Option<u64>,
    behind: Option<String>,
    now: Moment,
}

impl Page {
    pub(super) fn is_asked_for(&self) -> bool {
        self.size.is_some() || self.behind.is_some()
    }

    /// Of these, in the order of their ids, those of the page; and the token of the next.
    pub(super) fn of<T>(
        &self,
        all: impl IntoIterator<Item = (String, T)>,
    ) -> (Vec<(String, T)>, Option<String>) {
        let mut rest = all
            .into_iter()
            .filter(|(id, _)| self.behind.as_ref().is_none_or(|behind| id > behind))
            .peekable();
        let size = self.size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let more = rest.peek().is_some();
        let token = page.last().filter(|_| more).map(|(last, _)| {
            let until = (self.now + PAGE_LIFE).as_millis();
            format!("{until}:{last}").bytes().map(|byte| format!("{byte:02x}")).collect()
        });
        (page, token)
    }

    fn behind(token: &str, now: Moment) -> Result<String, Refusal> {
        let malformed = || Refusal::new("InvalidNextToken", "The specified NextToken is not valid.");
        let byte = |at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<_>> = (0..token.len()).step_by(2).map(byte).collect();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(malformed)?;
        let (until, last) = text.split_once(':').ok_or_else(malformed)?;
        if until.parse::<u128>().map_err(|_| malformed())? < now.as_millis() {
            return Err(expired_page());
        }
        Ok(last.to_owned())
    }
}

/// The token of a page was kept for too long.
pub(super) fn expired_page() -> Refusal {
    Refusal::new("InvalidPaginationToken", "The specified pagination token is not valid or is expired.")
}

/// A text as it stands in a URL.
pub(super) fn encoded(text: &str) -> String {
    let mut url = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_patterns() {
        assert!(is_like("db-*", "db-1") && is_like("d?-1", "db-1") && is_like("*", ""));
        assert!(!is_like("db", "db-1") && !is_like("d?", "d"));
    }

    #[test]
    fn pages_follow_each_other_until_their_tokens_expire() {
        let all = || (0..7).map(|number| (format!("vol-{number}"), number));
        let query = Query::parse("MaxResults=5");
        let (first, token) = query.page(500, Moment::ZERO).unwrap().of(all());
        let next = Query::parse(&format!("MaxResults=5&NextToken={}", token.unwrap()));
        let (second, token) = next.page(500, Moment::from_secs(60)).unwrap().of(all());
        assert_eq!((first.len(), second.len(), token), (5, 2, None));
        assert_eq!(next.page(500, Moment::from_secs(3601)).unwrap_err().code, "InvalidPaginationToken");
        assert_eq!(
            Query::parse("NextToken=zz").page(500, Moment::ZERO).unwrap_err().code,
            "InvalidNextToken"
        );
    }

    #[test]
    fn a_form_is_decoded() {
        let query = Query::parse("Filter.1.Name=tag%3Ax&Filter.1.Value.1=a+b&Filter.1.Value.2=%C3%A4");
        assert_eq!(query.list("Filter.1.Value"), ["a b", "ä"]);
        assert_eq!(encoded("a b/ä"), "a%20b%2F%C3%A4");
    }
}
