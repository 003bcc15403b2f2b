//! Whether an answer has come whole and well-formed, and what it cost.

use serde_json::Value;
use weaver_model_cache::Usage;

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Finding {
    /// It may be recorded.
    pub(super) complete: bool,
    /// What it says that it cost.
    pub(super) usage: Option<Usage>,
    /// Pieces of text in a stream: each is about a token.
    pub(super) pieces: u64,
}

/// Looks at an answer's body.
pub(super) fn inspect(media_type: &str, body: &[u8]) -> Finding {
    match essence(media_type) {
        "text/event-stream" => of_events(body),
        "application/json" => of_json(body),
        _ => Finding::default(),
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or("").trim()
}

fn of_json(body: &[u8]) -> Finding {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Finding::default();
    };
    Finding {
        complete: value.is_object() && !has_error(&value),
        usage: usage(&value),
        pieces: 0,
    }
}

/// A stream is whole if its last event says so. It may have been cut by the upstream with a clean
/// end, or end with an error in an event.
fn of_events(body: &[u8]) -> Finding {
    let mut finding = Finding::default();
    let (mut is_done, mut is_sound) = (
        false,
        body.ends_with(b"\n\n") || body.ends_with(b"\r\n\r\n"),
    );
    for data in events(body) {
        if data == b"[DONE]" {
            is_done = true;
            continue;
        }
        // After the end there is nothing.
        is_sound &= !is_done;
        match serde_json::from_slice::<Value>(&data) {
            Ok(value) => {
                is_sound &= !has_error(&value);
                finding.usage = usage(&value).or(finding.usage);
                finding.pieces += 1;
            }
            Err(_) => is_sound = false,
        }
    }
    finding.complete = is_done && is_sound;
    finding
}

/// The data of each event that has some (WHATWG HTML §9.2.6).
fn events(body: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut data: Option<Vec<u8>> = None;
    let lines = body.split(|byte| *byte == b'\n').chain([&b""[..]]);
    lines.filter_map(move |line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return data.take();
        }
        if let Some(rest) = line.strip_prefix(b"data:") {
            let rest = rest.strip_prefix(b" ").unwrap_or(rest);
            match &mut data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(rest);
                }
                None => data = Some(rest.to_vec()),
            }
        }
        None
    })
}

fn has_error(value: &Value) -> bool {
    value.get("error").is_some_and(|error| !error.is_null())
}

fn usage(value: &Value) -> Option<Usage> {
    let usage = value.get("usage")?.as_object()?;
    let count = |name| usage.get(name).and_then(Value::as_u64);
    let prompt = count("prompt_tokens")?;
    let completion = count("completion_tokens");
    let completion = completion.or_else(|| count("total_tokens")?.checked_sub(prompt));
    Some(Usage {
        prompt,
        completion: completion.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_is_whole_and_no_error_may_be_recorded() {
        let json = "application/json; charset=utf-8";
        let events = "text/event-stream";
        let whole = "data: {\"a\":1}\n\ndata: {\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
        let is = |kind, body: &str| inspect(kind, body.as_bytes());
        assert_eq!(
            is(events, whole),
            Finding {
                complete: true,
                usage: Some(Usage {
                    prompt: 2,
                    completion: 3
                }),
                pieces: 2
            }
        );
        assert!(is(events, &whole.replace('\n', "\r\n")).complete);
        assert!(is(events, ": a comment\n\ndata:[DONE]\n\n").complete);
        for cut in [
            "data: {\"a\":1}\n\n",
            "data: {\"a\":1}\n\ndata: [DO",
            "data: {\"a\":1}\n\ndata: [DONE]\n",
            "data: {\"a\":\n\ndata: [DONE]\n\n",
            "data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n",
            "data: [DONE]\n\ndata: {}\n\n",
            "",
        ] {
            assert!(!is(events, cut).complete, "{cut:?}");
        }
        let usage = is(json, r#"{"usage":{"prompt_tokens":5,"total_tokens":5}}"#);
        assert!(usage.complete && usage.usage.is_some_and(|usage| usage.total() == 5));
        for bad in ["", "[]", "{", r#"{"error":"x"}"#] {
            assert!(!is(json, bad).complete, "{bad:?}");
        }
        assert!(!is("text/html", "<p>").complete);
    }

    proptest! {
        #[test]
        fn a_stream_that_was_cut_anywhere_is_not_whole(cut in 0..60_usize) {
            let whole = b"data: {\"a\":\"\\n\\ndata: [DONE]\"}\n\ndata: {\"b\":2}\n\ndata: [DONE]\n\n";
            let at = cut.min(whole.len() - 1);
            prop_assert!(!inspect("text/event-stream", &whole[..at]).complete);
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            inspect("text/event-stream", &body);
            inspect("application/json", &body);
        }
    }

    /// Whatever comes: it is looked at without a panic, and a stream without its end is not whole.
    #[test]
    fn fuzz_a_stream_is_whole_by_its_end_alone() {
        const SEEDS: [&[u8]; 3] = [
            b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n",
            b": ping\r\n\r\ndata: {\"usage\":{\"prompt_tokens\":1,\"total_tokens\":3}}\r\n\r\ndata: [DONE]\r\n\r\n",
            b"{\"error\":null,\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
        ];
        bolero::check!().for_each(|input: &[u8]| {
            let body = weaver_fuzz::changed(&SEEDS, input);
            let stream = inspect("text/event-stream", &body);
            let has_end = body.windows(6).any(|window| window == b"[DONE]");
            assert!(has_end || !stream.complete);
            let _ = inspect("application/json; charset=utf-8", &body);
        });
    }
}
