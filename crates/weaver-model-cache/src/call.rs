//! What is asked of a model.

use crate::ModelCacheConfig;
use serde_json::{Map, Value};

/// What kind of answer is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Text, which may be another each time.
    #[default]
    Completion,
    /// Numbers, which are the same each time.
    Embedding,
}

/// A call of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// What kind of answer is wanted.
    pub kind: Kind,
    /// What is asked: text, or what an interface takes for it, such as a list of messages.
    pub query: Value,
    /// The model's name.
    pub model: String,
    /// Everything else that the answer depends on.
    pub parameters: Map<String, Value>,
    /// Who asks, if anybody is known.
    pub user: Option<String>,
    /// The words by which the question is classified, if they are not the query itself.
    pub question: Option<String>,
}

/// Why a call's answer is neither looked for nor kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bypass {
    /// The answer may be another each time: temperature is not 0, and there is no seed.
    NotDeterministic,
    /// It has tools, whose calls are not to be repeated unasked.
    Tools,
    /// Who asks does not want it kept.
    NoStore,
}

impl Bypass {
    /// As it is written in Cache-Status and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotDeterministic => "not-deterministic",
            Self::Tools => "tools",
            Self::NoStore => "no-store",
        }
    }
}

impl Call {
    /// A question in words.
    pub fn new(query: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            query: Value::String(query.into()),
            model: model.into(),
            ..Self::default()
        }
    }

    /// With one parameter more.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }

    /// With who asks.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The words by which it is classified.
    pub(crate) fn words(&self) -> &str {
        let text = self.question.as_deref();
        text.or_else(|| self.query.as_str()).unwrap_or("")
    }

    /// Why it is past the cache, if it is.
    pub(crate) fn bypass(&self, config: &ModelCacheConfig) -> Option<Bypass> {
        if self.kind == Kind::Embedding {
            return None;
        }
        if !config.tools && self.has_tools() {
            return Some(Bypass::Tools);
        }
        (config.only_deterministic && !self.is_deterministic()).then_some(Bypass::NotDeterministic)
    }

    fn has_tools(&self) -> bool {
        ["tools", "functions"].iter().any(|name| {
            let tools = self.parameters.get(*name);
            tools.is_some_and(|tools| match tools {
                Value::Null => false,
                Value::Array(tools) => !tools.is_empty(),
                _ => true,
            })
        })
    }

    /// The interfaces' own default of temperature is 1.
    fn is_deterministic(&self) -> bool {
        let number = |name| self.parameters.get(name).and_then(Value::as_f64);
        number("temperature") == Some(0.0)
            || self.parameters.get("seed").is_some_and(Value::is_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_deterministic_is_kept_unless_told_otherwise() {
        let config = ModelCacheConfig::default();
        let all = ModelCacheConfig {
            only_deterministic: false,
            tools: true,
            ..ModelCacheConfig::default()
        };
        let call = || Call::new("q", "m");
        let tool = json!([{ "type": "function" }]);
        for (call, expected) in [
            (call(), Some(Bypass::NotDeterministic)),
            (call().parameter("temperature", 0), None),
            (call().parameter("temperature", 0.0), None),
            (
                call().parameter("temperature", 0.1),
                Some(Bypass::NotDeterministic),
            ),
            (
                call().parameter("temperature", "0"),
                Some(Bypass::NotDeterministic),
            ),
            (call().parameter("seed", 7), None),
            (
                call().parameter("seed", Value::Null),
                Some(Bypass::NotDeterministic),
            ),
            (
                call().parameter("seed", 7).parameter("tools", tool.clone()),
                Some(Bypass::Tools),
            ),
            (
                call().parameter("seed", 7).parameter("tools", json!([])),
                None,
            ),
            (
                Call {
                    kind: Kind::Embedding,
                    ..call()
                },
                None,
            ),
        ] {
            assert_eq!(call.bypass(&config), expected, "{call:?}");
            assert_eq!(call.bypass(&all), None, "{call:?}");
        }
    }
}
