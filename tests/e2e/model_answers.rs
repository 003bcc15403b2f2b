//! Answers of models that are framed well and yet not complete: passed on as they came, never recorded.

use crate::{client, field, ok};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use weaver_tests::{Gateway, Origin};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
const EMBEDDING: &str = "/v1/embeddings";

fn call(path: &str, more: Value) -> Result<Value> {
    let mut body = json!({ "model": "m", "temperature": 0 });
    let (name, query) = match path {
        CHAT => ("messages", json!([{ "role": "user", "content": "what" }])),
        COMPLETION => ("prompt", json!("what")),
        _ => ("input", json!(["what", "where"])),
    };
    body[name] = query;
    let members = body.as_object_mut().context("an object")?;
    members.extend(more.as_object().context("an object")?.clone());
    Ok(body)
}

/// Asks twice, and says how often the upstream was asked; both answers are what the upstream sent.
async fn asks(path: &str, body: &Value, media_type: &str, answer: &str) -> Result<usize> {
    let fields = format!("content-type: {media_type}\r\n");
    let origin = Origin::constant(ok(answer, &fields)).await?;
    let models = format!(
        "[[models]]\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        origin.port()
    );
    let gateway = Gateway::start(&models).await?;
    for _ in 0..2 {
        let got = client().post(gateway.url(path)).json(body).send().await?;
        assert_eq!(got.status(), 200);
        assert_eq!(field(&got, "content-type"), media_type);
        assert_eq!(got.text().await?, answer);
    }
    Ok(origin.requests())
}

fn choices(path: &str, reasons: &[Value]) -> Value {
    let choice = |(index, reason): (usize, &Value)| match path {
        CHAT => json!({ "index": index, "message": { "content": "a" }, "finish_reason": reason }),
        _ => json!({ "index": index, "text": "a", "finish_reason": reason }),
    };
    json!({ "choices": reasons.iter().enumerate().map(choice).collect::<Vec<_>>() })
}

fn events(path: &str, reasons: &[Value]) -> String {
    let piece = |(index, reason): (usize, &Value)| {
        let mut choice = match path {
            CHAT => json!({ "index": index, "delta": { "content": "a" } }),
            _ => json!({ "index": index, "text": "a" }),
        };
        choice["finish_reason"] = Value::Null;
        let begins = json!({ "choices": [choice] });
        choice["finish_reason"] = reason.clone();
        format!(
            "data: {begins}\n\ndata: {}\n\n",
            json!({ "choices": [choice] })
        )
    };
    let pieces: String = reasons.iter().enumerate().map(piece).collect();
    format!("{pieces}data: [DONE]\n\n")
}

#[tokio::test]
async fn an_answer_is_recorded_only_if_each_choice_has_come_to_its_end() -> Result<()> {
    let (stop, length) = (json!("stop"), json!("length"));
    let two = json!({ "n": 2 });
    let cases: [(&str, Value, Vec<Value>, bool); 12] = [
        ("a whole one", json!({}), vec![stop.clone()], true),
        ("one of tools", json!({}), vec![json!("tool_calls")], true),
        ("no choices", json!({}), vec![], false),
        ("one without an end", json!({}), vec![Value::Null], false),
        (
            "a filtered one",
            json!({}),
            vec![json!("content_filter")],
            false,
        ),
        ("an unknown end", json!({}), vec![json!("gave_up")], false),
        (
            "a length nobody set",
            json!({}),
            vec![length.clone()],
            false,
        ),
        (
            "a length that is no limit",
            json!({ "max_tokens": null }),
            vec![length.clone()],
            false,
        ),
        (
            "a length that was asked for",
            json!({ "max_tokens": 5 }),
            vec![length.clone()],
            true,
        ),
        ("two", two.clone(), vec![stop.clone(), stop.clone()], true),
        ("one of two", two.clone(), vec![stop.clone()], false),
        ("one of two cut", two, vec![stop, Value::Null], false),
    ];
    for path in [CHAT, COMPLETION] {
        for (what, more, reasons, is_recorded) in &cases {
            let expected = if *is_recorded { 1 } else { 2 };
            let mut body = call(path, more.clone())?;
            let whole = choices(path, reasons).to_string();
            let asked = asks(path, &body, "application/json", &whole).await?;
            assert_eq!(asked, expected, "{path}: {what}");
            body["stream"] = json!(true);
            let stream = events(path, reasons);
            let asked = asks(path, &body, "text/event-stream", &stream).await?;
            assert_eq!(asked, expected, "{path}, as a stream: {what}");
        }
    }
    let mut body = call(CHAT, json!({ "max_completion_tokens": 5 }))?;
    let whole = choices(CHAT, &[length]).to_string();
    assert_eq!(asks(CHAT, &body, "application/json", &whole).await?, 1);
    // Nothing but the end.
    body["stream"] = json!(true);
    let end = "data: [DONE]\n\n";
    assert_eq!(asks(CHAT, &body, "text/event-stream", end).await?, 2);
    Ok(())
}

#[tokio::test]
async fn embeddings_are_recorded_only_if_there_is_one_for_each_input() -> Result<()> {
    let body = call(EMBEDDING, json!({}))?;
    let one = json!({ "embedding": [0.5, 0.25] });
    for (data, expected) in [
        (json!([one, { "embedding": "AACAPw==" }]), 1),
        (json!([]), 2),
        (json!([one]), 2),
        (json!([one, { "embedding": [] }]), 2),
        (Value::Null, 2),
    ] {
        let answer = json!({ "object": "list", "data": data }).to_string();
        let asked = asks(EMBEDDING, &body, "application/json", &answer).await?;
        assert_eq!(asked, expected, "{answer}");
    }
    Ok(())
}
