use crate::ModelCacheError;
use std::{collections::BTreeMap, fmt, time::Duration};

/// How a model cache behaves. Nodes that share one should have the same.
#[derive(Clone, PartialEq)]
pub struct ModelCacheConfig {
    /// The beginning of all Redis keys; `weaver:`.
    pub prefix: String,
    /// Classes of questions, the first that matches counts; see [`ClassConfig::defaults`].
    pub classes: Vec<ClassConfig>,
    /// How long answers to questions of no class are kept; 600 s. At most 30 days; 0 is not at all.
    pub default_ttl: Duration,
    /// How long embeddings are kept, which are the class `embedding` whatever their text; a day. At
    /// most 30 days; 0 is not at all.
    pub embedding_ttl: Duration,
    /// Whether only what is deterministic is kept; true.
    pub only_deterministic: bool,
    /// Whether calls with tools are kept; false.
    pub tools: bool,
    /// Whether each user has answers of their own; true. Those whose user is not known share.
    pub per_user: bool,
    /// The key of the hash under which answers lie. Without one, who can read the names of keys and
    /// knows a question may find out by trying whether it was asked. The same in all nodes that share.
    pub secret: Option<[u8; 32]>,
    /// Bytes that the embedded backend holds, everything counted; 64 MiB. At least 64 KiB.
    pub memory: u64,
    /// Bytes of the largest answer that is kept; 4 MiB. 1 KiB to 64 MiB.
    pub max_answer: usize,
    /// Bytes of answers on their way in, over all fetches that are shared; 64 MiB. What comes beyond
    /// passes unkept.
    pub max_filling: u64,
    /// The deadline of a look-up or write in Redis; 100 ms.
    pub deadline: Duration,
    /// How long a fetch may take whose answer is kept; 10 min. One that takes longer could bring
    /// back what was invalidated meanwhile, and is not kept.
    pub max_fetch: Duration,
    /// Prices by model; of names that end in `*` the longest that fits.
    pub prices: BTreeMap<String, Price>,
}

impl fmt::Debug for ModelCacheConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelCacheConfig")
            .field("prefix", &self.prefix)
            .field("classes", &self.classes)
            .field("default_ttl", &self.default_ttl)
            .field("secret", &self.secret.map(|_| "***"))
            .finish_non_exhaustive()
    }
}

/// What tokens cost, in US dollars (or another currency, the same throughout).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Of a million tokens of what is asked.
    pub input_per_million: f64,
    /// Of a million tokens of what is answered.
    pub output_per_million: f64,
}

/// A class of questions, and how long their answers are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassConfig {
    /// Its name, which comes back with the answer.
    pub name: String,
    /// How long answers are kept; at most 30 days; 0 is not at all.
    pub ttl: Duration,
    /// Words, one or several in a row, whose presence makes a question one of it; in any case.
    pub phrases: Vec<String>,
    /// Whether the presence of a calculation, such as `17 * 3`, does.
    pub math: bool,
}

impl ClassConfig {
    /// A class by its phrases.
    #[must_use]
    pub fn new(name: &str, ttl: Duration, phrases: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            ttl,
            phrases: phrases.iter().map(|phrase| (*phrase).to_owned()).collect(),
            math: false,
        }
    }

    /// Dynamic (300 s) before calculation (86,400 s) before static (3,600 s): "what is the latest"
    /// is dynamic, "what is 2 + 2" a calculation, "what is a lifetime" static.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let seconds = Duration::from_secs;
        let dynamic = ["current", "latest", "today", "now", "recent"];
        let calculation = ["calculate", "compute", "convert"];
        let fixed = ["what is", "define", "explain", "how does"];
        vec![
            Self::new("dynamic", seconds(300), &dynamic),
            Self {
                math: true,
                ..Self::new("calculation", seconds(86_400), &calculation)
            },
            Self::new("static", seconds(3600), &fixed),
        ]
    }
}

