//! Reading a table key by key, collecting what is wrong on the way.

use super::{
    secret,
    source::{self, Source},
    values,
};
use config::{Map, Value, ValueKind};
use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

/// A table of the configuration. Every key that is asked for counts as known; [`Self::finish`]
/// reports the others.
pub(super) struct Section<'a> {
    source: &'a Source,
    path: String,
    rest: Map<String, Value>,
    known: Vec<String>,
}

impl<'a> Section<'a> {
    pub(super) fn new(source: &'a Source, path: String, rest: Map<String, Value>) -> Self {
        Self {
            source,
            path,
            rest,
            known: Vec::new(),
        }
    }

    pub(super) fn path(&self, key: &str) -> String {
        let plain = key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let key = if plain {
            key.to_owned()
        } else {
            format!("{key:?}")
        };
        if self.path.is_empty() {
            key
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn fault(&self, key: &str, what: &str) {
        self.source.fault(&self.path(key), what);
    }

    /// A secret for a header field, from the environment variable that a key names.
    pub(super) fn secret_of_variable(&mut self, key: &str) -> Option<String> {
        let source = self.source;
        self.read(key, "the name of a variable", |name| {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_name) {
                // It may be the secret itself.
                return Err("is not the name of an environment variable".to_owned());
            }
            let given = source.variable(name).unwrap_or_default();
            match secret::field_value(given) {
                Ok(secret) if secret.is_empty() => {
                    Err(format!("names {name}, which is not set, or empty"))
                }
                Ok(secret) => Ok(secret),
                Err(what) => Err(format!("names {name}, which {what}")),
            }
        })
    }

    /// A fault of a key somewhere else, by its whole path.
    pub(super) fn fault_at(&self, path: &str, what: &str) {
        self.source.fault(path, what);
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.to_owned());
        self.rest.remove(key)
    }

