//! Where values come from, and where faults are said to stand.

use super::read::Section;
use config::{Config as Merged, File, FileFormat, Map, Source as _, Value, ValueKind};
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt};

/// The environment, as a value: tests pass their own, and nothing reads the process's twice.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's.
    #[must_use]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    // A value that is no UTF-8 is a fault of its key, and not as if it were not set.
                    Some((
                        name.into_string().ok()?,
                        value.to_string_lossy().into_owned(),
                    ))
                })
                .collect(),
        )
    }

    /// One with these variables.
    #[must_use]
    pub fn with<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(
            variables
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    pub(crate) fn one(fault: String) -> Self {
        Self(vec![fault])
    }

    /// One line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(
            f,
            "the configuration has {count} fault{}:",
            if count == 1 { "" } else { "s" }
        )?;
        self.0.iter().try_for_each(|line| writeln!(f, "  - {line}"))
    }
}

impl std::error::Error for Faults {}

const PREFIX: &str = "WEAVER_";
/// The variable that names the configuration file where the command line does not.
pub(crate) const CONFIG: &str = "WEAVER_CONFIG";

/// Names from before Weaver had sections, with the key that they set.
const SEEDS: [(&str, &[&str]); 9] = [
    ("REDIS_HOST", &["redis", "host"]),
    ("REDIS_PORT", &["redis", "port"]),
    ("REDIS_DB", &["redis", "db"]),
    ("REDIS_PASSWORD", &["redis", "password"]),
    ("REDIS_MAX_CONNECTIONS", &["redis", "max_connections"]),
    ("CACHE_ENABLED", &["cache", "enabled"]),
    ("CACHE_HEALTH_TTL", &["cache", "patterns", "/health"]),
    ("CACHE_WHOAMI_TTL", &["cache", "patterns", "/whoami"]),
    ("CACHE_METRICS_TTL", &["cache", "patterns", "/metrics"]),
];

pub(super) struct Source {
    name: String,
    text: String,
    document: Option<toml_edit::Document<String>>,
    merged: Map<String, Value>,
    /// The variable that set a key, by the key's path.
    variables: BTreeMap<String, String>,
    environment: Environment,
    pub(super) faults: Mutex<Vec<String>>,
}

impl Source {
    pub(super) fn new(name: &str, text: &str, environment: &Environment) -> Result<Self, Faults> {
        let document: toml_edit::Document<String> = toml_edit::Document::parse(text.to_owned())
            .map_err(|error| Faults::one(syntax(name, text, &error)))?;
        let mut variables = BTreeMap::new();
        let mut own = Map::new();
        for (variable, value) in &environment.0 {
            let Some(rest) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            // One names the file. An empty one is as if it were not set: a secret that is missing
            // where it comes from must not take the place of one that is there.
            if variable == CONFIG || value.is_empty() || is_of_kubernetes(rest) {
                continue;
            }
            variables.insert(
                rest.to_ascii_lowercase().replace("__", "."),
                variable.clone(),
            );
            own.insert(variable.clone(), value.clone());
        }
        // Values stay text: a password 007 must not become the number 7.
        let environment_source = config::Environment::with_prefix("WEAVER")
            .prefix_separator("_")
            .separator("__")
            .source(Some(own));
        let mut merged = Merged::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .add_source(environment_source)
            .build()
            .and_then(|merged| merged.collect())
            // What was parsed once is not wrong now; and what it says of it may be a secret.
            .map_err(|_| Faults::one(format!("{name}: the configuration cannot be read")))?;
        for (seed, path) in SEEDS {
            let Some(value) = environment.get(seed).filter(|value| !value.is_empty()) else {
                continue;
            };
            let key = path.join(".");
            variables.entry(key).or_insert_with(|| {
                set(&mut merged, path, value);
                seed.to_owned()
            });
        }
        if environment
            .get("REDIS_HOST")
            .is_some_and(|host| !host.is_empty())
        {
            let mode = get(&merged, &["redis", "mode"]);
            if mode.is_none_or(|mode| mode == "off") {
                set(&mut merged, &["redis", "mode"], "standalone");
            }
        }
        Ok(Self {
            name: name.to_owned(),
            text: text.to_owned(),
            document: Some(document),
            merged,
            variables,
            environment: environment.clone(),
            faults: Mutex::default(),
        })
    }

