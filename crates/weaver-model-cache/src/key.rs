//! Keys: BLAKE3 over an injective form of a call.
//!
//! Every part is written with its kind and its length before it, so that no two different calls are
//! written alike; members of objects are written in the order of their names. A number that is
//! written in two ways (`1` and `1.0`) is one number (RFC 8259 §6).

use crate::{Call, Kind};
use blake3::Hasher;
use serde_json::{Number, Value};
use std::fmt;

/// Where an answer is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(crate) [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Of what is hashed; another form of it has another.
const CONTEXT: &str = "weaver-model-cache 2026-11 call key";

impl Key {
    pub(crate) fn of(call: &Call, per_user: bool, secret: Option<&[u8; 32]>) -> Self {
        let mut hasher = match secret {
            Some(secret) => Hasher::new_keyed(secret),
            None => Hasher::new_derive_key(CONTEXT),
        };
        let kind: &[u8] = match call.kind {
            Kind::Completion => b"c",
            Kind::Embedding => b"e",
        };
        hasher.update(kind);
        match call.user.as_deref().filter(|_| per_user) {
            Some(user) => text(&mut hasher, b"u", user),
            None => {
                hasher.update(b"-");
            }
        }
        text(&mut hasher, b"m", &call.model);
        value(&mut hasher, &call.query);
        object(&mut hasher, &call.parameters);
        Self(*hasher.finalize().as_bytes())
    }
}

fn text(hasher: &mut Hasher, kind: &[u8; 1], text: &str) {
    hasher.update(kind);
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn object(hasher: &mut Hasher, members: &serde_json::Map<String, Value>) {
    hasher.update(b"{");
    hasher.update(&(members.len() as u64).to_le_bytes());
    // Whether the map is sorted itself depends on how serde_json was built.
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    for (name, member) in sorted {
        text(hasher, b"k", name);
        value(hasher, member);
    }
}

fn value(hasher: &mut Hasher, of: &Value) {
    match of {
        Value::Null => {
            hasher.update(b"0");
        }
        Value::Bool(flag) => {
            hasher.update(if *flag { b"t" } else { b"f" });
        }
        Value::Number(of) => number(hasher, of),
        Value::String(of) => text(hasher, b"s", of),
        Value::Array(items) => {
            hasher.update(b"[");
            hasher.update(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| value(hasher, item));
        }
        Value::Object(members) => object(hasher, members),
    }
}

/// Beyond this a double does not hold every whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn number(hasher: &mut Hasher, of: &Number) {
    let whole = of.as_i64().map(i128::from);
    let whole = whole.or_else(|| of.as_u64().map(i128::from));
    let float = of.as_f64().unwrap_or(f64::NAN);
    let whole =
        whole.or_else(|| (float.fract() == 0.0 && float.abs() < EXACT).then_some(float as i128));
    match whole {
        Some(whole) => {
            hasher.update(b"i");
            hasher.update(&whole.to_le_bytes());
        }
        None => {
            hasher.update(b"d");
            hasher.update(&float.to_bits().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn key(call: &Call) -> Key {
        Key::of(call, true, None)
    }

    #[test]
    fn the_order_of_members_makes_no_difference_and_everything_else_does() {
        let call = |text: &str| Call {
            query: serde_json::from_str(text).unwrap(),
            ..Call::new("", "m")
        };
        assert_eq!(
            key(&call(r#"{"a":1,"b":[true,null]}"#)),
            key(&call(r#"{ "b" : [true, null], "a" : 1.0 }"#))
        );
        let different = [
            r#""1""#,
            "1",
            "[1]",
            r#"{"1":1}"#,
            "null",
            "true",
            r#""""#,
            "[]",
            "{}",
            "[[]]",
            r#"["a","b"]"#,
            r#"["ab"]"#,
            r#"["a","b",""]"#,
            "1.5",
            "9007199254740993",
            "9007199254740992",
            "-1",
            "18446744073709551615",
            "1e300",
        ];
        for (at, one) in different.iter().enumerate() {
            for other in &different[at + 1..] {
                assert_ne!(key(&call(one)), key(&call(other)), "{one} {other}");
            }
        }
    }

    #[test]
    fn what_belongs_to_one_field_is_not_taken_for_another() {
        let call = Call::new("q", "m").user("u");
        let all = [
            call.clone(),
            Call::new("m", "q").user("u"),
            Call::new("q", "m"),
            Call::new("q", "mu"),
            Call::new("qm", "").user("u"),
            Call::new("q", "m").user("u").parameter("x", json!(1)),
            Call::new("q", "m").user("").parameter("x", json!(1)),
            Call {
                kind: Kind::Embedding,
                ..call.clone()
            },
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(key(one), key(other), "{one:?} {other:?}");
            }
        }
        let secret = [7; 32];
        assert_ne!(Key::of(&call, true, Some(&secret)), key(&call));
        let shared = |call: &Call| Key::of(call, false, None);
        assert_eq!(shared(&call), shared(&Call::new("q", "m").user("another")));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_where_values_are(one in json_value(), other in json_value()) {
            let call = |query: &Value| Call { query: query.clone(), ..Call::default() };
            // Through text and back: the same value in another guise.
            let text = serde_json::to_string(&one).unwrap();
            let again: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(key(&call(&one)), key(&call(&again)));
            if one != other {
                let same_numbers = serde_json::to_string(&one).unwrap().replace(".0", "")
                    == serde_json::to_string(&other).unwrap().replace(".0", "");
                prop_assert!(same_numbers || key(&call(&one)) != key(&call(&other)));
            }
        }
    }
}
