//! `[[models]]`, `[model_cache]`, `[model_limits]`, `[ask]`

use super::{Section, UpstreamTls, routes, upstream_tls};
use crate::config::{GateConfig, values};
use std::{collections::BTreeMap, fmt, time::Duration};
use weaver_model_cache::{ClassConfig, ModelCacheConfig, Price};

/// `[[models]]`: where calls of some models go.
#[derive(Clone, Debug)]
pub struct ModelRouteConfig {
    /// The name by which it is counted and named in problems.
    pub name: String,
    /// Names of models; one that ends in `*` is the beginning of some.
    pub models: Vec<String>,
    /// Where they are answered.
    pub to: routes::Destination,
    /// The key of the upstream, in place of the client's credentials.
    pub key: Option<ModelKey>,
    /// How it is spoken to by TLS.
    pub tls: UpstreamTls,
    /// The deadline of a connection attempt.
    pub connect_timeout: Duration,
    /// From the request to the answer's head.
    pub first_byte_timeout: Duration,
    /// Between two pieces of an answer.
    pub between_bytes_timeout: Duration,
    /// Failures in a row after which an upstream is left out.
    pub eject_after: u32,
    /// For how long.
    pub eject_for: Duration,
    /// What an upstream is given at once, and what waits for it.
    pub gate: GateConfig,
}

impl ModelRouteConfig {
    /// Whether it answers for a model.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.models.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => name == model,
        })
    }
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ModelKey(pub String);

