//! The binary form of a record in Redis.
//!
//! ```text
//! version u8 · code 16 (see [`crate::seal`]) · kind u8 · key (u32 + bytes) · then, by kind:
//! entry: status u16 · lifetime (6 × u64, flags u8) · position (2 × u64) · fill µs u64
//!        · variant? · fields (u16 × (u16 + name, u32 + value)) · body (u64 + bytes)
//! remote: as entry, without a body · id 16 · length u64 · each u64
//! index: nonce 16 · variants (u16 × variant)
//! variant: names (u8 × (u16 + name)) · digest 32 · digest beside language 32
//!        · language? (u8, u16 + text)
//! ```
//!
//! All numbers are little-endian. Reading checks every length against what is there and refuses
//! whatever does not end exactly where the value ends; nothing read from Redis can panic, and
//! nothing is allocated by a length that was merely claimed. Nor is anything read that must not be
//! served: a status that is not final, a part where the whole is asked for, a field that frames.

use crate::{
    Position,
    entry::{Checked, Entry, Head, Index, MAX_PARTS, MAX_VARIANTS, Parts, Record, Remote},
    key,
    seal::Seal,
};
use actix_web::http::{
    StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use bytes::Bytes;
use std::sync::Arc;
use weaver_cache_policy::{
    Flags, Lifetime, Millis, validation,
    vary::{Names, Variant},
};

const KIND_ENTRY: u8 = 1;
const KIND_INDEX: u8 = 2;
pub(crate) const KIND_REMOTE: u8 = 4;
/// A part of a body; see [`crate::redis`].
pub(crate) const KIND_PART: u8 = 5;
/// A compressed record; see [`crate::compress`].
pub(crate) const KIND_PACKED: u8 = 3;

/// Writes a record, to be sealed.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut out = Seal::room(match record {
        Record::Entry(entry) => entry.bytes(),
        Record::Remote(..) | Record::Index(..) => record.bytes(),
    });
    match record {
        Record::Entry(entry) => {
            out.push(KIND_ENTRY);
            put32(&mut out, &entry.key);
            encode_entry(&mut out, entry);
        }
        Record::Remote(remote) => {
            out.push(KIND_REMOTE);
            put32(&mut out, &remote.entry.key);
            encode_entry(&mut out, &remote.entry);
            out.extend_from_slice(&remote.parts.id);
            out.extend_from_slice(&remote.parts.length.to_le_bytes());
            out.extend_from_slice(&remote.parts.each.to_le_bytes());
        }
        Record::Index(key, index) => {
            out.push(KIND_INDEX);
            put32(&mut out, key);
            out.extend_from_slice(&index.nonce);
            let variants = &index.variants[..index.variants.len().min(MAX_VARIANTS)];
            put16(&mut out, variants.len());
            for variant in variants {
                encode_variant(&mut out, variant);
            }
        }
    }
    out
}

