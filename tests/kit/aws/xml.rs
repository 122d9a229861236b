//! How EC2 writes its answers. Elements are opened and closed by a call each, so that none is left open.

/// What is being written.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    /// What was written.
    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// A value.
    pub(super) fn leaf(&mut self, name: &str, value: impl ToString) {
        self.inside(name, |xml| xml.text(&value.to_string()));
    }

    /// A value that there may be.
    pub(super) fn maybe(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.leaf(name, value);
        }
    }

    /// An element with more in it.
    pub(super) fn inside(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.0.push_str(&format!("<{name}>"));
        write(self);
        self.0.push_str(&format!("</{name}>"));
    }

    /// A list, of which each is an `item`.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.inside(name, |xml| {
            for item in items {
                xml.inside("item", |xml| write(xml, item));
            }
        });
    }

    fn text(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                letter => self.0.push(letter),
            }
        }
    }
}
