//! What a JSON text takes in memory once it is parsed: up to a hundred times its length.

/// A value in a list, whose room may be twice what it needs.
const ITEM: u64 = 64;
/// An object with up to eleven members: a node of a tree has room for as many.
const OBJECT: u64 = 640;

/// An estimate, rather too high, that reads the text once.
pub(super) fn parsed(json: &[u8]) -> u64 {
    // As much for the texts in it.
    let mut size = json.len() as u64;
    let (mut in_text, mut is_escaped) = (false, false);
    for byte in json {
        if in_text {
            in_text = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' => size += OBJECT,
            b'[' | b',' | b':' => size += ITEM,
            _ => {}
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_count_and_what_stands_in_texts_does_not() {
        assert_eq!(parsed(b"[1,2]"), 5 + 2 * ITEM);
        assert_eq!(parsed(br#"{"a":1}"#), 7 + OBJECT + ITEM);
        let text = br#"["{[,:\"{[,\\",","]"#;
        assert_eq!(parsed(text), text.len() as u64 + 2 * ITEM);
        assert_eq!(parsed(br#""\\"[["#), 6 + 2 * ITEM);
    }
}