    /// Whether the key is there; it counts as known only once it is read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.rest.contains_key(key)
    }

    /// The key's value as text, whatever kind of scalar it is.
    fn scalar(&mut self, key: &str, wanted: &str) -> Option<String> {
        match self.take(key)?.kind {
            ValueKind::String(text) => Some(text),
            ValueKind::I64(number) => Some(number.to_string()),
            ValueKind::U64(number) => Some(number.to_string()),
            ValueKind::Float(number) => Some(number.to_string()),
            ValueKind::Boolean(flag) => Some(flag.to_string()),
            _ => {
                self.fault(key, &format!("is not {wanted}"));
                None
            }
        }
    }

    fn read<T>(
        &mut self,
        key: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.scalar(key, wanted)?;
        parse(&text).map_err(|what| self.fault(key, &what)).ok()
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.read(key, "text", |text| Ok(text.to_owned()))
    }

    /// A secret, without what stands around it.
    pub(super) fn secret(&mut self, key: &str) -> Option<String> {
        self.read(key, "text", |text| Ok(secret::trim(text).to_owned()))
    }

    /// A secret of `key`, or of the file that `file_key` names, for a header field. An empty one is none.
    pub(super) fn field_secret(&mut self, key: &str, file_key: &str) -> Option<String> {
        let inline = self.read(key, "text", secret::field_value);
        let is_given = inline.as_ref().is_some_and(|secret| !secret.is_empty());
        if is_given && self.has(file_key) {
            self.fault(file_key, &format!("cannot be combined with `{key}`"));
        }
        let of_file = self.read(file_key, "the name of a file", |path| {
            let secret = secret::field_value(&secret::file(path)?)?;
            if secret.is_empty() {
                return Err(format!("{path:?} is empty"));
            }
            Ok(secret)
        });
        inline.filter(|_| is_given).or(of_file)
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.read(key, "true or false", |text| {
            match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(format!("{text:?} is not true or false")),
            }
        })
        .unwrap_or(default)
    }

    pub(super) fn number<T>(&mut self, key: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        self.read(key, "a number", |text| {
            let outside = || format!("{text} is not {} to {}", range.start(), range.end());
            let number: T = text.trim().parse().map_err(|_| outside())?;
            if range.contains(&number) {
                Ok(number)
            } else {
                Err(outside())
            }
        })
        .unwrap_or(default)
    }

    pub(super) fn duration(&mut self, key: &str, default: Duration, least: Duration) -> Duration {
        self.read(key, "a duration", |text| {
            let value = values::duration(text)?;
            if value < least {
                Err(format!("{text:?} is less than {least:?}"))
            } else {
                Ok(value)
            }
        })
        .unwrap_or(default)
    }

    pub(super) fn size(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.read(key, "a size", |text| {
            let value = values::size(text)?;
            if range.contains(&value) {
                Ok(value)
            } else {
                Err(format!(
                    "{text:?} is not {} to {} bytes",
                    range.start(),
                    range.end()
                ))
            }
        })
        .unwrap_or(default)
    }

    /// A value that some function reads; its error is the fault.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.read(key, "text", parse)
    }

    /// One of a few names.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, default: T, names: &[(&str, T)]) -> T {
        self.read(key, "text", |text| {
            names
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, value)| *value)
                .ok_or_else(|| {
                    let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
                    format!("{text:?} is not one of {}", names.join(", "))
                })
        })
        .unwrap_or(default)
    }

    /// [`Self::take`] of a list or a table, which the environment has as TOML, in one line or several.
    fn take_structure(&mut self, key: &str) -> Option<Value> {
        let value = self.take(key)?;
        let ValueKind::String(text) = &value.kind else {
            return Some(value);
        };
        if !text.trim_start().starts_with(['[', '{']) {
            return Some(value);
        }
        match source::inline(text) {
            Ok(value) => Some(value),
            Err(what) => {
                self.fault(key, &format!("is not TOML: {what}"));
                None
            }
        }
    }

    /// A list of texts; from the environment, separated by commas or as a TOML array.
    pub(super) fn list(&mut self, key: &str) -> Option<Vec<String>> {
        match self.take_structure(key)?.kind {
            ValueKind::Array(items) => Some(
                items
                    .into_iter()
                    .filter_map(|item| match item.kind {
                        ValueKind::String(text) => Some(text),
                        _ => {
                            self.fault(key, "has an item that is no text");
                            None
                        }
                    })
                    .collect(),
            ),
            ValueKind::String(text) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Some(items.map(str::to_owned).collect())
            }
            _ => {
                self.fault(key, "is not a list");
                None
            }
        }
    }

    /// A list of texts, each of which some function reads. `secret` keeps the texts out of faults.
    pub(super) fn parsed_list<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = self.list(key)?;
        Some(
            items
                .iter()
                .filter_map(|item| parse(item).map_err(|what| self.fault(key, &what)).ok())
                .collect(),
        )
    }

    /// A table below this one; an empty one where it is not there.
    pub(super) fn section(&mut self, key: &str) -> Section<'a> {
        let path = self.path(key);
        let rest = match self.take_structure(key).map(|value| value.kind) {
            Some(ValueKind::Table(table)) => table,
            None => Map::new(),
            Some(_) => {
                self.fault(key, "is not a table");
                Map::new()
            }
        };
        Section::new(self.source, path, rest)
    }

    /// An array of tables.
    pub(super) fn tables(&mut self, key: &str) -> Vec<Section<'a>> {
        let path = self.path(key);
        let items = match self.take_structure(key).map(|value| value.kind) {
            Some(ValueKind::Array(items)) => items,
            None => Vec::new(),
            Some(_) => {
                self.fault(key, "is not an array of tables");
                Vec::new()
            }
        };
        let table = |(at, item): (usize, Value)| match item.kind {
            ValueKind::Table(table) => {
                Some(Section::new(self.source, format!("{path}[{at}]"), table))
            }
            _ => {
                self.source
                    .fault(&format!("{path}[{at}]"), "is not a table");
                None
            }
        };
        items.into_iter().enumerate().filter_map(table).collect()
    }

    /// All keys that are left, in order, each with whether it holds a table.
    pub(super) fn remaining(&self) -> Vec<(String, bool)> {
        let mut keys: Vec<_> = self
            .rest
            .iter()
            .map(|(key, value)| (key.clone(), matches!(value.kind, ValueKind::Table(_))))
            .collect();
        keys.sort();
        keys
    }

    /// Reports what is left as unknown.
    pub(super) fn finish(self) {
        let mut unknown: Vec<_> = self.rest.keys().collect();
        unknown.sort();
        for key in unknown {
            let near = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, key), known))
                .min()
                .filter(|(distance, _)| *distance <= 2);
            let hint = near.map_or(String::new(), |(_, known)| format!("; is {known} meant?"));
            self.fault(key, &format!("is no key of Weaver's{hint}"));
        }
    }
}