    /// A variable that the configuration names.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name)
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section::new(self, String::new(), self.merged.clone())
    }

    pub(super) fn outcome<T>(&self, value: T) -> Result<T, Faults> {
        let faults = std::mem::take(&mut *self.faults.lock());
        if faults.is_empty() {
            Ok(value)
        } else {
            Err(Faults(faults))
        }
    }

    pub(super) fn fault(&self, path: &str, what: &str) {
        self.faults
            .lock()
            .push(format!("{path}: {what} ({})", self.place(path)));
    }

    /// The file and line, or the variable, in which a key stands.
    fn place(&self, path: &str) -> String {
        let mut whole = path;
        loop {
            if let Some(variable) = self.variables.get(whole) {
                return format!("environment variable {variable}");
            }
            // A variable may have a whole table, or an array of them.
            match whole.rfind(['.', '[']) {
                Some(at) => whole = &whole[..at],
                None => break,
            }
        }
        match self.line(path) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        }
    }

    fn line(&self, path: &str) -> Option<usize> {
        let mut item = self.document.as_ref()?.as_item();
        let mut span = None;
        for step in steps(path) {
            item = match step.parse::<usize>() {
                Ok(at) => match item {
                    toml_edit::Item::ArrayOfTables(tables) => {
                        span = tables.get(at)?.span();
                        // Further steps look inside the table, whose item we cannot borrow; the
                        // table's own line is near enough unless the key has a line.
                        return self.line_in_table(tables.get(at)?, path, at, span);
                    }
                    _ => return None,
                },
                Err(_) => {
                    let table = item.as_table_like()?;
                    let (key, found) = table.get_key_value(&step)?;
                    span = key.span().or_else(|| found.span()).or(span);
                    found
                }
            };
        }
        span.map(|span| self.line_of(span.start))
    }

    fn line_in_table(
        &self,
        table: &toml_edit::Table,
        path: &str,
        at: usize,
        outer: Option<std::ops::Range<usize>>,
    ) -> Option<usize> {
        let mark = format!("[{at}].");
        let span = path
            .split_once(&mark)
            .and_then(|(_, rest)| table.get_key_value(rest.split('.').next()?))
            .and_then(|(key, item)| key.span().or_else(|| item.span()))
            .or(outer)?;
        Some(self.line_of(span.start))
    }

    fn line_of(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    }
}

/// A fault of syntax with its place, and without the line itself, which may be a secret's.
fn syntax(name: &str, text: &str, error: &toml_edit::TomlError) -> String {
    let message = error.message().lines().next().unwrap_or("not TOML");
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text.as_bytes()[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = at
        - before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1)
        + 1;
    format!("{name}:{line}: this is not TOML, at column {column}: {message}")
}

/// A value in TOML.
pub(super) fn inline(text: &str) -> Result<Value, String> {
    let merged = Merged::builder()
        .add_source(File::from_str(&format!("value = {text}"), FileFormat::Toml))
        .build()
        .and_then(|merged| merged.get("value"));
    // What the parser shows of the text may be a secret.
    merged.map_err(|_| "it is an array such as [\"a\"] or a table such as { a = 1 }".to_owned())
}

/// The steps of a path such as `cache.patterns."/a.b".ttl` or `routes[1].path`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let (mut step, mut quoted) = (String::new(), false);
    for letter in path.chars() {
        match letter {
            '"' => quoted = !quoted,
            '.' | '[' | ']' if !quoted => {
                if !step.is_empty() {
                    steps.push(std::mem::take(&mut step));
                }
            }
            _ => step.push(letter),
        }
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

/// Kubernetes tells every pod of every service of its namespace; one that is named `weaver` or
/// `weaver-gateway` is told under our prefix.
fn is_of_kubernetes(rest: &str) -> bool {
    if rest.contains("__") {
        return false;
    }
    let port = |text: &str| {
        // PORT, PORT_80_TCP, PORT_80_TCP_ADDR, _PORT, _PROTO
        text.is_empty() || {
            let mut parts = text.trim_start_matches('_').split('_');
            parts
                .next()
                .is_some_and(|number| number.parse::<u16>().is_ok())
                && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
                && matches!(parts.next(), None | Some("ADDR" | "PORT" | "PROTO"))
        }
    };
    let after = |name: &str| rest.rfind(name).map(|at| &rest[at + name.len()..]);
    after("SERVICE_HOST") == Some("")
        || after("SERVICE_PORT").is_some_and(|tail| tail.is_empty() || tail.starts_with('_'))
        || rest
            .match_indices("PORT")
            .any(|(at, _)| (at == 0 || rest.as_bytes()[at - 1] == b'_') && port(&rest[at + 4..]))
}

fn set(map: &mut Map<String, Value>, path: &[&str], value: &str) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        map.insert(
            (*first).to_owned(),
            Value::new(None, ValueKind::String(value.to_owned())),
        );
        return;
    }
    let entry = map
        .entry((*first).to_owned())
        .or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
    if let ValueKind::Table(inner) = &mut entry.kind {
        set(inner, rest, value);
    }
}

fn get(map: &Map<String, Value>, path: &[&str]) -> Option<String> {
    let [first, rest @ ..] = path else {
        return None;
    };
    match &map.get(*first)?.kind {
        ValueKind::Table(inner) => get(inner, rest),
        ValueKind::String(text) if rest.is_empty() => Some(text.clone()),
        _ => None,
    }
}
