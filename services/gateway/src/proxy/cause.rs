//! Errors as a person reads them: the whole chain, said once.

use std::{error::Error, time::Duration};

/// What an error says and what its causes say, the outermost first. What a cause repeats is left out,
/// and so is the client's own word that it is the client's.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let said = error.to_string();
        if said.starts_with("client error (") && next.is_some() {
            continue;
        }
        if text.ends_with(&said) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&said);
    }
    text
}

/// A duration as in "5 s" or "250 ms".
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fmt, io};

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn the_innermost_cause_is_told_and_nothing_twice() {
        let refused = || io::Error::other("Connection refused");
        let told = |outer| chain(&Outer(outer, refused()));
        assert_eq!(
            told("tcp connect error"),
            "tcp connect error: Connection refused"
        );
        assert_eq!(told("client error (Connect)"), "Connection refused");
        assert_eq!(
            told("failed: Connection refused"),
            "failed: Connection refused"
        );
    }

    #[test]
    fn durations_are_read_by_people() {
        assert_eq!(seconds(Duration::from_secs(5)), "5 s");
        assert_eq!(seconds(Duration::from_millis(1250)), "1250 ms");
    }
}
