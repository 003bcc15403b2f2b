//! May this response be stored, and for how long is it fresh? (RFC 9111 §3, §4.2)

use crate::{
    Bypass, Flags, Headers, Lifetime, Millis, Mode, Policy, date,
    directives::{RequestDirectives, ResponseDirectives, delta_seconds},
    headers::list,
    vary,
};

/// The request that was sent, as far as storing depends on it.
#[derive(Debug)]
pub struct Asked<'a, H: ?Sized> {
    /// The fields of the request.
    pub headers: &'a H,
    /// Whether it carried credentials that are not part of the cache key: an Authorization field,
    /// or a principal that the gateway has authenticated in another way.
    pub authenticated: bool,
    /// Whether the key names one authenticated user, so that the store acts as that user's private
    /// cache.
    pub partitioned: bool,
}

/// The response that came.
#[derive(Debug)]
pub struct Answered<'a, H: ?Sized> {
    /// Its status code.
    pub status: u16,
    /// Its fields.
    pub headers: &'a H,
    /// When the request was sent.
    pub requested_at: Millis,
    /// When the head of the response arrived.
    pub received_at: Millis,
}

/// Statuses that allow a heuristic lifetime (RFC 9110 §15.1).
const HEURISTIC: [u16; 12] = [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501];

/// Whether the status has a meaning that this cache knows (RFC 9111 §3): those that IANA lists.
fn understood(status: u16) -> bool {
    matches!(
        status,
        200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511
    )
}

/// Decides whether a response to a GET may be stored, and for how long it may be used.
///
/// # Errors
///
/// The reason for which it must not be stored.
pub fn assess<Q: Headers + ?Sized, A: Headers + ?Sized>(
    policy: &Policy,
    asked: &Asked<'_, Q>,
    answered: &Answered<'_, A>,
) -> Result<Lifetime, Bypass> {
    let headers = answered.headers;
    let says = ResponseDirectives::of(headers, &policy.targets);
    forbidden(policy, asked, answered, &says)?;

    let date = headers
        .first("date")
        .and_then(|value| date::parse(value, answered.received_at));
    let last_modified = headers
        .first("last-modified")
        .and_then(|value| date::parse(value, answered.received_at));
    let validator = headers.has("etag") || last_modified.is_some();
    let explicit = explicit_lifetime(&says, answered, date);

    let by_status = policy
        .by_status
        .iter()
        .find(|(status, _)| *status == answered.status);
    if by_status.is_some() && explicit.is_none() && headers.has("set-cookie") {
        return Err(Bypass::SetCookie);
    }
    let (fresh_for, heuristic) = match (policy.mode, explicit) {
        (Mode::Standard, None) if let Some((_, ttl)) = by_status => {
            (ttl.saturating_mul(1000), false)
        }
        (
            Mode::Pattern {
                ttl,
                overrides: true,
            },
            _,
        )
        | (Mode::Pattern { ttl, .. }, None) => (ttl.saturating_mul(1000), false),
        (_, Some(lifetime)) => (lifetime, false),
        (Mode::Standard, None) => (guess(policy, answered, &says, date, last_modified), true),
    };
    // §3: without explicit freshness, only what is marked cacheable or has a status that allows a
    // guess.
    let marked = says.public
        || (asked.partitioned && !matches!(says.private, crate::directives::Qualified::Absent));
    if heuristic && !marked && !HEURISTIC.contains(&answered.status) {
        return Err(Bypass::NoFreshness);
    }
    if (heuristic || fresh_for == 0) && headers.has("set-cookie") {
        // Nobody said that this response may be reused, and it may set up one user's session. What
        // is stale at once is reused after each validation.
        return Err(Bypass::SetCookie);
    }

    let overridden = matches!(
        policy.mode,
        Mode::Pattern {
            overrides: true,
            ..
        }
    );
    let no_cache = says.no_cache.is_whole() && !overridden;
    let granted = |seconds: u64| policy.within_max_stale(seconds.saturating_mul(1000));
    let stale_while_revalidate = granted(
        says.stale_while_revalidate
            .unwrap_or(policy.stale_while_revalidate),
    );
    if !validator && (no_cache || (fresh_for == 0 && stale_while_revalidate == 0)) {
        return Err(Bypass::NoFreshness);
    }
    Ok(Lifetime {
        received_at: answered.received_at,
        // With a time of our own the age that the response arrives with says nothing.
        initial_age: if overridden {
            0
        } else {
            initial_age(answered, date)
        },
        fresh_for,
        stale_while_revalidate,
        stale_if_error: granted(says.stale_if_error.unwrap_or(policy.stale_if_error)),
        grace: granted(policy.grace),
        flags: Flags::default()
            .with(Flags::NO_CACHE, no_cache)
            .with(
                Flags::MUST_REVALIDATE,
                says.must_revalidate || says.proxy_revalidate || says.s_maxage.is_some(),
            )
            .with(Flags::IMMUTABLE, says.immutable)
            .with(Flags::HEURISTIC, heuristic)
            .with(Flags::VALIDATOR, validator),
    })
}

