//! A sample server of language models: OpenAI's interface, always the same answer to the same
//! question, slow on purpose, streaming if asked to.
//!
//! For `weaver-gateway demo`, for trying the gateway without a model at hand, and for tests. The
//! model `sample-broken` breaks off in the middle of its answer, and `sample-error` has none.

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

/// Numbers of an embedding.
const DIMENSIONS: usize = 16;
/// When every answer was made, so that the same one is the same to the byte.
const CREATED: u64 = 1_795_000_000;

/// How slow it is, and how often it was asked.
#[derive(Clone)]
pub(crate) struct Sample {
    delay: Duration,
    calls: Arc<AtomicU64>,
}

impl Sample {
    pub(crate) fn new(delay: Duration) -> Self {
        Self {
            delay,
            calls: Arc::default(),
        }
    }

    pub(crate) fn configure(self, config: &mut web::ServiceConfig) {
        config
            .app_data(web::Data::new(self))
            .app_data(web::JsonConfig::default().limit(64 << 20))
            .route("/v1/models", web::get().to(models))
            .route("/v1/chat/completions", web::post().to(chat))
            .route("/v1/completions", web::post().to(completion))
            .route("/v1/embeddings", web::post().to(embedding))
            .route("/calls", web::get().to(calls));
    }
}

/// How often it was asked, for those who want to see that it was not.
async fn calls(sample: web::Data<Sample>) -> String {
    sample.calls.load(Ordering::Relaxed).to_string()
}

async fn models() -> HttpResponse {
    let model = json!({ "id": "sample-model", "object": "model", "created": CREATED, "owned_by": "weaver" });
    HttpResponse::Ok().json(json!({ "object": "list", "data": [model] }))
}

fn tokens(text: &str) -> usize {
    text.split_whitespace().count()
}

fn usage(prompt: &str, answer: &str) -> Value {
    let (prompt, answer) = (tokens(prompt), tokens(answer));
    json!({ "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer })
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.as_str().or_else(|| part.get("text")?.as_str()))
            .collect::<Vec<_>>()
            .join(" "),
        _ => String::new(),
    }
}

/// What is said to a question, and by which name it is known.
struct Said {
    model: String,
    prompt: String,
    answer: String,
    id: String,
}

impl Said {
    fn to(body: &Value, prompt: String) -> Self {
        let answer = format!("You asked: {prompt} This answer is always the same.");
        let hash = blake3::hash(body.to_string().as_bytes()).to_hex();
        let model = body.get("model").and_then(Value::as_str);
        Self {
            model: model.unwrap_or_default().to_owned(),
            id: hash[..24].to_owned(),
            prompt,
            answer,
        }
    }
}

async fn chat(sample: web::Data<Sample>, body: web::Json<Value>) -> HttpResponse {
    let messages = body.get("messages").and_then(Value::as_array);
    let last = messages.and_then(|messages| messages.last()?.get("content"));
    let said = Said::to(&body, last.map(text_of).unwrap_or_default());
    let whole = |said: &Said| {
        json!({
            "id": format!("chatcmpl-{}", said.id),
            "object": "chat.completion",
            "created": CREATED,
            "model": said.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": said.answer, "refusal": null },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": usage(&said.prompt, &said.answer),
        })
    };
    let piece = |said: &Said, text: Option<&str>, first: bool| {
        let delta = match text {
            Some(text) if first => json!({ "role": "assistant", "content": text }),
            Some(text) => json!({ "content": text }),
            None => json!({}),
        };
        let reason = if text.is_none() {
            json!("stop")
        } else {
            Value::Null
        };
        json!({
            "id": format!("chatcmpl-{}", said.id),
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": said.model,
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason }],
        })
    };
    answer(&sample, &body, said, whole, piece).await
}

async fn completion(sample: web::Data<Sample>, body: web::Json<Value>) -> HttpResponse {
    let said = Said::to(&body, body.get("prompt").map(text_of).unwrap_or_default());
    let form = |said: &Said, text: &str, reason: Value| {
        json!({
            "id": format!("cmpl-{}", said.id),
            "object": "text_completion",
            "created": CREATED,
            "model": said.model,
            "choices": [{ "index": 0, "text": text, "logprobs": null, "finish_reason": reason }],
        })
    };
    let whole = |said: &Said| {
        let mut whole = form(said, &said.answer, json!("stop"));
        whole["usage"] = usage(&said.prompt, &said.answer);
        whole
    };
    let piece = |said: &Said, text: Option<&str>, _: bool| {
        let reason = if text.is_none() {
            json!("stop")
        } else {
            Value::Null
        };
        form(said, text.unwrap_or(""), reason)
    };
    answer(&sample, &body, said, whole, piece).await
}

