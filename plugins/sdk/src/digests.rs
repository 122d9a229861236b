//! Digests at the host's speed, five times that of the same code in a component, and how they stand in headers.

use crate::worlds::digests::kato::storage::digests;

/// The SHA-256 of these bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digests::sha256(bytes)
}

/// These bytes in base64, with padding.
///
/// ```
/// assert_eq!(kato_plugin_sdk::digests::base64(b"foobar"), "Zm9vYmFy");
/// ```
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter =
                LETTERS.get((bits >> (18 - 6 * place) & 63) as usize).filter(|_| place <= three.len());
            text.push(char::from(*letter.unwrap_or(&b'=')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_multiple_of_three_is_padded() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