/// RFC 9111 §3, in the order of its list.
fn forbidden<Q: Headers + ?Sized, A: Headers + ?Sized>(
    policy: &Policy,
    asked: &Asked<'_, Q>,
    answered: &Answered<'_, A>,
    says: &ResponseDirectives,
) -> Result<(), Bypass> {
    let status = answered.status;
    if !(200..600).contains(&status) || status == 304 {
        return Err(Bypass::Status);
    }
    if matches!(policy.mode, Mode::Pattern { .. }) {
        if !(200..300).contains(&status) {
            return Err(Bypass::Status);
        }
        if answered.headers.has("set-cookie") {
            return Err(Bypass::SetCookie);
        }
    }
    if says.must_understand && !understood(status) {
        return Err(Bypass::Status);
    }
    // A cache that understands the status ignores the no-store that is there for those that do not
    // know must-understand (§5.2.2.3).
    if says.no_store && !says.must_understand {
        return Err(Bypass::NoStore);
    }
    if RequestDirectives::of(asked.headers).no_store {
        return Err(Bypass::RequestNoStore);
    }
    if says.private.is_whole() && !asked.partitioned {
        return Err(Bypass::Private);
    }
    let shareable = says.public || says.s_maxage.is_some() || says.must_revalidate;
    if asked.authenticated && !asked.partitioned && !shareable {
        return Err(Bypass::Authenticated);
    }
    let is_generated = |name: &String| policy.generated_fields.contains(name);
    if vary::names(answered.headers).is_none_or(|names| names.iter().any(is_generated)) {
        return Err(Bypass::VaryStar);
    }
    Ok(())
}

/// RFC 9111 §4.2.1 without its last case, in milliseconds.
fn explicit_lifetime<A: Headers + ?Sized>(
    says: &ResponseDirectives,
    answered: &Answered<'_, A>,
    date: Option<Millis>,
) -> Option<u64> {
    if let Some(seconds) = says.s_maxage.or(says.max_age) {
        return Some(seconds * 1000);
    }
    if says.targeted {
        // RFC 9213 §2.2: Expires is ignored where a targeted field governs.
        return None;
    }
    let expires = answered.headers.first("expires")?;
    // An invalid date, "0" above all, is in the past (§5.3).
    Some(
        date::parse(expires, answered.received_at).map_or(0, |expires| {
            expires.since(date.unwrap_or(answered.received_at))
        }),
    )
}

/// RFC 9111 §4.2.2, in milliseconds.
fn guess<A: Headers + ?Sized>(
    policy: &Policy,
    answered: &Answered<'_, A>,
    says: &ResponseDirectives,
    date: Option<Millis>,
    last_modified: Option<Millis>,
) -> u64 {
    if !HEURISTIC.contains(&answered.status) && !says.public {
        return 0;
    }
    let since = last_modified.map_or(0, |modified| {
        date.unwrap_or(answered.received_at).since(modified)
    });
    (since / 100)
        .saturating_mul(policy.heuristic_percent)
        .min(policy.heuristic_max * 1000)
}

/// RFC 9111 §4.2.3, `corrected_initial_age` in milliseconds.
fn initial_age<A: Headers + ?Sized>(answered: &Answered<'_, A>, date: Option<Millis>) -> u64 {
    let apparent = date.map_or(0, |date| answered.received_at.since(date));
    // A list-based Age counts by its first member; one that is no number is ignored (§5.1).
    let value = list(answered.headers.lines("age"))
        .next()
        .and_then(delta_seconds)
        .unwrap_or(0);
    let delay = answered.received_at.since(answered.requested_at);
    // Date has whole seconds, so that a response of this very second looks up to one second old.
    let apparent = if apparent < 1000 { 0 } else { apparent };
    apparent.max(value * 1000 + delay)
}

/// Whether a response says itself how long it is fresh (RFC 9111 §4.2.1), which a response to POST
/// must to be stored (RFC 9110 §9.3.3).
#[must_use]
pub fn is_explicitly_fresh<A: Headers + ?Sized>(
    policy: &Policy,
    answered: &Answered<'_, A>,
) -> bool {
    let says = ResponseDirectives::of(answered.headers, &policy.targets);
    explicit_lifetime(&says, answered, None).is_some()
}

/// Fields that a stored response leaves out besides the hop-by-hop ones: those that `private` or
/// `no-cache` list (RFC 9111 §5.2.2.4, §5.2.2.7), in lower case.
#[must_use]
pub fn withheld_fields(
    headers: &(impl Headers + ?Sized),
    policy: &Policy,
    partitioned: bool,
) -> Vec<String> {
    let says = ResponseDirectives::of(headers, &policy.targets);
    let mut fields = says.no_cache.fields().to_vec();
    if !partitioned {
        fields.extend_from_slice(says.private.fields());
    }
    fields
}

#[cfg(test)]
mod tests;
