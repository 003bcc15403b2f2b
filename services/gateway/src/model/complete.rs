//! Whether an answer is complete by its meaning: every choice that was asked for has come to its end.
//!
//! An answer can be framed well and still say that it is cut: a choice without `finish_reason`, one that
//! a filter stopped, one that ran into a limit that the client did not set. Recorded, it would be
//! repeated to everybody for as long as it is fresh. Reasons that are not known are no ends.

use super::{Asked, Endpoint};
use serde_json::Value;
use std::collections::BTreeMap;

/// Ends that a model comes to by itself: OpenAI's, and those of servers with its interface.
const ENDS: [&str; 6] = [
    "stop",
    "tool_calls",
    "function_call",
    "eos",
    "eos_token",
    "stop_sequence",
];
/// The limit of tokens is reached.
const LENGTH: &str = "length";

/// What a complete answer to a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    endpoint: Endpoint,
    /// Choices, or embeddings.
    items: u64,
    /// Whether the client limited the tokens of the answer.
    limited: bool,
}

impl Expected {
    pub(super) fn of(asked: &Asked) -> Self {
        let parameter = |name| asked.call.parameters.get(name).and_then(Value::as_u64);
        let limits = ["max_tokens", "max_completion_tokens"];
        let each = parameter("n").unwrap_or(1);
        Self {
            endpoint: asked.endpoint,
            items: match asked.endpoint {
                Endpoint::Chat => each,
                Endpoint::Completion => each.saturating_mul(inputs(&asked.call.query)),
                Endpoint::Embedding => inputs(&asked.call.query),
            },
            limited: limits.iter().any(|name| parameter(name).is_some()),
        }
    }

    /// Whether an answer in one piece is complete.
    pub(super) fn is_met_by(self, answer: &Value) -> bool {
        if self.endpoint == Endpoint::Embedding {
            let data = answer.get("data").and_then(Value::as_array);
            return data
                .is_some_and(|data| self.are_enough(data.len()) && data.iter().all(is_embedding));
        }
        let content = match self.endpoint {
            Endpoint::Chat => "message",
            _ => "text",
        };
        let choices = answer.get("choices").and_then(Value::as_array);
        choices.is_some_and(|choices| {
            self.are_enough(choices.len())
                && choices.iter().all(|choice| {
                    let has_content = choice.get(content).is_some_and(|given| !given.is_null());
                    has_content && self.ends(choice) == Some(true)
                })
        })
    }

    fn are_enough(self, items: usize) -> bool {
        items > 0 && items as u64 >= self.items
    }

    /// Whether a choice ends well; `None` if it does not end.
    fn ends(self, choice: &Value) -> Option<bool> {
        match choice.get("finish_reason") {
            None | Some(Value::Null) => None,
            Some(Value::String(reason)) => {
                let is_end = ENDS.contains(&reason.as_str());
                Some(is_end || (self.limited && reason == LENGTH))
            }
            Some(_) => Some(false),
        }
    }
}

/// The choices of a stream, by their index, and whether each has ended well.
#[derive(Debug)]
pub(super) struct StreamedChoices {
    expected: Expected,
    ends: BTreeMap<u64, Option<bool>>,
}

impl StreamedChoices {
    pub(super) fn new(expected: Expected) -> Self {
        Self {
            expected,
            ends: BTreeMap::new(),
        }
    }

    pub(super) fn see(&mut self, event: &Value) {
        let choices = event.get("choices").and_then(Value::as_array);
        for choice in choices.into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let known = self.ends.entry(index).or_default();
            *known = match (*known, self.expected.ends(choice)) {
                (known, None) => known,
                (known, Some(ends)) => Some(ends && known.unwrap_or(true)),
            };
        }
    }

    pub(super) fn are_complete(&self) -> bool {
        // No embeddings come as a stream.
        self.expected.endpoint != Endpoint::Embedding
            && self.expected.are_enough(self.ends.len())
            && self.ends.values().all(|ends| *ends == Some(true))
    }
}

fn is_embedding(item: &Value) -> bool {
    item.get("embedding")
        .is_some_and(|embedding| match embedding {
            Value::Array(numbers) => !numbers.is_empty(),
            Value::String(base64) => !base64.is_empty(),
            _ => false,
        })
}

