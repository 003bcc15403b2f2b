//! Secrets: as they come from a variable or a file, without what an editor or a Kubernetes Secret puts
//! around them. What goes wrong with one is told without the secret.

use std::{fs::File, io::Read as _};

/// Bytes of a file with secrets.
const MAX_FILE: u64 = 1 << 20;

/// Without spaces, tabs and ends of lines at both ends.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// A secret that is sent, or compared with what is sent, in a field (RFC 9110 §5.5). Bytes outside ASCII
/// could stand there, but clients and servers do not agree on what they are.
pub(super) fn field_value(text: &str) -> Result<String, String> {
    let text = trim(text);
    let is_sendable = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    if text.bytes().all(is_sendable) {
        Ok(text.to_owned())
    } else {
        Err(
            "has a control character, such as the end of a line, or one outside ASCII, which cannot \
             be sent in a header field; write the secret without it"
                .to_owned(),
        )
    }
}

/// What a file of secrets holds.
pub(super) fn file(path: &str) -> Result<String, String> {
    let cannot = |what: &dyn std::fmt::Display| format!("{path:?} cannot be read: {what}");
    // Opening a pipe that nobody writes to would take forever.
    let metadata = std::fs::metadata(path).map_err(|error| cannot(&error))?;
    if !metadata.is_file() {
        return Err(cannot(&"it is not a file"));
    }
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
    read.map_err(|error| cannot(&error))?;
    if text.len() as u64 > MAX_FILE {
        return Err(cannot(&format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_no_ends_of_lines_around_it_and_none_in_it() {
        for given in ["s3cr et", " s3cr et\n", "\r\n\ts3cr et \r\n"] {
            assert_eq!(field_value(given).as_deref(), Ok("s3cr et"), "{given:?}");
        }
        for bad in [
            "s3cr\net",
            "s3cr\0et",
            "s3cr\u{7f}et",
            "s3crét",
            "\u{feff}s3cret",
        ] {
            let told = field_value(bad).unwrap_err();
            assert!(!told.contains("s3cr"), "{told}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        for bad in ["/no/such/file", "/dev/zero", "/"] {
            let told = file(bad).unwrap_err();
            assert!(told.starts_with(&format!("{bad:?}")), "{told}");
        }
    }
}
