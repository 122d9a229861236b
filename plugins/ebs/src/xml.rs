//! The little of XML that EC2 answers in: elements and text, no meaning in attributes, no document types. Whatever is
//! malformed or too deep is nothing, and nothing is never taken for an empty answer.

/// How deep elements may lie in each other.
const DEPTH: usize = 32;

/// An element with what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The outermost element.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = std::str::from_utf8(bytes).ok()?;
        let mut open: Vec<Self> = Vec::new();
        loop {
            let (text, tag) = rest.split_once('<')?;
            match open.last_mut() {
                Some(element) => element.text.push_str(&decoded(text)?),
                None if text.trim().is_empty() => {}
                None => return None,
            }
            if let Some(after) = tag.strip_prefix('?') {
                rest = after.split_once("?>")?.1;
                continue;
            }
            if let Some(after) = tag.strip_prefix("!--") {
                rest = after.split_once("-->")?.1;
                continue;
            }
            if tag.starts_with('!') {
                return None;
            }
            let (tag, after) = tag.split_once('>')?;
            rest = after;
            let done = if let Some(name) = tag.strip_prefix('/') {
                let element = open.pop()?;
                if element.name != name.trim_end() {
                    return None;
                }
                element
            } else {
                let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
                let name = tag.split_ascii_whitespace().next()?.to_owned();
                let element = Self { name, ..Self::default() };
                if !empty {
                    if open.len() == DEPTH {
                        return None;
                    }
                    open.push(element);
                    continue;
                }
                element
            };
            match open.last_mut() {
                Some(parent) => parent.children.push(done),
                None => return rest.trim().is_empty().then_some(done),
            }
        }
    }

    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child that has some.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The text of a child, or nothing.
    pub(crate) fn word(&self, name: &str) -> String {
        self.text(name).unwrap_or_default().to_owned()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| text.trim() == "true")
    }

    /// What is listed in a child.
    pub(crate) fn items(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.child(name).into_iter().flat_map(|list| &list.children).filter(|child| child.name == "item")
    }
}

/// Text with its entities replaced.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('&');
    let mut decoded = parts.next()?.to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';')?;
        decoded.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#')?;
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code)?
            }
        });
        decoded.push_str(rest);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_text_are_read() {
        let text = "<?xml version=\"1.0\"?>\n<!-- so --><r xmlns=\"http://ec2/\"><a>1</a><set><item><k>x &lt;&#65;&#x42;&amp;</k>\
                    </item><item/></set><no/><yes>true</yes></r>\n";
        let root = Element::read(text.as_bytes()).unwrap();
        assert_eq!((root.number("a"), root.flag("yes"), root.flag("no")), (Some(1), true, false));
        let items: Vec<_> = root.items("set").collect();
        assert_eq!((items.len(), items[0].text("k")), (2, Some("x <AB&")));
        assert_eq!(
            (root.text("no"), root.word("none"), root.items("none").count()),
            (None, String::new(), 0)
        );
    }

    #[test]
    fn what_is_malformed_is_nothing() {
        let deep = format!("{}{}", "<a>".repeat(DEPTH + 1), "</a>".repeat(DEPTH + 1));
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a>&x;</a>",
            "<a>&lt</a>",
            "<!DOCTYPE a><a/>",
            "<>",
            &deep,
        ] {
            assert_eq!(Element::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Element::read(b"<a>\xff</a>"), None);
    }
}
