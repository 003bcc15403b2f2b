//! Content codings (RFC 9110 §12.5.3): a canonical form of Accept-Encoding.

use crate::headers::{list, trim};

/// One member of an Accept-Encoding or Accept-Language list: its value in lower case, and its
/// weight in thousandths.
pub(crate) fn weighted<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
) -> impl Iterator<Item = (String, u16)> {
    list(lines).filter_map(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(trim);
        let value = std::str::from_utf8(parts.next()?)
            .ok()?
            .to_ascii_lowercase();
        let weight = parts
            .find_map(|part| match part {
                [b'q' | b'Q', b'=', digits @ ..] => Some(quality(digits)),
                _ => None,
            })
            .unwrap_or(1000);
        (!value.is_empty()).then_some((value, weight))
    })
}

/// A qvalue in thousandths (RFC 9110 §12.4.2). What is no qvalue counts as 0, "not acceptable":
/// better a body that is sent plain than one the client cannot read.
fn quality(digits: &[u8]) -> u16 {
    let Ok(text) = std::str::from_utf8(digits) else {
        return 0;
    };
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) && text.len() <= 5 => (value * 1000.0) as u16,
        _ => 0,
    }
}

/// The canonical form of Accept-Encoding: what is acceptable and what is refused, sorted, without
/// the weights.
///
/// Two requests with the same form accept the same codings, so that a response chosen for one is
/// never unreadable to the other; the preference among them is lost, which costs at most bytes.
/// `x-gzip` and `x-compress` are their short names (§8.4.1).
#[must_use]
pub fn canonical<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut members: Vec<String> = weighted(lines)
        .map(|(coding, weight)| {
            let coding = match coding.as_str() {
                "x-gzip" => "gzip",
                "x-compress" => "compress",
                other => other,
            };
            if weight == 0 {
                format!("{coding};q=0")
            } else {
                coding.to_owned()
            }
        })
        .collect();
    members.sort_unstable();
    members.dedup();
    members.join(",").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(lines: &[&str]) -> String {
        String::from_utf8(canonical(lines.iter().map(|line| line.as_bytes()))).unwrap()
    }

    #[test]
    fn order_case_weight_and_lines_do_not_matter() {
        assert_eq!(of(&["gzip, br"]), "br,gzip");
        assert_eq!(of(&["BR;q=1.0", "x-gzip;q=0.5"]), "br,gzip");
        assert_eq!(of(&["br, gzip, br"]), "br,gzip");
    }

    #[test]
    fn what_is_refused_stays_apart_from_what_is_not_mentioned() {
        assert_eq!(of(&["gzip;q=0, br"]), "br,gzip;q=0");
        assert_eq!(of(&["gzip;q=0.000"]), "gzip;q=0");
        assert_eq!(of(&["gzip;q=nonsense"]), "gzip;q=0");
        assert_eq!(of(&[""]), "");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = canonical(std::iter::once(&bytes[..]));
        }

        #[test]
        fn the_form_of_a_form_is_itself(line in "[a-z,;=q0-9. ]{0,40}") {
            let once = canonical(std::iter::once(line.as_bytes()));
            prop_assert_eq!(canonical(std::iter::once(&once[..])), once);
        }
    }
}
