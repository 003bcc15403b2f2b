//! Values with units.

use std::time::Duration;

/// A URL as it may be shown: without a user and password, and without a query, which may have a key.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or("");
    match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
            let scheme = if scheme.bytes().all(is_plain) {
                scheme
            } else {
                ""
            };
            format!("{scheme}://***@{host}")
        }
        None => url.to_owned(),
    }
}

/// Reads a duration: seconds as a number, or text such as `250ms`, `1.5s`, `1m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("{text:?} has no unit among ms, s, m, h, d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no duration"))?;
    // Ten years: longer is a slip of the unit.
    let seconds = number * factor;
    if !(0.0..=315_360_000.0).contains(&seconds) {
        return Err(format!("{text:?} is not between 0 and 10 years"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads a size: bytes as a number, or text such as `64KiB`, `256MiB`, `1GiB`, `10MB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => {
            return Err(format!(
                "{text:?} has no unit among B, KB, MB, GB, KiB, MiB, GiB"
            ));
        }
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no size"))?;
    let bytes = number * factor as f64;
    if !(0.0..=1e15).contains(&bytes) {
        return Err(format!("{text:?} is not between 0 and 1 PB"));
    }
    Ok(bytes as u64)
}

/// Splits at the first letter.
fn split(text: &str) -> (&str, &str) {
    let at = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    (text[..at].trim(), text[at..].trim())
}

/// Reads `host:port`; a missing port is `default`.
pub(super) fn host_and_port(text: &str, default: u16) -> Result<(String, u16), String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() => {
            let port = port
                .parse()
                .map_err(|_| format!("{text:?} has no port after the colon"))?;
            Ok((
                host.trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned(),
                port,
            ))
        }
        None if !text.is_empty() => Ok((text.to_owned(), default)),
        _ => Err(format!("{text:?} is not host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("1m", 60_000),
            ("5", 5000),
            ("5.0", 5000),
            ("1.5 s", 1500),
            ("2h", 7_200_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "1y",
            "ms",
            "-1s",
            "1 fortnight",
            "nan",
            "inf",
            "99999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert_eq!(size("17"), Ok(17));
        assert!(size("-1").is_err());
        assert!(size("1TiB").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = (duration(&text), size(&text), host_and_port(&text, 1));
        }
    }
}
