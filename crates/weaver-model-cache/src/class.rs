//! Which class a question is of.
//!
//! Words are found by Unicode's rules (UAX #29) and compared in lower case, so that "know" is not
//! "now" and "concurrent" not "current".

use crate::{Call, ClassConfig, Kind, ModelCacheConfig};
use regex::Regex;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};
use unicode_segmentation::UnicodeSegmentation as _;

/// Bytes of a question that are looked at: what it is stands at its beginning.
const MOST: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Classifier {
    classes: Vec<Class>,
    default: (Arc<str>, Duration),
    embedding: (Arc<str>, Duration),
}

#[derive(Debug)]
struct Class {
    name: Arc<str>,
    ttl: Duration,
    phrases: Vec<Vec<String>>,
    math: bool,
}

/// "What's" is "what is"; that "today's" becomes "today is" does no harm.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.unicode_words() {
        let word = word.to_lowercase();
        match word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")) {
            Some(word) => words.extend([word.to_owned(), "is".to_owned()]),
            None => words.push(word),
        }
    }
    words
}

impl Class {
    fn new(config: &ClassConfig) -> Self {
        let phrases = config.phrases.iter().map(|phrase| words(phrase));
        Self {
            name: config.name.as_str().into(),
            ttl: config.ttl,
            phrases: phrases.filter(|phrase| !phrase.is_empty()).collect(),
            math: config.math,
        }
    }

    fn has(&self, words: &[String], text: &str) -> bool {
        let has = |phrase: &Vec<String>| words.windows(phrase.len()).any(|here| here == phrase);
        self.phrases.iter().any(has) || (self.math && is_calculation(text))
    }
}

impl Classifier {
    pub(crate) fn new(config: &ModelCacheConfig) -> Self {
        Self {
            classes: config.classes.iter().map(Class::new).collect(),
            default: ("default".into(), config.default_ttl),
            embedding: ("embedding".into(), config.embedding_ttl),
        }
    }

    /// The class of a call, and how long its answer is kept.
    pub(crate) fn class_of(&self, call: &Call) -> (Arc<str>, Duration) {
        match call.kind {
            Kind::Embedding => self.embedding.clone(),
            Kind::Completion => self.classify(call.words()),
        }
    }

    /// The class of a question, and how long its answer is kept.
    pub(crate) fn classify(&self, text: &str) -> (Arc<str>, Duration) {
        let text = &text[..text.floor_char_boundary(MOST)];
        let words = words(text);
        self.classes
            .iter()
            .find(|class| class.has(&words, text))
            .map_or_else(
                || self.default.clone(),
                |class| (Arc::clone(&class.name), class.ttl),
            )
    }

    /// The longest that anything is kept.
    pub(crate) fn longest(&self) -> Duration {
        let ttls = self.classes.iter().map(|class| class.ttl);
        ttls.chain([self.default.1, self.embedding.1])
            .max()
            .unwrap_or_default()
    }
}

/// A number or bracket, an operator, a number or bracket. A hyphen or slash is an operator only with
/// spaces around it: `2024-05-01`, `24/7` and `192-168` are none.
static BETWEEN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"[\d)%]\s*(?:\*\*|[+*×÷^])\s*[-(]?[\d(.]|[\d)%]\s+[-−/]\s+[-(]?[\d(.]|\b(?:sqrt|sin|cos|tan|log|ln|exp)\s*\(").ok()
});
/// Nothing but numbers and operators, with or without a question around them.
static WHOLE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^(?i:what\s+is|what's)?\s*[-(\d.]+(?:\s*[-+−*/×÷^%()]+\s*[\d.()]+)+\s*[=?\s]*$")
        .ok()
});
static DATE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\b(?:19|20)\d{2}-(?:0[1-9]|1[0-2])(?:-\d{1,2})?\b|\d{1,2}/\d{1,2}/\d{2,4}").ok()
});

fn is_calculation(text: &str) -> bool {
    let is = |regex: &Option<Regex>, text| regex.as_ref().is_some_and(|regex| regex.is_match(text));
    is(&BETWEEN, text) || (is(&WHOLE, text.trim()) && !is(&DATE, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(text: &str) -> String {
        let classifier = Classifier::new(&ModelCacheConfig::default());
        classifier.classify(text).0.to_string()
    }

    #[test]
    fn questions_are_of_the_class_that_their_words_say() {
        for (text, expected) in [
            ("What is a monad?", "static"),
            ("WHAT  IS\na monad?", "static"),
            ("Define entropy", "static"),
            ("How does TCP work", "static"),
            ("what is the latest version of Rust", "dynamic"),
            ("What is happening now?", "dynamic"),
            ("What’s a monad?", "static"),
            ("Explain today's weather", "dynamic"),
            ("the weather today", "dynamic"),
            ("calculate the current rate", "dynamic"),
            ("Calculate the area of a circle", "calculation"),
            ("Convert 5 miles", "calculation"),
            ("what is 2 + 2", "calculation"),
            ("17*3", "calculation"),
            ("10/4", "calculation"),
            ("1000-50", "calculation"),
            ("1/2/2024", "default"),
            ("what is 10-4?", "calculation"),
            ("(1.5 + 2) ^ 3", "calculation"),
            ("the result of 100 - 5 please", "calculation"),
            ("sqrt(16)", "calculation"),
            ("on 2024-05-01", "default"),
            ("2024-05-01", "default"),
            ("open 24/7", "default"),
            ("do you know concurrent nowhere snow", "default"),
            ("whatis this, redefined", "default"),
            ("recently", "default"),
            ("was ist das, bitte?", "default"),
            ("", "default"),
            ("Erkläre C++ 11", "default"),
        ] {
            assert_eq!(class(text), expected, "{text:?}");
        }
    }

    #[test]
    fn classes_are_configured_and_know_every_script() {
        let config = ModelCacheConfig {
            classes: vec![
                ClassConfig::new("aktuell", Duration::from_secs(1), &["heute", "ÜBERMORGEN"]),
                ClassConfig::new("jetzt", Duration::from_secs(2), &["сейчас"]),
            ],
            default_ttl: Duration::from_secs(9),
            ..ModelCacheConfig::default()
        };
        let classifier = Classifier::new(&config);
        for (text, seconds) in [
            ("Was ist Heute los?", 1),
            ("übermorgen", 1),
            ("überübermorgen", 9),
            ("Что СЕЙЧАС?", 2),
            ("what is this now", 9),
        ] {
            assert_eq!(classifier.classify(text).1.as_secs(), seconds, "{text}");
        }
        assert_eq!(classifier.longest().as_secs(), 86_400);
        let embedding = Call {
            kind: Kind::Embedding,
            ..Call::new("сейчас", "m")
        };
        assert_eq!(&*classifier.class_of(&embedding).0, "embedding");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            class(&text);
        }
    }
}
