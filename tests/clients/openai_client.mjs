// The official client of npm against a gateway: OPENAI_BASE_URL and OPENAI_API_KEY say where.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
const messages = [{ role: "user", content: "Define a shuttle, node" }];
const call = { model: "sample-model", messages, temperature: 0 };

async function timed(work) {
  const began = performance.now();
  return [await work(), performance.now() - began];
}

async function streamed() {
  let text = "";
  for await (const event of await client.chat.completions.create({ ...call, stream: true })) {
    text += event.choices[0]?.delta?.content ?? "";
  }
  return text;
}

const first = await client.chat.completions.create(call);
const [again, took] = await timed(() => client.chat.completions.create(call));
assert.deepEqual(again, first);
assert.match(first.choices[0].message.content, /Define a shuttle/);
assert.ok(took < 300, `a hit took ${took} ms`);

const { response } = await client.chat.completions.create(call).withResponse();
assert.match(response.headers.get("cache-status"), /^weaver; hit; ttl=/);

const text = await streamed();
const [replayed, took2] = await timed(streamed);
assert.equal(text, first.choices[0].message.content);
assert.equal(replayed, text);
assert.ok(took2 < 300, `a replay took ${took2} ms`);

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
