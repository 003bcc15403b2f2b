//! Inputs that are nearly right: seeds, with changes that the fuzzer's bytes describe.
//!
//! Random bytes fail at the first check. A seed with a few changes gets behind it, with a fuzzer that is
//! guided by coverage and with one that is not.

/// What formats are made of, and what readers stumble over.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\x7f",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"=",
    b"\"",
    b"%2e",
    b"%2F",
    b"..",
    b"//",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"[DONE]",
    b"{}",
];

/// Applies the changes that `input` describes to one of the seeds, which it chooses.
///
/// The first byte is the seed; each four behind it are a change: its kind, its place, a value.
#[must_use]
pub fn changed(seeds: &[&[u8]], input: &[u8]) -> Vec<u8> {
    let Some((first, changes)) = input.split_first() else {
        return Vec::new();
    };
    let Some(seed) = seeds.get(usize::from(*first) % seeds.len().max(1)) else {
        return input.to_vec();
    };
    let mut made = seed.to_vec();
    for change in changes.chunks_exact(4).take(16) {
        let [kind, high, low, value] = [change[0], change[1], change[2], change[3]];
        let place = usize::from(u16::from_be_bytes([high, low])) % (made.len() + 1);
        match kind % 6 {
            0 => made.insert(place, value),
            1 if place < made.len() => made[place] = value,
            2 if place < made.len() => {
                made.remove(place);
            }
            3 => {
                let word = WORDS[usize::from(value) % WORDS.len()];
                made.splice(place..place, word.iter().copied());
            }
            4 => made.truncate(place),
            5 => {
                let end = (place + usize::from(value)).min(made.len());
                let again = made[place..end].to_vec();
                made.splice(place..place, again);
            }
            _ => {}
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_changes_a_seed_is_itself() {
        assert_eq!(changed(&[b"a", b"b"], &[1]), b"b");
        assert_eq!(changed(&[b"abc"], &[0, 2, 0, 1, 0]), b"ac");
        assert_eq!(changed(&[], b"xy"), b"xy");
    }
}
