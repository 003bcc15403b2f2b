//! Whether an answer has come whole and well-formed, and what it cost.

use super::complete::{Expected, StreamedChoices};
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
pub(super) fn inspect(media_type: &str, body: &[u8], expected: Expected) -> Finding {
    match essence(media_type) {
        "text/event-stream" => of_events(body, expected),
        "application/json" => of_json(body, expected),
        _ => Finding::default(),
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or("").trim()
}

fn of_json(body: &[u8], expected: Expected) -> Finding {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Finding::default();
    };
    Finding {
        complete: !has_error(&value) && expected.is_met_by(&value),
        usage: usage(&value),
        pieces: 0,
    }
}

/// A stream is whole if its last event says so, and each of its choices has ended. It may have been cut
/// by the upstream with a clean end, or end with an error in an event.
fn of_events(body: &[u8], expected: Expected) -> Finding {
    let mut finding = Finding::default();
    let (mut is_done, mut is_sound) = (
        false,
        body.ends_with(b"\n\n") || body.ends_with(b"\r\n\r\n"),
    );
    let mut choices = StreamedChoices::new(expected);
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
                choices.see(&value);
                finding.usage = usage(&value).or(finding.usage);
                finding.pieces += 1;
            }
            Err(_) => is_sound = false,
        }
    }
    finding.complete = is_done && is_sound && choices.are_complete();
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
    use super::super::{Endpoint, complete::expected};
    use super::*;
    use proptest::prelude::*;

    const JSON: &str = "application/json; charset=utf-8";
    const EVENTS: &str = "text/event-stream";

    fn of_chat(media_type: &str, body: &str) -> Finding {
        let expected = expected(Endpoint::Chat, 1, false);
        inspect(media_type, body.as_bytes(), expected)
    }

    #[test]
    fn only_what_is_whole_and_no_error_may_be_recorded() {
        let whole = "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\n\n\
                     data: {\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\n\
                     data: [DONE]\n\n";
        assert_eq!(
            of_chat(EVENTS, whole),
            Finding {
                complete: true,
                usage: Some(Usage {
                    prompt: 2,
                    completion: 3
                }),
                pieces: 2
            }
        );
        assert!(of_chat(EVENTS, &whole.replace('\n', "\r\n")).complete);
        assert!(of_chat(EVENTS, &format!(": a comment\n\n{whole}")).complete);
        let end = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
        assert!(of_chat(EVENTS, &format!("{end}data:[DONE]\n\n")).complete);
        for rest in [
            "",
            "data: [DO",
            "data: [DONE]\n",
            "data: {\"a\":\n\ndata: [DONE]\n\n",
            "data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n",
            "data: [DONE]\n\ndata: {}\n\n",
        ] {
            assert!(
                !of_chat(EVENTS, &format!("{end}{rest}")).complete,
                "{rest:?}"
            );
        }
        for unfinished in ["", "data: [DONE]\n\n", "data: {}\n\ndata: [DONE]\n\n"] {
            assert!(!of_chat(EVENTS, unfinished).complete, "{unfinished:?}");
        }
        let embeddings = expected(Endpoint::Embedding, 1, false);
        let body = r#"{"data":[{"embedding":[1]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#;
        let found = inspect(JSON, body.as_bytes(), embeddings);
        assert!(found.complete && found.usage.is_some_and(|usage| usage.total() == 5));
        let good = r#"{"choices":[{"message":{},"finish_reason":"stop"}]}"#;
        assert!(of_chat(JSON, good).complete);
        let error = good.replacen('{', r#"{"error":"x","#, 1);
        for bad in ["", "[]", "{", "{}", &error] {
            assert!(!of_chat(JSON, bad).complete, "{bad:?}");
        }
        assert!(!of_chat("text/html", "<p>").complete);
    }

    #[test]
    fn a_stream_is_whole_if_each_choice_has_come_to_its_end() {
        let stream = |ends: &[(u64, Option<&str>)]| {
            let mut body = String::new();
            for (index, reason) in ends {
                let choice = serde_json::json!({ "index": index, "finish_reason": reason });
                let event = serde_json::json!({ "choices": [choice] });
                body.push_str(&format!("data: {event}\n\n"));
            }
            body + "data: [DONE]\n\n"
        };
        let is = |items, limited, ends: &[(u64, Option<&str>)]| {
            let expected = expected(Endpoint::Chat, items, limited);
            inspect(EVENTS, stream(ends).as_bytes(), expected).complete
        };
        let (stop, length) = (Some("stop"), Some("length"));
        assert!(is(1, false, &[(0, None), (0, stop), (0, None)]));
        assert!(is(2, false, &[(0, None), (1, stop), (0, stop)]));
        assert!(is(1, true, &[(0, length)]));
        assert!(!is(1, false, &[(0, None)]));
        assert!(!is(1, false, &[(0, length)]));
        assert!(!is(1, true, &[(0, Some("content_filter"))]));
        assert!(!is(1, false, &[(0, Some("content_filter")), (0, stop)]));
        assert!(!is(1, false, &[(0, stop), (1, None)]));
        assert!(!is(2, false, &[(0, stop)]), "one of two");
    }

    proptest! {
        #[test]
        fn a_stream_that_was_cut_anywhere_is_not_whole(cut in 0..200_usize) {
            let whole = "data: {\"a\":\"\\n\\ndata: [DONE]\"}\n\n\
                         data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
            prop_assert!(of_chat(EVENTS, whole).complete);
            let at = cut.min(whole.len() - 1);
            prop_assert!(!of_chat(EVENTS, &whole[..at]).complete);
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for endpoint in Endpoint::ALL {
                inspect(EVENTS, &body, expected(endpoint, 1, false));
                inspect(JSON, &body, expected(endpoint, 1, false));
            }
        }
    }

    /// Whatever comes: it is looked at without a panic, and what does not say that it has ended is not
    /// whole.
    #[test]
    fn fuzz_an_answer_is_whole_by_its_end_alone() {
        const SEEDS: [&[u8]; 4] = [
            b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
            b": ping\r\n\r\ndata: {\"usage\":{\"prompt_tokens\":1,\"total_tokens\":3}}\r\n\r\ndata: [DONE]\r\n\r\n",
            b"{\"error\":null,\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
            b"{\"choices\":[{\"message\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
        ];
        bolero::check!().for_each(|input: &[u8]| {
            let body = weaver_fuzz::changed(&SEEDS, input);
            let expected = expected(Endpoint::Chat, 1, false);
            let stream = inspect(EVENTS, &body, expected);
            let has = |end: &[u8]| body.windows(end.len()).any(|window| window == end);
            // A name may be written with escapes.
            let may_end = has(b"finish_reason") || has(b"\\u");
            assert!((has(b"[DONE]") && may_end) || !stream.complete);
            let whole = inspect(JSON, &body, expected);
            assert!(may_end || !whole.complete);
        });
    }
}
