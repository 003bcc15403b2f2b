use std::fmt;

/// Why a request or its response goes past the cache.
///
/// The names are the `detail` of Cache-Status and a metric label, so they are few and fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bypass {
    /// The cache is switched off for this route.
    Off,
    /// The method is not one that is answered from the cache (RFC 9111 §3).
    Method,
    /// The rule sends requests like this past the cache.
    Rule,
    /// The rule keeps a store for each user, and nothing tells whose request it is.
    NoIdentity,
    /// Readers of the URL resolve its path differently, so that it may be another's.
    AmbiguousPath,
    /// The request carries a precondition that only the origin can judge (RFC 9110 §13.1).
    Precondition,
    /// The request asks to switch protocols, or carries a body.
    NotPlain,
    /// The request says `no-store` (RFC 9111 §5.2.1.5).
    RequestNoStore,
    /// The response says `no-store` (§5.2.2.5).
    NoStore,
    /// The response is `private` and no partition of one user was chosen (§5.2.2.7).
    Private,
    /// The request was authenticated and the response does not say that it may be shared (§3.5).
    Authenticated,
    /// The response varies on something that the cache cannot see: `Vary: *` (§4.1), or a field that is
    /// written behind the cache.
    VaryStar,
    /// A 304 says that the stored response is selected by other request fields than before (§4.1).
    VaryChanged,
    /// The response has more or longer tags than a purge may name.
    Tags,
    /// The status is not final, or not understood although `must-understand` is there (§3, §5.2.2.3).
    Status,
    /// The response is partial in a form that is not stored (§3.3).
    Partial,
    /// The response sets a cookie where that forbids storing.
    SetCookie,
    /// Nothing says how long the response is fresh, and nothing could validate it.
    NoFreshness,
    /// The body is larger than an object may be.
    TooLarge,
    /// No room for another body that is being received.
    NoRoom,
    /// A recent response for this key could not be stored.
    HitForMiss,
    /// The response came after a purge that it does not know of.
    Purged,
    /// The body did not arrive whole.
    Incomplete,
}

impl Bypass {
    /// The fixed name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Method => "method",
            Self::Rule => "rule",
            Self::NoIdentity => "no-identity",
            Self::AmbiguousPath => "ambiguous-path",
            Self::Precondition => "precondition",
            Self::NotPlain => "not-plain",
            Self::RequestNoStore => "request-no-store",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authenticated => "authenticated",
            Self::VaryStar => "vary-star",
            Self::VaryChanged => "vary-changed",
            Self::Tags => "tags",
            Self::Status => "status",
            Self::Partial => "partial",
            Self::SetCookie => "set-cookie",
            Self::NoFreshness => "no-freshness",
            Self::TooLarge => "too-large",
            Self::NoRoom => "no-room",
            Self::HitForMiss => "hit-for-miss",
            Self::Purged => "purged",
            Self::Incomplete => "incomplete",
        }
    }

    /// Whether the request is the reason: another request for the same URL may fare better, so this
    /// one says nothing about what others get.
    #[must_use]
    pub const fn is_of_request(self) -> bool {
        match self {
            Self::Method
            | Self::Rule
            | Self::NoIdentity
            | Self::AmbiguousPath
            | Self::Precondition
            | Self::NotPlain
            | Self::RequestNoStore
            | Self::Authenticated
            | Self::Partial => true,
            Self::Off
            | Self::NoStore
            | Self::Private
            | Self::VaryStar
            | Self::VaryChanged
            | Self::Tags
            | Self::Status
            | Self::SetCookie
            | Self::NoFreshness
            | Self::TooLarge
            | Self::NoRoom
            | Self::HitForMiss
            | Self::Purged
            | Self::Incomplete => false,
        }
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a request was answered; the `outcome` label of the request counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From a fresh stored response.
    Hit,
    /// From a stale one, as the response, the request or an error allows.
    Stale,
    /// From a stored one that the origin confirmed.
    Revalidated,
    /// From the origin.
    Miss,
    /// From a fetch that another request had begun.
    Collapsed,
    /// Past the cache.
    Bypass,
    /// Past the cache because the cache failed.
    Error,
}

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidated,
        Self::Miss,
        Self::Collapsed,
        Self::Bypass,
        Self::Error,
    ];

    /// The fixed name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::Bypass => "bypass",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_the_request_is_told_from_one_of_the_response() {
        let of_request = [
            Bypass::Method,
            Bypass::Rule,
            Bypass::Precondition,
            Bypass::NotPlain,
            Bypass::RequestNoStore,
            Bypass::Authenticated,
            Bypass::Partial,
        ];
        for reason in of_request {
            assert!(reason.is_of_request(), "{reason}");
        }
        let of_others = [
            Bypass::Off,
            Bypass::NoStore,
            Bypass::Private,
            Bypass::VaryStar,
            Bypass::VaryChanged,
            Bypass::Tags,
            Bypass::Status,
            Bypass::SetCookie,
            Bypass::NoFreshness,
            Bypass::TooLarge,
            Bypass::NoRoom,
            Bypass::HitForMiss,
            Bypass::Purged,
            Bypass::Incomplete,
        ];
        for reason in of_others {
            assert!(!reason.is_of_request(), "{reason}");
        }
    }
}
