//! Content codings (RFC 9110 §12.5.3): a canonical form of Accept-Encoding, and who accepts a coding.

use crate::{
    Headers,
    headers::{list, trim},
};

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
            let coding = short(&coding);
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

/// The name of a coding that had another before (RFC 9110 §8.4.1).
fn short(coding: &str) -> &str {
    match coding {
        "x-gzip" => "gzip",
        "x-compress" => "compress",
        other => other,
    }
}

/// The codings of a response, in lower case, in the order in which they were applied; `identity`, which
/// is none, left out.
pub(crate) fn applied(response: &(impl Headers + ?Sized)) -> Vec<String> {
    list(response.lines("content-encoding"))
        .map(|coding| String::from_utf8_lossy(coding).to_ascii_lowercase())
        .map(|coding| short(&coding).to_owned())
        .filter(|coding| coding != "identity")
        .collect()
}

/// Whether a request accepts a coding: one without Accept-Encoding accepts any.
pub(crate) fn is_accepted(coding: &str, request: &(impl Headers + ?Sized)) -> bool {
    if !request.has("accept-encoding") {
        return true;
    }
    let mut by_star = None;
    let mut named = None;
    for (member, weight) in weighted(request.lines("accept-encoding")) {
        if short(&member) == coding {
            // What is refused anywhere is refused.
            named = Some(named.unwrap_or(true) && weight > 0);
        } else if member == "*" {
            by_star = Some(weight > 0);
        }
    }
    named.or(by_star).unwrap_or(false)
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

    #[test]
    fn a_coding_is_accepted_by_name_by_star_and_where_nothing_is_said() {
        let accepts = |line: Option<&str>, coding| {
            let request: Vec<(&str, &str)> =
                line.iter().map(|line| ("accept-encoding", *line)).collect();
            is_accepted(coding, &request[..])
        };
        assert!(accepts(None, "gzip"));
        for line in ["gzip", "br, X-GZIP;q=0.1", "*", "*;q=0, gzip"] {
            assert!(accepts(Some(line), "gzip"), "{line}");
        }
        for line in [
            "",
            "identity",
            "br",
            "gzip;q=0",
            "*, gzip;q=0",
            "*;q=0",
            "gzip;q=x",
        ] {
            assert!(!accepts(Some(line), "gzip"), "{line}");
        }
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
