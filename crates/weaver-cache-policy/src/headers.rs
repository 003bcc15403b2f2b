/// A borrowed view of header fields.
///
/// Names are asked for in lower case and compared without case. Field lines come in the order in
/// which they stand in the message, one item for each line; lists are split by whoever knows that
/// the field is one (RFC 9110 §5.3).
pub trait Headers {
    /// All field lines of that name.
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a;

    /// The first field line of that name.
    fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// Whether there is a field line of that name.
    fn has(&self, name: &str) -> bool {
        self.lines(name).next().is_some()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter()
            .filter(move |(candidate, _)| candidate.as_ref().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_ref())
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.as_slice().lines(name)
    }
}

/// Strips optional whitespace (RFC 9110 §5.6.3) from both ends.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a comma-separated list over all its lines (RFC 9110 §5.6.1).
///
/// A comma inside a quoted string does not separate, empty members are skipped, and a quoted string
/// that is never closed reaches to the end of its line.
pub(crate) fn list<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lines.flat_map(Members).filter(|member| !member.is_empty())
}

struct Members<'a>(&'a [u8]);

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        for (at, byte) in self.0.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    let member = &self.0[..at];
                    self.0 = &self.0[at + 1..];
                    return Some(trim(member));
                }
                _ => {}
            }
        }
        Some(trim(std::mem::take(&mut self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(line: &str) -> Vec<String> {
        list([line.as_bytes()].into_iter())
            .map(|m| String::from_utf8_lossy(m).into())
            .collect()
    }

    #[test]
    fn a_list_is_split_at_commas_outside_quotes() {
        assert_eq!(members("a, b=\"x,y\" ,, c"), ["a", "b=\"x,y\"", "c"]);
        assert_eq!(members("a=\"x\\\",y\", b"), ["a=\"x\\\",y\"", "b"]);
        assert_eq!(members(" , "), Vec::<String>::new());
        assert_eq!(members("a=\"never closed, b"), ["a=\"never closed, b"]);
    }
}
