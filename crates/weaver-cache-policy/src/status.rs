//! The Cache-Status response field (RFC 9211).

/// Why a request went forward (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The cache was configured not to handle it.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// Nothing is stored for the URI.
    UriMiss,
    /// Something is stored, but not for these selecting fields.
    VaryMiss,
    /// The request's directives require it.
    Request,
    /// What is stored is stale.
    Stale,
    /// What is stored has not all of the requested range.
    Partial,
}

impl Forward {
    /// The token of the registry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// One cache's member of the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Why the request went forward; `None` is a hit.
    pub forward: Option<Forward>,
    /// The status the next hop answered with, where it differs from what is sent on.
    pub forward_status: Option<u16>,
    /// Seconds of freshness left, negative when stale.
    pub ttl: Option<i64>,
    /// Whether the response was stored.
    pub stored: bool,
    /// Whether the request joined another's fetch.
    pub collapsed: bool,
    /// A word more.
    pub detail: Option<&'static str>,
}

impl Member {
    /// Writes it for a cache of that name; the name is an sf-token, so without spaces.
    #[must_use]
    pub fn to_field(&self, cache: &str) -> String {
        let mut field = String::with_capacity(48);
        field.push_str(cache);
        match self.forward {
            None => field.push_str("; hit"),
            Some(reason) => {
                field.push_str("; fwd=");
                field.push_str(reason.as_str());
            }
        }
        if let Some(status) = self.forward_status {
            field.push_str("; fwd-status=");
            push_number(&mut field, status.into());
        }
        if let Some(ttl) = self.ttl {
            field.push_str(if ttl < 0 { "; ttl=-" } else { "; ttl=" });
            push_number(&mut field, ttl.unsigned_abs());
        }
        if self.stored {
            field.push_str("; stored");
        }
        if self.collapsed {
            field.push_str("; collapsed");
        }
        if let Some(detail) = self.detail {
            field.push_str("; detail=");
            field.push_str(detail);
        }
        field
    }
}

/// Digits, without the formatting machinery: this runs for every hit.
fn push_number(field: &mut String, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    field.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_the_rfc_are_written_as_there() {
        let hit = Member {
            ttl: Some(376),
            ..Member::default()
        };
        assert_eq!(hit.to_field("weaver"), "weaver; hit; ttl=376");
        let miss = Member {
            forward: Some(Forward::UriMiss),
            stored: true,
            ..Member::default()
        };
        assert_eq!(miss.to_field("weaver"), "weaver; fwd=uri-miss; stored");
        let revalidated = Member {
            forward: Some(Forward::Stale),
            forward_status: Some(304),
            ttl: Some(-5),
            collapsed: true,
            detail: Some("too-large"),
            ..Member::default()
        };
        assert_eq!(
            revalidated.to_field("weaver"),
            "weaver; fwd=stale; fwd-status=304; ttl=-5; collapsed; detail=too-large"
        );
    }

    #[test]
    fn every_member_is_a_structured_field() {
        let member = Member {
            forward: Some(Forward::Bypass),
            detail: Some(crate::Bypass::HitForMiss.as_str()),
            ..Member::default()
        };
        let field = member.to_field("weaver");
        assert!(
            sfv::Parser::new(field.as_bytes())
                .parse::<sfv::List>()
                .is_ok()
        );
    }
}
