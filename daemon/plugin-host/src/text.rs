//! Text from strangers, made fit for a log and a terminal: one line, no control characters (an ANSI sequence
//! loses its escape and with it its power), not too long.

/// One line of at most so many bytes.
pub(crate) fn line(text: &str, longest: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(longest));
    for character in text.chars() {
        let character = match character {
            '\n' | '\r' | '\t' => ' ',
            hidden if hidden.is_control() || is_format(hidden) => continue,
            visible => visible,
        };
        if character == ' ' && (clean.is_empty() || clean.ends_with(' ')) {
            continue;
        }
        if clean.len() + character.len_utf8() > longest {
            clean.push('…');
            break;
        }
        clean.push(character);
    }
    clean.truncate(clean.trim_end().len());
    clean
}

/// Characters that turn the direction of text or hide in it.
fn is_format(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_line_breaks_and_length_are_taken_away() {
        assert_eq!(line("a\u{1b}[31mred\u{1b}]0;title\u{7}\r\nb\u{202e}c  d ", 100), "a[31mred]0;title bc d");
        assert_eq!(line(&"ü".repeat(100), 10), format!("{}…", "ü".repeat(5)));
        assert_eq!(line("\n \n", 10), "");
    }
}
