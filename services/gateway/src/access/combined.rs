//! The combined log format of Apache, which most tools read.

use super::Record;
use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};
use weaver_cache::policy::{Millis, date};

/// `client - user [time] "request" status bytes "referer" "user agent"`.
pub(super) fn line(record: &Record, at: SystemTime) -> String {
    let client = record.client.map(|client| client.to_string());
    format!(
        "{} - {} [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
        client.as_deref().unwrap_or("-"),
        record.user.as_deref().unwrap_or("-"),
        time(at),
        escaped(&record.method),
        escaped(&record.path),
        record.version,
        record.status,
        record.bytes,
        escaped(record.referer.as_deref().unwrap_or("-")),
        escaped(record.user_agent.as_deref().unwrap_or("-")),
    )
}

/// As in `10/Oct/2000:13:55:36 +0000`.
fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(0);
    // As in "Tue, 10 Oct 2000 13:55:36 GMT".
    let date = date::format(Millis(millis));
    let mut parts = date.split(' ').skip(1);
    let mut next = || parts.next().unwrap_or("");
    let (day, month, year, time) = (next(), next(), next(), next());
    format!("{day}/{month}/{year}:{time} +0000")
}

/// What a client wrote must not end a field or a line, nor reach a terminal.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                escaped.push('\\');
                escaped.push(character);
            }
            ' '..='~' => escaped.push(character),
            _ => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    // Writing to a String does not fail.
                    let _ = write!(escaped, "\\x{byte:02x}");
                }
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_is_that_of_the_format_and_nobody_can_break_it() {
        let record = Record {
            method: "GET".to_owned(),
            path: "/a".to_owned(),
            version: "HTTP/1.1".to_owned(),
            status: 200,
            bytes: 2326,
            client: "192.0.2.1".parse().ok(),
            user: Some("aa".to_owned()),
            user_agent: Some("x\" \\ \u{1b}[31m\nä".to_owned()),
            ..Record::default()
        };
        let at = UNIX_EPOCH + Duration::from_secs(971_186_136);
        assert_eq!(
            line(&record, at),
            "192.0.2.1 - aa [10/Oct/2000:13:55:36 +0000] \"GET /a HTTP/1.1\" 200 2326 \"-\" \
             \"x\\\" \\\\ \\x1b[31m\\x0a\\xc3\\xa4\""
        );
    }
}
