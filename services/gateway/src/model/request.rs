//! What is asked: the three endpoints' bodies, as calls.

use super::{Refusal, Who};
use actix_web::{
    HttpRequest,
    http::{Method, header::HeaderMap},
};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::time::Duration;
use weaver_cache::policy::{Headers, directives::RequestDirectives};
use weaver_model_cache::{Call, Kind, Wishes};

/// Bytes of a token, roughly, where nobody has counted.
pub(super) const BYTES_PER_TOKEN: u64 = 4;
/// What a call says of itself and the answer does not depend on.
const ASIDE: [&str; 3] = ["user", "safety_identifier", "prompt_cache_key"];

/// An endpoint of OpenAI's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
    Embedding,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 3] = [Self::Chat, Self::Completion, Self::Embedding];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embedding => "/v1/embeddings",
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
        }
    }

    /// The member that has what is asked.
    fn query(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
            Self::Embedding => "input",
        }
    }
}

/// A call that is well-formed.
pub(crate) struct Asked {
    pub(crate) endpoint: Endpoint,
    /// What goes to the upstream.
    pub(super) body: Bytes,
    pub(crate) call: Call,
    pub(super) said: Said,
    /// Tokens of what is asked, by its length.
    pub(super) prompt_estimate: u64,
}

struct Fields<'a>(&'a HeaderMap);

impl Headers for Fields<'_> {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.0.get_all(name).map(|value| value.as_bytes())
    }
}

/// What a request wants of the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(super) wishes: Wishes,
    pub(super) only_if_cached: bool,
}

impl Said {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let said = RequestDirectives::of(&Fields(headers));
        Self {
            wishes: Wishes {
                no_cache: said.no_cache,
                no_store: said.no_store,
                max_age: said.max_age.map(Duration::from_secs),
            },
            only_if_cached: said.only_if_cached,
        }
    }
}

impl Asked {
    pub(crate) fn read(
        endpoint: Endpoint,
        body: Bytes,
        who: Who,
        said: Said,
    ) -> Result<Self, Refusal> {
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad_request(None, format!("the body is no JSON: {error}")))?;
        let Value::Object(members) = value else {
            return Err(Refusal::bad_request(None, "the body is no JSON object"));
        };
        Self::of(endpoint, body, members, who, said)
    }

    /// Of members that stand in `body`.
    pub(crate) fn of(
        endpoint: Endpoint,
        body: Bytes,
        mut members: Map<String, Value>,
        who: Who,
        said: Said,
    ) -> Result<Self, Refusal> {
        let model = match members.remove("model") {
            Some(Value::String(model)) if !model.is_empty() => model,
            _ => return Err(Refusal::bad_request(Some("model"), "model is missing")),
        };
        let name = endpoint.query();
        let query = match members.remove(name) {
            Some(query) if !query.is_null() => query,
            _ => {
                return Err(Refusal::bad_request(
                    Some(name),
                    format!("{name} is missing"),
                ));
            }
        };
        if endpoint == Endpoint::Chat && !query.is_array() {
            return Err(Refusal::bad_request(Some(name), "messages is no list"));
        }
        let who = who.or_named(members.get("user").and_then(Value::as_str));
        members.retain(|name, _| !ASIDE.contains(&name.as_str()));
        Ok(Self {
            endpoint,
            prompt_estimate: length(&query) / BYTES_PER_TOKEN + 1,
            call: Call {
                kind: match endpoint {
                    Endpoint::Embedding => Kind::Embedding,
                    _ => Kind::Completion,
                },
                question: question(endpoint, &query),
                query,
                model,
                parameters: members,
                user: who.key(),
            },
            said,
            body,
        })
    }
}

/// The words by which a call is classified: those of the last message of the user.
fn question(endpoint: Endpoint, query: &Value) -> Option<String> {
    let text = match endpoint {
        Endpoint::Chat => {
            let messages = query.as_array()?.iter();
            let of_user = |message: &&Value| message.get("role").is_some_and(|role| role == "user");
            texts(messages.rev().find(of_user)?.get("content")?)
        }
        Endpoint::Completion => texts(query),
        Endpoint::Embedding => String::new(),
    };
    Some(text)
}

/// Text, or the texts among some parts.
fn texts(of: &Value) -> String {
    match of {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| {
                let text = part.as_str();
                text.or_else(|| part.get("text")?.as_str())
            });
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Bytes of all the text there is.
fn length(of: &Value) -> u64 {
    match of {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(length).sum(),
        Value::Object(members) => members.values().map(length).sum(),
        _ => 1,
    }
}

pub(super) fn only_post(req: &HttpRequest) -> Result<(), Refusal> {
    if *req.method() == Method::POST {
        Ok(())
    } else {
        Err(Refusal::method("POST"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(endpoint: Endpoint, body: &Value, headers: &HeaderMap) -> Result<Asked, Refusal> {
        let said = Said::of(headers);
        Asked::read(endpoint, body.to_string().into(), Who::default(), said)
    }

    #[test]
    fn a_call_is_read_from_each_endpoint() {
        let none = HeaderMap::new();
        let chat = json!({
            "model": "m", "temperature": 0, "stream": true, "user": "ann",
            "messages": [
                { "role": "system", "content": "be current" },
                { "role": "user", "content": [{ "type": "text", "text": "what is this" },
                    { "type": "image_url", "image_url": { "url": "data:" } }] },
                { "role": "assistant", "content": "now" },
            ],
        });
        let read = asked(Endpoint::Chat, &chat, &none).unwrap();
        assert_eq!(read.call.question.as_deref(), Some("what is this"));
        assert_eq!(read.call.user.as_deref(), Some("name ann"));
        let mut names: Vec<_> = read.call.parameters.keys().collect();
        names.sort();
        assert_eq!(names, ["stream", "temperature"]);
        let prompt = json!({ "model": "m", "prompt": ["a", "b"] });
        let read = asked(Endpoint::Completion, &prompt, &none).unwrap();
        assert_eq!(read.call.question.as_deref(), Some("a\nb"));
        let input = json!({ "model": "m", "input": "today" });
        let read = asked(Endpoint::Embedding, &input, &none).unwrap();
        assert_eq!(read.call.kind, Kind::Embedding);
        for (endpoint, bad) in [
            (Endpoint::Chat, json!([])),
            (Endpoint::Chat, json!({ "messages": [] })),
            (Endpoint::Chat, json!({ "model": 1, "messages": [] })),
            (Endpoint::Chat, json!({ "model": "m" })),
            (Endpoint::Chat, json!({ "model": "m", "messages": "hello" })),
            (
                Endpoint::Completion,
                json!({ "model": "m", "prompt": null }),
            ),
        ] {
            assert!(asked(endpoint, &bad, &none).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_request_wishes_is_in_its_cache_control() {
        let mut headers = HeaderMap::new();
        let value = "no-cache, max-age=5".parse().unwrap();
        headers.insert(actix_web::http::header::CACHE_CONTROL, value);
        let input = json!({ "model": "m", "input": "x" });
        let read = asked(Endpoint::Embedding, &input, &headers).unwrap();
        let wishes = read.said.wishes;
        assert!(wishes.no_cache && !wishes.no_store);
        assert_eq!(wishes.max_age, Some(Duration::from_secs(5)));
    }
}
