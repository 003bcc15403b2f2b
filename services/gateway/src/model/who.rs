//! Who asks: those for whom answers are kept apart.

use super::{Caller, Refusal};
use std::sync::Arc;

/// Kinds of callers never share an answer, and neither do two callers of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Who {
    #[default]
    Nobody,
    /// The authenticated user.
    User(Arc<str>),
    /// Whose credentials go to the upstream: the Authorization, byte for byte.
    Credentials(Vec<u8>),
    /// Who the call says that it is for, where nobody is known.
    Named(String),
}

impl Who {
    /// The authenticated user, or else whose credentials go to the upstream.
    pub(crate) fn of(caller: &Caller<'_>) -> Result<Self, Refusal> {
        if let Some(identity) = &caller.context.identity {
            return Ok(Self::User(Arc::clone(&identity.user)));
        }
        let mut lines = caller.req.headers().get_all("authorization");
        match (lines.next(), lines.next()) {
            (None, _) => Ok(Self::Nobody),
            (Some(line), None) => Ok(Self::Credentials(line.as_bytes().to_vec())),
            // Only one of them would go to the upstream, and which cannot be told.
            _ => Err(Refusal::bad_request(None, "Authorization is there twice")),
        }
    }

    /// Who a call says that it is for, where nobody is known.
    pub(crate) fn or_named(self, name: Option<&str>) -> Self {
        match (self, name) {
            (Self::Nobody, Some(name)) => Self::Named(name.to_owned()),
            (known, _) => known,
        }
    }

    /// A text that no other caller has: the kind, a space, and what is its own. Credentials are bytes
    /// and secret, so their hash stands in for them.
    pub(super) fn key(&self) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::User(user) => Some(format!("user {user}")),
            Self::Credentials(bytes) => {
                Some(format!("authorization {}", blake3::hash(bytes).to_hex()))
            }
            Self::Named(name) => Some(format!("name {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn anybody() -> impl Strategy<Value = Who> {
        let text = || prop_oneof!["[ -~]{0,8}", Just("user a".to_owned()), ".{0,4}"];
        prop_oneof![
            Just(Who::Nobody),
            text().prop_map(|text| Who::User(text.into())),
            prop::collection::vec(any::<u8>(), 0..4).prop_map(Who::Credentials),
            text().prop_map(|text| Who::Credentials(text.into_bytes())),
            text().prop_map(Who::Named),
        ]
    }

    proptest! {
        #[test]
        fn no_two_callers_have_the_same_key(one in anybody(), other in anybody()) {
            prop_assert_eq!(one == other, one.key() == other.key());
        }
    }

    #[test]
    fn credentials_differ_by_every_byte() {
        let key = |bytes: &[u8]| Who::Credentials(bytes.to_vec()).key();
        assert_ne!(key(b"Bearer \xff"), key(b"Bearer \xfe"));
        assert_ne!(key(b"Bearer \xff"), key("Bearer \u{fffd}".as_bytes()));
    }
}