async fn answer(
    sample: &Sample,
    body: &Value,
    said: Said,
    whole: impl Fn(&Said) -> Value,
    piece: impl Fn(&Said, Option<&str>, bool) -> Value,
) -> HttpResponse {
    sample.calls.fetch_add(1, Ordering::Relaxed);
    if said.model == "sample-error" {
        let error = json!({ "message": "the sample has no answer", "type": "server_error", "param": null, "code": null });
        return HttpResponse::InternalServerError().json(json!({ "error": error }));
    }
    let breaks = said.model == "sample-broken";
    if !body.get("stream").is_some_and(|stream| stream == true) {
        sleep(sample.delay).await;
        let text = whole(&said).to_string();
        if !breaks {
            return HttpResponse::Ok()
                .content_type("application/json")
                .body(text);
        }
        let half = Bytes::from(text[..text.len() / 2].to_owned());
        return HttpResponse::Ok()
            .content_type("application/json")
            .streaming(cut_after(vec![half], Duration::ZERO));
    }
    let words: Vec<&str> = said.answer.split_inclusive(' ').collect();
    let mut events: Vec<Value> = words
        .iter()
        .enumerate()
        .map(|(at, word)| piece(&said, Some(word), at == 0))
        .collect();
    events.push(piece(&said, None, false));
    let wants_usage = body.pointer("/stream_options/include_usage");
    if wants_usage.is_some_and(|wants| wants == true) {
        let mut last = piece(&said, None, false);
        last["choices"] = json!([]);
        last["usage"] = usage(&said.prompt, &said.answer);
        events.push(last);
    }
    let mut events: Vec<Bytes> = events
        .iter()
        .map(|event| Bytes::from(format!("data: {event}\n\n")))
        .collect();
    // The whole takes as long as an answer in one piece.
    let pause = sample.delay / u32::try_from(events.len() + 1).unwrap_or(1);
    sleep(pause).await;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, "text/event-stream"));
    if breaks {
        events.truncate(events.len() / 2);
        return response.streaming(cut_after(events, pause));
    }
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    response.streaming(paced(events, pause).map(Ok::<_, std::io::Error>))
}

fn paced(pieces: Vec<Bytes>, pause: Duration) -> impl stream::Stream<Item = Bytes> {
    stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        piece
    })
}

/// Some pieces, and then no end.
fn cut_after(
    pieces: Vec<Bytes>,
    pause: Duration,
) -> impl stream::Stream<Item = Result<Bytes, std::io::Error>> {
    let broken = stream::once(async { Err(std::io::Error::other("it breaks off on purpose")) });
    paced(pieces, pause).map(Ok).chain(broken)
}

async fn embedding(sample: web::Data<Sample>, body: web::Json<Value>) -> HttpResponse {
    sample.calls.fetch_add(1, Ordering::Relaxed);
    sleep(sample.delay).await;
    let inputs = match body.get("input") {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => items.iter().map(text_of).collect(),
        _ => {
            let error = json!({ "message": "input is missing", "type": "invalid_request_error", "param": "input", "code": null });
            return HttpResponse::build(StatusCode::BAD_REQUEST).json(json!({ "error": error }));
        }
    };
    let base64 = body
        .get("encoding_format")
        .is_some_and(|format| format == "base64");
    let data = inputs.iter().enumerate().map(|(at, input)| {
        let numbers = numbers(input);
        let embedding = if base64 {
            let bytes: Vec<u8> = numbers
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect();
            json!(BASE64_STANDARD.encode(bytes))
        } else {
            json!(numbers)
        };
        json!({ "object": "embedding", "index": at, "embedding": embedding })
    });
    let tokens: usize = inputs.iter().map(|input| tokens(input)).sum();
    HttpResponse::Ok().json(json!({
        "object": "list",
        "data": data.collect::<Vec<_>>(),
        "model": body.get("model"),
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    }))
}

/// Of a text always the same, between -1 and 1.
fn numbers(text: &str) -> Vec<f32> {
    let hash = blake3::hash(text.as_bytes());
    let bytes = hash.as_bytes().iter().take(DIMENSIONS);
    bytes
        .map(|byte| (f32::from(*byte) - 127.5) / 127.5)
        .collect()
}
