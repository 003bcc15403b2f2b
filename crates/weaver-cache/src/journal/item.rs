//! An item of the journal as the stream has it: names and values.

use super::{Position, Purge};
use fred::types::Value;

/// The field of an item whose appliers are to say so at once.
const ACKNOWLEDGED: &str = "ack";
/// The field of an item that was written again, with the position that it had first.
const ORIGINAL: &str = "of";

/// The field of an item that an unsafe request has caused. A node of an older version reads a purge.
const WRITE: &str = "write";

/// What an item says. What a newer version wrote is kept as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item(Vec<(String, String)>);

impl Item {
    pub(super) fn new(purge: &Purge, soft: bool, acknowledged: bool) -> Self {
        let mut fields = vec![("soft", u8::from(soft).to_string())];
        let host = |host: &Option<String>| host.clone().map(|host| ("host", host));
        let (kind, rest) = match purge {
            Purge::All => ("all", vec![]),
            Purge::Tag(tag) => ("tag", vec![Some(("tag", tag.clone()))]),
            Purge::Url { host: of, target } => {
                ("url", vec![host(of), Some(("target", target.clone()))])
            }
            Purge::Prefix { host: of, prefix } => {
                ("prefix", vec![host(of), Some(("prefix", prefix.clone()))])
            }
        };
        fields.push(("kind", kind.to_owned()));
        fields.extend(rest.into_iter().flatten());
        if acknowledged {
            fields.push((ACKNOWLEDGED, "1".to_owned()));
        }
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        Self(fields.into_iter().map(owned).collect())
    }

    /// What an unsafe request invalidates.
    pub(super) fn write(purge: &Purge) -> Self {
        let mut item = Self::new(purge, false, false);
        if matches!(purge, Purge::Url { .. }) {
            item.0.push((WRITE.to_owned(), "1".to_owned()));
        }
        item
    }

    /// The URL, if an unsafe request has caused it.
    pub(super) fn written_to(&self) -> Option<Purge> {
        self.field(WRITE)?;
        self.purge().map(|(purge, _)| purge)
    }

    pub(super) fn is_write(&self) -> bool {
        self.field(WRITE).is_some()
    }

    /// Whether it is what the ledger begins with.
    pub(super) fn is_beginning(&self) -> bool {
        self.field("kind") == Some("begin")
    }

    /// The same, to be written again.
    pub(super) fn again(&self, at: Position) -> Self {
        let mut fields = self.0.clone();
        if self.original().is_none() {
            fields.push((ORIGINAL.to_owned(), at.to_string()));
        }
        Self(fields)
    }

    /// Where it was first, if it was written again.
    pub(super) fn original(&self) -> Option<Position> {
        Position::parse(self.field(ORIGINAL)?)
    }

    pub(super) fn is_to_be_acknowledged(&self) -> bool {
        self.field(ACKNOWLEDGED).is_some()
    }

    /// What it purges, and whether softly. `None` if a newer version wrote it.
    pub(super) fn purge(&self) -> Option<(Purge, bool)> {
        let owned = |name| self.field(name).map(str::to_owned);
        let purge = match self.field("kind")? {
            "all" => Purge::All,
            "tag" => Purge::Tag(owned("tag")?),
            "url" => Purge::Url {
                host: owned("host"),
                target: owned("target")?,
            },
            "prefix" => Purge::Prefix {
                host: owned("host"),
                prefix: owned("prefix")?,
            },
            _ => return None,
        };
        Some((purge, self.field("soft") == Some("1")))
    }

    /// Names and values in turn, as XADD takes them.
    pub(super) fn flat(&self) -> impl Iterator<Item = String> {
        let pairs = self.0.iter();
        pairs.flat_map(|(name, value)| [name.clone(), value.clone()])
    }

    pub(super) fn bytes(&self) -> usize {
        let pairs = self.0.iter();
        pairs.map(|(name, value)| name.len() + value.len()).sum()
    }

    fn field(&self, wanted: &str) -> Option<&str> {
        let mut fields = self.0.iter();
        fields
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    }
}

/// The items of an XREAD answer, RESP2 (`[[key, items]]`) or RESP3 (`{key: items}`).
pub(super) fn of_streams(answer: &Value) -> Vec<(Position, Item)> {
    match answer {
        Value::Array(streams) => streams
            .iter()
            .filter_map(|stream| match stream {
                Value::Array(pair) => pair.get(1),
                _ => None,
            })
            .flat_map(of_range)
            .collect(),
        Value::Map(streams) => streams.values().flat_map(of_range).collect(),
        _ => Vec::new(),
    }
}

/// The oldest item of a stream that had older ones, from an XINFO STREAM answer.
pub(super) fn trimmed_to(answer: Value, most: u32) -> Option<Position> {
    let pairs: Vec<(String, Value)> = match answer {
        Value::Map(fields) => fields
            .inner()
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string()?, value)))
            .collect(),
        Value::Array(flat) => flat
            .chunks_exact(2)
            .filter_map(|pair| Some((pair[0].as_string()?, pair[1].clone())))
            .collect(),
        _ => Vec::new(),
    };
    let field = |wanted: &str| {
        let mut pairs = pairs.iter();
        pairs
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value)
    };
    let length = field("length")?.as_u64()?;
    // Before Redis 7 the stream does not tell.
    let ever = field("entries-added").and_then(Value::as_u64);
    let is_trimmed = ever.map_or(length >= most.into(), |ever| ever > length);
    let Value::Array(first) = field("first-entry")? else {
        return None;
    };
    let oldest = Position::parse(&first.first()?.as_string()?)?;
    is_trimmed.then_some(oldest)
}

/// The items of an XRANGE answer, `[[id, [name, value, …]], …]`.
pub(super) fn of_range(answer: &Value) -> Vec<(Position, Item)> {
    let Value::Array(entries) = answer else {
        return Vec::new();
    };
    let item = |entry: &Value| {
        let Value::Array(pair) = entry else {
            return None;
        };
        let position = Position::parse(&pair.first()?.as_string()?)?;
        let Value::Array(flat) = pair.get(1)? else {
            return None;
        };
        let fields = flat
            .chunks_exact(2)
            .filter_map(|pair| Some((pair[0].as_string()?, pair[1].as_string()?)))
            .collect();
        Some((position, Item(fields)))
    };
    entries.iter().filter_map(item).collect()
}
