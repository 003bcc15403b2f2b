//! The two text formats, in an order that does not change from scrape to scrape.
//!
//! The encoder writes OpenMetrics, families in the order of their registration and the samples of
//! each as a hash map has them. Here they are sorted, and translated to the older Prometheus format.

use prometheus_client::{encoding::text, registry::Registry};
use std::fmt::Write as _;

/// The media type of [`encode`]'s text.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of [`encode_prometheus`]'s text.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const END: &str = "# EOF";

/// Renders everything that is registered, as OpenMetrics 1.0 text.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let raw = raw(registry);
    let mut text = String::with_capacity(raw.len());
    for family in families(&raw) {
        for line in family.head.iter().chain(&family.samples) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// Renders the same in the older Prometheus text format 0.0.4, which has no units and no end marker,
/// and names a counter's family as its sample.
#[must_use]
pub fn encode_prometheus(registry: &Registry) -> String {
    let raw = raw(registry);
    let mut text = String::with_capacity(raw.len());
    for family in families(&raw) {
        // A family without samples says nothing, and a checker takes it for a fault.
        if family.samples.is_empty() {
            continue;
        }
        let suffix = if family.kind() == "counter" {
            "_total"
        } else {
            ""
        };
        for line in &family.head {
            // Writing to a String does not fail.
            let _ = match Meta::of(line) {
                Some(Meta { what: "UNIT", .. }) | None => Ok(()),
                Some(Meta { what, name, rest }) => {
                    let is_unknown = what == "TYPE" && rest == "unknown";
                    let rest = if is_unknown { "untyped" } else { rest };
                    writeln!(text, "# {what} {name}{suffix} {rest}")
                }
            };
        }
        for line in &family.samples {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn raw(registry: &Registry) -> String {
    let mut raw = String::with_capacity(16 * 1024);
    // Writing to a String fails only where a metric refuses to be encoded, which ours do not.
    let _ = text::encode(&mut raw, registry);
    raw
}

/// A metric family: its comment lines and its sample lines.
#[derive(Default)]
struct Family<'a> {
    head: Vec<&'a str>,
    samples: Vec<&'a str>,
}

impl Family<'_> {
    fn kind(&self) -> &str {
        let mut metas = self.head.iter().filter_map(|line| Meta::of(line));
        metas
            .find(|meta| meta.what == "TYPE")
            .map_or("", |meta| meta.rest)
    }
}

/// A comment line about a family.
struct Meta<'a> {
    what: &'a str,
    name: &'a str,
    rest: &'a str,
}

impl<'a> Meta<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (what, rest) = line.strip_prefix("# ")?.split_once(' ')?;
        let (name, rest) = rest.split_once(' ')?;
        Some(Self { what, name, rest })
    }
}

fn families(raw: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in raw.lines().filter(|line| *line != END) {
        let is_comment = line.starts_with('#');
        match families.last_mut() {
            Some(family) if !is_comment => family.samples.push(line),
            // A family's comments come before its samples, and all are of one name.
            Some(family) if family.samples.is_empty() && is_of(family, line) => {
                family.head.push(line);
            }
            _ => families.push(Family {
                head: if is_comment { vec![line] } else { Vec::new() },
                samples: if is_comment { Vec::new() } else { vec![line] },
            }),
        }
    }
    for family in &mut families {
        // Stable: the lines of one histogram stay as they are.
        family.samples.sort_by_cached_key(|line| labels(line));
    }
    families
}

fn is_of(family: &Family<'_>, line: &str) -> bool {
    let name = |line| Meta::of(line).map(|meta| meta.name);
    family
        .head
        .first()
        .is_some_and(|first| name(first) == name(line))
}

/// The labels of a sample, but for a bucket's bound, which the encoder writes first.
fn labels(line: &str) -> &str {
    let (Some(from), Some(to)) = (line.find('{'), line.rfind('}')) else {
        return "";
    };
    let labels = &line[from + 1..to];
    let Some(bound) = labels.strip_prefix("le=\"") else {
        return labels;
    };
    let rest = bound.split_once('"').map_or("", |(_, rest)| rest);
    rest.strip_prefix(',').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheMetrics, HttpMetrics, Tier};
    use std::time::Duration;

    fn registry(routes: &[&str]) -> Registry {
        let mut registry = Registry::default();
        let cache = CacheMetrics::new(&mut registry);
        let http = HttpMetrics::new(&mut registry);
        for route in routes {
            cache.route(route).count(Tier::Memory, "hit");
            http.route(route).count(200, Duration::from_millis(7));
        }
        registry
    }

    fn families_of(text: &str, what: &str) -> Vec<String> {
        let metas = text.lines().filter_map(Meta::of);
        metas
            .filter(|meta| meta.what == what)
            .map(|meta| meta.name.to_owned())
            .collect()
    }

    #[test]
    fn in_the_older_format_type_and_help_name_the_sample() {
        let text = encode_prometheus(&registry(&["/a"]));
        let (types, helps) = (families_of(&text, "TYPE"), families_of(&text, "HELP"));
        assert_eq!(types, helps, "every family has help");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or("");
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            assert!(types.iter().any(|known| known == base), "{line}\n{text}");
        }
        assert!(text.contains("# TYPE weaver_http_cache_requests_total counter\n"));
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    }

    #[test]
    fn the_order_does_not_depend_on_which_route_came_first() {
        let (one, other) = (
            registry(&["/c", "/a", "/b\"}\\"]),
            registry(&["/b\"}\\", "/c", "/a"]),
        );
        let order = |text: String| {
            let names = text.lines().map(|line| match line.rsplit_once(' ') {
                Some((name, _)) if !line.starts_with('#') => name.to_owned(),
                _ => line.to_owned(),
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(order(encode(&one)), order(encode(&other)));
        assert_eq!(
            order(encode_prometheus(&one)),
            order(encode_prometheus(&other))
        );
    }

    #[test]
    fn a_histogram_keeps_its_buckets_in_order() {
        let text = encode(&registry(&["/b", "/a"]));
        let bounds: Vec<f64> = text
            .lines()
            .filter(|line| line.contains("_bucket{le=") && line.contains("\"/a\""))
            .filter_map(|line| line.split('"').nth(1)?.replace("+Inf", "inf").parse().ok())
            .collect();
        assert!(bounds.len() > 5 && bounds.is_sorted(), "{bounds:?}");
    }
}