impl fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[model_limits]`: what each identity may use of models.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelLimitsConfig {
    /// 0 is no limit.
    pub tokens_per_minute: u64,
    /// In the currency of the prices; 0 is no limit.
    pub cost_per_hour: f64,
}

/// `[ask]`
#[derive(Clone, Debug)]
pub struct AskConfig {
    /// The upstream that answers `POST /ask` itself, past the models.
    pub upstream: Option<String>,
    /// The model that is asked where the question names none.
    pub model: Option<String>,
}

pub(super) fn ask(mut section: Section<'_>) -> AskConfig {
    let ask = AskConfig {
        upstream: section.parsed("upstream", routes::upstream),
        model: section.text("model"),
    };
    section.finish();
    ask
}

pub(super) fn limits(mut section: Section<'_>) -> ModelLimitsConfig {
    let limits = ModelLimitsConfig {
        tokens_per_minute: section.number("tokens_per_minute", 0, 0..=1_000_000_000_000),
        cost_per_hour: section.number("cost_per_hour", 0.0, 0.0..=1e9),
    };
    section.finish();
    limits
}

/// `registering_needs_a_token`: whether not everybody who reaches the admin port can register an
/// agent.
pub(super) fn models(
    tables: Vec<Section<'_>>,
    shared_tls: &upstream_tls::Shared,
    registering_needs_a_token: bool,
) -> Vec<ModelRouteConfig> {
    let model = |section| model(section, shared_tls, registering_needs_a_token);
    tables.into_iter().map(model).collect()
}

fn model(
    mut section: Section<'_>,
    shared_tls: &upstream_tls::Shared,
    registering_needs_a_token: bool,
) -> ModelRouteConfig {
    let least = Duration::from_millis(1);
    let names = section.list("models");
    let names = names.unwrap_or_else(|| vec!["*".to_owned()]);
    if names.iter().any(String::is_empty) || names.is_empty() {
        section.fault("models", "has no name, or an empty one");
    }
    if section.has("key_env") && section.has("agent") && !registering_needs_a_token {
        section.fault(
            "key_env",
            "cannot be combined with `agent` unless `admin.token` is set: otherwise anybody who \
             reaches the admin port registers an agent and is sent the key",
        );
    }
    let key = section.secret_of_variable("key_env").map(ModelKey);
    let route = ModelRouteConfig {
        name: section.text("name").unwrap_or_else(|| "models".to_owned()),
        models: names,
        to: routes::destination(&mut section),
        tls: upstream_tls::of(&mut section, shared_tls),
        key,
        connect_timeout: section.duration("connect_timeout", Duration::from_secs(5), least),
        first_byte_timeout: section.duration("first_byte_timeout", Duration::from_secs(120), least),
        between_bytes_timeout: section.duration(
            "between_bytes_timeout",
            Duration::from_secs(60),
            least,
        ),
        eject_after: section.number("eject_after", 5, 1..=1000),
        eject_for: section.duration("eject_for", Duration::from_secs(10), least),
        gate: routes::gate(&mut section),
    };
    section.finish();
    route
}

/// `[model_cache]`; `None` where it is off.
pub(super) fn cache(
    mut section: Section<'_>,
    secret: Option<[u8; 32]>,
) -> Option<ModelCacheConfig> {
    let defaults = ModelCacheConfig::default();
    let enabled = section.flag("enabled", true);
    let month = Duration::from_secs(30 * 86_400);
    let only_deterministic =
        section.choice("keep", true, &[("deterministic", true), ("all", false)]);
    let config = ModelCacheConfig {
        prefix: section.text("prefix").unwrap_or(defaults.prefix),
        default_ttl: ttl(&mut section, "default_ttl", defaults.default_ttl),
        embedding_ttl: ttl(&mut section, "embedding_ttl", defaults.embedding_ttl),
        classes: classes(section.section("classes"), defaults.classes),
        only_deterministic,
        tools: section.flag("tools", defaults.tools),
        per_user: section.flag("per_user", defaults.per_user),
        secret,
        memory: section.size("memory", defaults.memory, 64 << 10..=1 << 40),
        max_answer: usize::try_from(section.size(
            "max_answer",
            defaults.max_answer as u64,
            1 << 10..=64 << 20,
        ))
        .unwrap_or(defaults.max_answer),
        max_filling: section.size("max_filling", defaults.max_filling, 0..=1 << 40),
        deadline: section.duration("deadline", defaults.deadline, Duration::from_millis(1)),
        max_fetch: section
            .duration("max_fetch", defaults.max_fetch, Duration::from_millis(1))
            .min(month),
        prices: prices(section.section("prices")),
    };
    if let Err(error) = config.validate() {
        section.fault("classes", &error.to_string());
    }
    section.finish();
    enabled.then_some(config)
}

fn ttl(section: &mut Section<'_>, key: &str, default: Duration) -> Duration {
    let most = Duration::from_secs(30 * 86_400);
    let given = section.parsed(key, |text| {
        let given = values::duration(text)?;
        if given > most {
            return Err(format!("{text:?} is more than 30 days"));
        }
        Ok(given)
    });
    given.unwrap_or(default)
}

/// The built-in classes with what is configured over them, then those that are new, which come first.
fn classes(mut section: Section<'_>, built_in: Vec<ClassConfig>) -> Vec<ClassConfig> {
    let (mut own, mut known) = (Vec::new(), built_in);
    for (name, _) in section.remaining() {
        let mut table = section.section(&name);
        let at = known.iter().position(|class| class.name == name);
        let mut class = at.map_or_else(
            || ClassConfig::new(&name, Duration::from_secs(600), &[]),
            |at| known[at].clone(),
        );
        class.ttl = ttl(&mut table, "ttl", class.ttl);
        if let Some(phrases) = table.list("phrases") {
            class.phrases = phrases;
        }
        class.math = table.flag("math", class.math);
        if at.is_none() && class.phrases.is_empty() && !class.math {
            table.fault("phrases", "is missing: nothing would be of this class");
        }
        table.finish();
        match at {
            Some(at) => known[at] = class,
            None => own.push(class),
        }
    }
    section.finish();
    own.append(&mut known);
    own
}

/// `"gpt-4o" = { input = 2.5, output = 10.0 }`, for a million tokens.
fn prices(mut section: Section<'_>) -> BTreeMap<String, Price> {
    let mut prices = BTreeMap::new();
    for (model, _) in section.remaining() {
        let mut table = section.section(&model);
        let price = Price {
            input_per_million: table.number("input", 0.0, 0.0..=1e9),
            output_per_million: table.number("output", 0.0, 0.0..=1e9),
        };
        table.finish();
        prices.insert(model, price);
    }
    section.finish();
    prices
}
