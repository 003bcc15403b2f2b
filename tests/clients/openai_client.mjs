// The official client of npm against a gateway: OPENAI_BASE_URL and OPENAI_API_KEY say where.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
const messages = [{ role: "user", content: "Define a shuttle, node" }];
const call = { model: "sample-model", messages, temperature: 0 };

/** An answer, and what the cache did. */
async function answered(more = {}) {
  const { data, response } = await client.chat.completions.create({ ...call, ...more }).withResponse();
  return [data, response.headers.get("cache-status")];
}

const [first, missed] = await answered();
assert.match(missed, /^weaver; fwd=miss/);
const [again, hit] = await answered();
assert.match(hit, /^weaver; hit; ttl=/);
assert.deepEqual(again, first);
const text = first.choices[0].message.content;
assert.match(text, /Define a shuttle/);

for (const expected of [/^weaver; fwd=miss/, /^weaver; hit; ttl=/]) {
  const [stream, status] = await answered({ stream: true });
  assert.match(status, expected);
  let said = "";
  for await (const event of stream) said += event.choices[0]?.delta?.content ?? "";
  assert.equal(said, text);
}

const completion = await client.completions.create({
  model: "sample-model",
  prompt: "what is a reed",
  temperature: 0,
});
assert.match(completion.choices[0].text, /what is a reed/);

const models = await client.models.list();
assert.deepEqual(models.data.map((model) => model.id), ["sample-model"]);

const embeddings = await client.embeddings.create({ model: "sample-model", input: ["warp", "weft"] });
assert.equal(embeddings.data.length, 2);
assert.equal(embeddings.data[0].embedding.length, 16);

await assert.rejects(
  () => client.chat.completions.create({ ...call, model: "unheard-of" }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
await assert.rejects(
  () => client.chat.completions.create({ ...call, model: "sample-error" }),
  OpenAI.InternalServerError,
);
await assert.rejects(async () => {
  const broken = await client.chat.completions.create({ ...call, model: "sample-broken", stream: true });
  for await (const _ of broken);
}, "a stream that broke off had a clean end");

console.log("the client of npm is content");