/// How many texts a prompt or an input has; a list of numbers is one text, as tokens.
fn inputs(query: &Value) -> u64 {
    match query {
        Value::Array(items) if items.iter().any(|item| !item.is_number()) => items.len() as u64,
        _ => 1,
    }
}

#[cfg(test)]
pub(super) fn expected(endpoint: Endpoint, items: u64, limited: bool) -> Expected {
    Expected {
        endpoint,
        items,
        limited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Said;
    use crate::model::Who;
    use actix_web::http::header::HeaderMap;
    use serde_json::json;

    fn of(endpoint: Endpoint, body: &Value) -> Expected {
        let body = body.to_string().into();
        let asked = Asked::read(endpoint, body, Who::Nobody, Said::of(&HeaderMap::new())).unwrap();
        Expected::of(&asked)
    }

    #[test]
    fn what_is_expected_stands_in_the_call() {
        let chat = |more: Value| {
            let mut body = json!({ "model": "m", "messages": [{}, {}, {}] });
            body.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            of(Endpoint::Chat, &body)
        };
        assert_eq!(chat(json!({})), expected(Endpoint::Chat, 1, false));
        let limited = expected(Endpoint::Chat, 3, true);
        assert_eq!(chat(json!({ "n": 3, "max_tokens": 5 })), limited);
        assert_eq!(chat(json!({ "n": 3, "max_completion_tokens": 5 })), limited);
        let none = json!({ "max_tokens": null, "n": null });
        assert_eq!(chat(none), expected(Endpoint::Chat, 1, false));
        for (input, items) in [
            (json!("a"), 1),
            (json!(["a", "b"]), 2),
            (json!([1, 2, 3]), 1),
            (json!([[1, 2], [3]]), 2),
        ] {
            let embedding = json!({ "model": "m", "input": input });
            let found = of(Endpoint::Embedding, &embedding);
            assert_eq!(found, expected(Endpoint::Embedding, items, false));
            let completion = json!({ "model": "m", "prompt": input, "n": 2 });
            let found = of(Endpoint::Completion, &completion);
            assert_eq!(found, expected(Endpoint::Completion, 2 * items, false));
        }
    }

    #[test]
    fn an_answer_is_complete_if_every_choice_has_ended() {
        let chat = |reasons: &[Value]| {
            let choices = reasons
                .iter()
                .map(|reason| json!({ "message": {}, "finish_reason": reason }));
            json!({ "choices": choices.collect::<Vec<_>>() })
        };
        let one = expected(Endpoint::Chat, 1, false);
        for good in ["stop", "tool_calls", "function_call", "eos"] {
            assert!(one.is_met_by(&chat(&[json!(good)])), "{good}");
        }
        for bad in [
            json!(null),
            json!("length"),
            json!("content_filter"),
            json!("unheard-of"),
            json!(""),
            json!(7),
        ] {
            assert!(
                !one.is_met_by(&chat(&[json!("stop"), bad.clone()])),
                "{bad}"
            );
        }
        assert!(!one.is_met_by(&chat(&[])));
        assert!(!one.is_met_by(&json!({})));
        assert!(!one.is_met_by(&json!({ "choices": [{ "finish_reason": "stop" }] })));
        let limited = expected(Endpoint::Chat, 1, true);
        assert!(limited.is_met_by(&chat(&[json!("length")])));
        let two = expected(Endpoint::Chat, 2, false);
        assert!(!two.is_met_by(&chat(&[json!("stop")])));
        assert!(two.is_met_by(&chat(&[json!("stop"), json!("stop")])));
    }

    #[test]
    fn embeddings_are_complete_if_there_is_one_for_each_input() {
        let two = expected(Endpoint::Embedding, 2, false);
        let of = |data: Value| two.is_met_by(&json!({ "data": data }));
        assert!(of(json!([{ "embedding": [0.5] }, { "embedding": "AAAA" }])));
        for bad in [
            json!([]),
            json!([{ "embedding": [0.5] }]),
            json!([{ "embedding": [0.5] }, { "embedding": [] }]),
            json!([{ "embedding": [0.5] }, {}]),
            json!(null),
        ] {
            assert!(!of(bad.clone()), "{bad}");
        }
    }
}
