"""The official client of PyPI against a gateway: OPENAI_BASE_URL and OPENAI_API_KEY say where."""

import time

import openai

client = openai.OpenAI(max_retries=0, timeout=20)
question = [{"role": "user", "content": "Define a shuttle, python"}]


def timed(call):
    began = time.monotonic()
    result = call()
    return result, time.monotonic() - began


def whole():
    return client.chat.completions.create(
        model="sample-model", messages=question, temperature=0
    )


def streamed():
    stream = client.chat.completions.create(
        model="sample-model",
        messages=question,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    for event in stream:
        usage = event.usage or usage
        pieces += [choice.delta.content or "" for choice in event.choices]
    return "".join(pieces), usage.total_tokens


first, _ = timed(whole)
again, took = timed(whole)
assert first == again, (first, again)
assert "Define a shuttle" in first.choices[0].message.content
assert took < 0.3, f"a hit took {took}"

raw = client.chat.completions.with_raw_response.create(
    model="sample-model", messages=question, temperature=0
)
assert raw.headers["cache-status"].startswith("weaver; hit; ttl="), raw.headers

(text, usage), _ = timed(streamed)
(replayed, usage_again), took = timed(streamed)
assert text == replayed == first.choices[0].message.content
assert usage == usage_again == first.usage.total_tokens
assert took < 0.3, f"a replay took {took}"

completion = client.completions.create(
    model="sample-model", prompt="what is a reed", temperature=0
)
assert "what is a reed" in completion.choices[0].text

assert [model.id for model in client.models.list()] == ["sample-model"]

for _ in range(2):
    embeddings = client.embeddings.create(model="sample-model", input=["warp", "weft"])
    assert len(embeddings.data) == 2 and len(embeddings.data[0].embedding) == 16
    assert embeddings.data[0].embedding != embeddings.data[1].embedding

try:
    client.chat.completions.create(model="unheard-of", messages=question)
    raise AssertionError("an unknown model was answered")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error

try:
    client.chat.completions.create(model="sample-error", messages=question)
    raise AssertionError("an error was no error")
except openai.InternalServerError as error:
    assert "no answer" in error.message, error

try:
    broken = client.chat.completions.create(
        model="sample-broken", messages=question, temperature=0, stream=True
    )
    for _ in broken:
        pass
    raise AssertionError("a stream that broke off had a clean end")
except openai.APIError:
    pass
except Exception as error:  # the transport's own, by which the client says so
    assert "peer closed" in str(error) or "incomplete" in str(error).lower(), error

print("the client of PyPI is content")