fn encode_entry(out: &mut Vec<u8>, entry: &Entry) {
    let head = &entry.head;
    out.extend_from_slice(&head.status.as_u16().to_le_bytes());
    let life = &head.lifetime;
    for number in [
        life.received_at.0,
        life.initial_age,
        life.fresh_for,
        life.stale_while_revalidate,
        life.stale_if_error,
        life.grace,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(life.flags.0);
    out.extend_from_slice(&head.position.time.to_le_bytes());
    out.extend_from_slice(&head.position.sequence.to_le_bytes());
    out.extend_from_slice(&entry.fill_micros.to_le_bytes());
    match &head.variant {
        Some(variant) => {
            out.push(1);
            encode_variant(out, variant);
        }
        None => out.push(0),
    }
    put16(out, head.fields.len());
    for (name, value) in &head.fields {
        put16(out, name.as_str().len());
        out.extend_from_slice(name.as_str().as_bytes());
        put32(out, value.as_bytes());
    }
    out.extend_from_slice(&(entry.body.len() as u64).to_le_bytes());
    out.extend_from_slice(&entry.body);
}

fn encode_variant(out: &mut Vec<u8>, variant: &Variant) {
    // The policy admits at most 32 names.
    out.push(u8::try_from(variant.names.len()).unwrap_or(u8::MAX));
    for name in &variant.names {
        put16(out, name.len());
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(&variant.digest);
    out.extend_from_slice(&variant.beside_language);
    match &variant.language {
        Some(language) => {
            out.push(1);
            put16(out, language.len());
            out.extend_from_slice(language.as_bytes());
        }
        None => out.push(0),
    }
}

fn put16(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes());
}

fn put32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads what stands behind the seal, if it is a record of the `wanted` key.
///
/// The body is copied out of the connection's buffer, which it would otherwise keep alive.
pub(crate) fn decode(bytes: &[u8], wanted: &[u8]) -> Option<Record> {
    let mut input = Input(bytes);
    let kind = input.byte()?;
    if input.bytes32()? != wanted {
        return None;
    }
    let key: Arc<[u8]> = wanted.into();
    let record = match kind {
        KIND_ENTRY => Record::Entry(Arc::new(decode_entry(&mut input, key)?)),
        KIND_REMOTE => {
            let entry = Arc::new(decode_entry(&mut input, key)?);
            let parts = Parts {
                id: *input.array()?,
                length: input.u64()?,
                each: input.u64()?,
            };
            let is_divided = parts.length > 0 && parts.each > 0 && parts.count() <= MAX_PARTS;
            if !entry.body.is_empty() || !is_divided {
                return None;
            }
            Record::Remote(Arc::new(Remote { entry, parts }))
        }
        KIND_INDEX => {
            let nonce = *input.array::<16>()?;
            let count = usize::from(input.u16()?);
            if count > MAX_VARIANTS {
                return None;
            }
            let variants = (0..count)
                .map(|_| decode_variant(&mut input))
                .collect::<Option<_>>()?;
            Record::Index(key, Arc::new(Index { nonce, variants }))
        }
        _ => return None,
    };
    input.0.is_empty().then_some(record)
}

fn decode_entry(input: &mut Input<'_>, key: Arc<[u8]>) -> Option<Entry> {
    let status = StatusCode::from_u16(input.u16()?).ok()?;
    if !is_servable(status, &key) {
        return None;
    }
    let lifetime = Lifetime {
        received_at: Millis(input.u64()?),
        initial_age: input.u64()?,
        fresh_for: input.u64()?,
        stale_while_revalidate: input.u64()?,
        stale_if_error: input.u64()?,
        grace: input.u64()?,
        flags: Flags(input.byte()?),
    };
    let position = Position {
        time: input.u64()?,
        sequence: input.u64()?,
    };
    let fill_micros = input.u64()?;
    let variant = if input.flag()? {
        Some(decode_variant(input)?)
    } else {
        None
    };
    let count = usize::from(input.u16()?);
    let mut fields = Vec::with_capacity(count.min(128));
    for _ in 0..count {
        let length = usize::from(input.u16()?);
        let name = HeaderName::from_bytes(input.take(length)?).ok()?;
        if is_framing(&name) {
            return None;
        }
        let value = HeaderValue::from_bytes(input.bytes32()?).ok()?;
        fields.push((name, value));
    }
    let length = usize::try_from(input.u64()?).ok()?;
    let body = Bytes::copy_from_slice(input.take(length)?);
    let head = Arc::new(Head {
        status,
        fields,
        lifetime,
        position,
        variant,
    });
    Some(Entry {
        key,
        head,
        body,
        fill_micros,
        checked: Checked::default(),
    })
}

/// Whether a stored response of that key may have this status: a final one, of its own, and a part
/// only where parts are.
fn is_servable(status: StatusCode, key: &[u8]) -> bool {
    match status.as_u16() {
        206 => key::is_of_part(key),
        304 => false,
        status => (200..600).contains(&status),
    }
}

/// Whether a field frames the message or belongs to its connection. None is ever stored.
fn is_framing(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || validation::HOP_BY_HOP.contains(&name.as_str())
}

fn decode_variant(input: &mut Input<'_>) -> Option<Variant> {
    let count = input.byte()?;
    let mut names = Names::new();
    for _ in 0..count {
        names.push(input.text16()?.to_owned());
    }
    let digest = *input.array::<32>()?;
    let beside_language = *input.array::<32>()?;
    let language = if input.flag()? {
        Some(input.text16()?.to_owned())
    } else {
        None
    };
    Some(Variant {
        names,
        digest,
        beside_language,
        language,
    })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        self.take(N)?.first_chunk()
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn bytes32(&mut self) -> Option<&'a [u8]> {
        let length = self.array().map(|bytes| u32::from_le_bytes(*bytes))?;
        self.take(length as usize)
    }

    fn text16(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests;
