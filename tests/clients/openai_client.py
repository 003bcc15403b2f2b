"""The official client of PyPI against a gateway: OPENAI_BASE_URL and OPENAI_API_KEY say where."""

import openai

client = openai.OpenAI(max_retries=0, timeout=20)
question = [{"role": "user", "content": "Define a shuttle, python"}]
call = {"model": "sample-model", "messages": question, "temperature": 0}


def whole():
    """An answer in one piece, and what the cache did."""
    raw = client.chat.completions.with_raw_response.create(**call)
    return raw.parse(), raw.headers["cache-status"]


def streamed():
    """The text and the tokens of a streamed answer, and what the cache did."""
    raw = client.chat.completions.with_raw_response.create(
        **call, stream=True, stream_options={"include_usage": True}
    )
    pieces, usage = [], None
    for event in raw.parse():
        usage = event.usage or usage
        pieces += [choice.delta.content or "" for choice in event.choices]
    return "".join(pieces), usage.total_tokens, raw.headers["cache-status"]


first, status = whole()
assert status.startswith("weaver; fwd=miss"), status
again, status = whole()
assert status.startswith("weaver; hit; ttl="), status
assert first == again, (first, again)
assert client.chat.completions.create(**call) == first
text = first.choices[0].message.content
assert "Define a shuttle" in text

for expected in ["weaver; fwd=miss", "weaver; hit; ttl="]:
    said, tokens, status = streamed()
    assert status.startswith(expected), status
    assert (said, tokens) == (text, first.usage.total_tokens)

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

ended = False
try:
    broken = client.chat.completions.create(
        model="sample-broken", messages=question, temperature=0, stream=True
    )
    for _ in broken:
        pass
    ended = True
except Exception as error:  # the client's own, or the transport's by which it says so
    print(f"a stream that broke off: {error!r}")
assert not ended, "a stream that broke off had a clean end"

print("the client of PyPI is content")
