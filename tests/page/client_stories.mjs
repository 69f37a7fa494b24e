/** Stories of the JavaScript client, told to a real server whose engine says what it is asked. Run by test_js_client.py. */

import assert from "node:assert/strict";
import { connect as dial, createServer } from "node:net";
import test from "node:test";

import { ConnectionLost, ReplyError, connect } from "../../src/mlx_websockets/server/playground/client.js";

const url = process.env.MLX_WS_URL;
const GIF = Uint8Array.from(atob("R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs="), (each) => each.charCodeAt(0));

test("a reply is iterated for its deltas, and says what it came to", async () => {
  const mlx = await connect(url);
  const reply = mlx.ask("one two three");

  const deltas = [];
  for await (const delta of reply) deltas.push(delta);

  assert.deepEqual(deltas.join(""), "one two three");
  const { text, finishReason, usage } = await reply.result;
  assert.deepEqual([text, finishReason, usage.output_tokens], ["one two three", "stop", 3]);
  mlx.close();
});

test("several candidates are told apart, with how likely their tokens were", async () => {
  const mlx = await connect(url);
  const reply = mlx.ask("one two", { config: { candidateCount: 2, logprobs: 2 } });

  const pieces = [];
  for await (const { candidate, text } of reply.pieces()) pieces.push([candidate, text]);
  const { text, candidates, logprobs } = await reply.result;

  assert.deepEqual(pieces, [[0, "one"], [1, "one"], [0, " two"], [1, " two"]]);
  assert.deepEqual([text, candidates.map((each) => each.text)], ["one two", ["one two", "one two"]]);
  assert.deepEqual(logprobs[0], { token: "one", logprob: -0.5, top: [{ token: "one", logprob: -0.5 }, { token: "else", logprob: -1.5 }] });
  assert.equal(candidates[1].logprobs.length, 2);
  const deltas = [];
  for await (const delta of mlx.ask("one two", { config: { candidateCount: 2 } })) deltas.push(delta);
  assert.deepEqual(deltas, ["one", " two"]);
  mlx.close();
});

test("several replies are open at once", async () => {
  const mlx = await connect(url);

  const texts = await Promise.all(["a", "b c", "d"].map((each) => mlx.ask(each).text));

  assert.deepEqual(texts, ["a", "b c", "d"]);
  mlx.close();
});

test("pictures go in binary messages, several as text", async () => {
  const mlx = await connect(url);
  const kinds = [];
  mlx.addEventListener("message", ({ detail }) => detail.direction === "out" && kinds.push(Object.keys(detail.message)));

  const texts = [
    await mlx.show(GIF, { source: "eye", prompt: "what is it" }).text,
    await mlx.ask("which one", { images: [GIF, new Blob([GIF], { type: "image/gif" })] }).text,
  ];

  assert.deepEqual(texts, ["what is it", "which one"]);
  assert.ok(kinds[0].includes("mime") && kinds[1].includes("images"));
  mlx.close();
});

test("a refused setting names the field, and the talk goes on", async () => {
  const mlx = await connect(url);

  await assert.rejects(mlx.configure({ temperature: 9 }), (error) => error instanceof ReplyError && error.code === "invalid_config");

  assert.equal((await mlx.configure({ temperature: 0.5 })).temperature, 0.5);
  assert.ok((await mlx.ping()) >= 0);
  assert.ok((await mlx.status()).model);
  mlx.close();
});

test("a reply may have to meet a schema, and a schema that is none is refused", async () => {
  const mlx = await connect(url);
  const sent = [];
  mlx.addEventListener("message", ({ detail }) => detail.direction === "out" && sent.push(detail.message));
  const schema = { type: "object", properties: { shape: { enum: ["circle", "square"] } } };

  await mlx.ask("one", { responseFormat: schema }).text;
  await mlx.show(GIF, { responseFormat: schema }).text;

  assert.deepEqual(sent.map((message) => message.response_format), [schema, schema]);
  assert.ok(sent.every((message) => !("responseFormat" in message)));
  const refused = mlx.ask("two", { responseFormat: { type: "unicorn" } }).text;
  await assert.rejects(refused, (error) => error.code === "invalid_schema" && error.param === "$.response_format.type");
  mlx.close();
});

test("a request or a connection chooses the model", async () => {
  const mlx = await connect(url, { model: "scripted" });
  const stranger = await connect(url, { model: "another" });

  assert.equal(await mlx.ask("one").text, "one");
  assert.equal(await stranger.ask("two", { model: "scripted" }).text, "two");
  await assert.rejects(stranger.ask("three").text, (error) => error instanceof ReplyError && error.code === "model_not_found");
  mlx.close();
  stranger.close();
});

test("models are listed, loaded with progress, and unloaded", async () => {
  const mlx = await connect(url);
  const told = [];

  await mlx.unloadModel("scripted");
  await mlx.loadModel("scripted", ({ done, total }) => told.push(`${done} of ${total}`));

  assert.deepEqual(told, ["1 of 2", "2 of 2"]);
  assert.deepEqual((await mlx.models()).map(({ id }) => id), ["scripted"]);
  await assert.rejects(mlx.loadModel("another"), (error) => error instanceof ReplyError && error.code === "model_not_found");
  await assert.rejects(mlx.loadModel("scripted", () => { throw new RangeError("of the caller"); }), RangeError);
  assert.equal(await mlx.ask("still here").text, "still here");
  mlx.close();
});

test("a picture that is none fails its own reply alone", async () => {
  const mlx = await connect(url);

  await assert.rejects(mlx.show(new Uint8Array([1, 2, 3])).result, TypeError);

  assert.equal(await mlx.ask("still here").text, "still here");
  mlx.close();
});

test("closing ends every open reply", async () => {
  const mlx = await connect(url);
  const reply = mlx.ask("too late");

  mlx.close();

  await assert.rejects(reply.result, ConnectionLost);
  assert.throws(() => mlx.ask("anybody?"), ConnectionLost);
});

test("nobody there is said at once", async () => {
  await assert.rejects(connect("ws://127.0.0.1:9"), ConnectionLost);
});

test("a broken network loses nothing: the session goes on at another socket", async () => {
  const cables = new Set();
  const network = createServer((near) => {
    const far = dial(Number(new URL(url).port), "127.0.0.1");
    for (const end of [near, far]) cables.add(end.on("error", () => {}).on("close", () => (near.destroy(), far.destroy())));
    near.pipe(far);
    far.pipe(near);
  });
  await new Promise((resolve) => network.listen(0, "127.0.0.1", resolve));
  const mlx = await connect(`ws://127.0.0.1:${network.address().port}`);
  const states = [];
  mlx.addEventListener("state", ({ detail }) => states.push([detail.state, detail.resumed]));
  await mlx.configure({ temperature: 0.25 });

  const sent = mlx.ask("said as it broke");
  await new Promise((resolve) => setImmediate(resolve));
  for (const cable of cables) cable.resetAndDestroy();
  const asked = mlx.ask("said while away");

  assert.deepEqual([await sent.text, await asked.text], ["said as it broke", "said while away"]);
  assert.deepEqual(states, [["away", undefined], ["open", true]]);
  assert.equal((await mlx.configure({})).temperature, 0.25);
  mlx.close();
  network.close();
});