impl Default for ModelCacheConfig {
    fn default() -> Self {
        Self {
            prefix: "weaver:".to_owned(),
            classes: ClassConfig::defaults(),
            default_ttl: Duration::from_secs(600),
            embedding_ttl: Duration::from_secs(86_400),
            only_deterministic: true,
            tools: false,
            per_user: true,
            secret: None,
            memory: 64 << 20,
            max_answer: 4 << 20,
            max_filling: 64 << 20,
            deadline: Duration::from_millis(100),
            max_fetch: Duration::from_secs(600),
            prices: BTreeMap::new(),
        }
    }
}

const MONTH: Duration = Duration::from_secs(30 * 86_400);

impl ModelCacheConfig {
    /// Whether every field is in its range.
    ///
    /// # Errors
    ///
    /// [`ModelCacheError::Config`], which names the field.
    pub fn validate(&self) -> Result<(), ModelCacheError> {
        let mut names: Vec<_> = self.classes.iter().map(|class| &class.name).collect();
        names.sort();
        let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
        let named = |name: &String| {
            !name.is_empty()
                && name.len() <= 64
                && !matches!(name.as_str(), "default" | "embedding")
        };
        let price = |price: &Price| {
            [price.input_per_million, price.output_per_million]
                .iter()
                .all(|price| (0.0..=1e9).contains(price))
        };
        let faults = [
            (self.prefix.is_empty(), "prefix is empty"),
            (
                twice || !self.classes.iter().all(|class| named(&class.name)),
                "classes have names of 1 to 64 bytes, each another, neither default nor embedding",
            ),
            (
                self.default_ttl > MONTH
                    || self.embedding_ttl > MONTH
                    || self.classes.iter().any(|class| class.ttl > MONTH),
                "a ttl is more than 30 days",
            ),
            (self.memory < 64 << 10, "memory is less than 64 KiB"),
            (
                !(1 << 10..=64 << 20).contains(&self.max_answer),
                "max_answer is not 1 KiB to 64 MiB",
            ),
            (
                self.deadline.is_zero() || self.max_fetch.is_zero() || self.max_fetch > MONTH,
                "deadline or max_fetch is 0, or max_fetch more than 30 days",
            ),
            (
                !self.prices.values().all(price),
                "a price is not 0 to 1000000000",
            ),
        ];
        match faults.iter().find(|(is_fault, _)| *is_fault) {
            Some((_, fault)) => Err(ModelCacheError::Config((*fault).to_owned())),
            None => Ok(()),
        }
    }

    /// What tokens of a model cost, if that is known.
    #[must_use]
    pub fn price(&self, model: &str) -> Option<Price> {
        if let Some(price) = self.prices.get(model) {
            return Some(*price);
        }
        let fits = |name: &str| {
            let beginning = name.strip_suffix('*')?;
            model.starts_with(beginning).then_some(beginning.len())
        };
        self.prices
            .iter()
            .filter_map(|(name, price)| Some((fits(name)?, *price)))
            .max_by_key(|(length, _)| *length)
            .map(|(_, price)| price)
    }
}

impl Price {
    /// What so many tokens cost.
    #[must_use]
    pub fn of(self, usage: crate::Usage) -> f64 {
        (usage.prompt as f64 * self.input_per_million
            + usage.completion as f64 * self.output_per_million)
            / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_that_fits_gives_the_price() {
        let price = |input| Price {
            input_per_million: input,
            output_per_million: 2.0 * input,
        };
        let names = [("*", 1.0), ("gpt-*", 2.0), ("gpt-4o", 3.0), ("gpt-4*", 4.0)];
        let config = ModelCacheConfig {
            prices: names.map(|(name, of)| (name.to_owned(), price(of))).into(),
            ..ModelCacheConfig::default()
        };
        let of = |model| config.price(model).map(|price| price.input_per_million);
        assert_eq!(of("gpt-4o"), Some(3.0));
        assert_eq!(of("gpt-4o-mini"), Some(4.0));
        assert_eq!(of("gpt-3"), Some(2.0));
        assert_eq!(of("other"), Some(1.0));
        let usage = crate::Usage {
            prompt: 1000,
            completion: 500,
        };
        assert!((price(3.0).of(usage) - 0.006).abs() < 1e-12);
        assert!(ModelCacheConfig::default().price("m").is_none());
        let mut bad = ModelCacheConfig::default();
        bad.classes.push(bad.classes[0].clone());
        assert!(bad.validate().is_err());
    }
}
