/** A program in TypeScript that uses the client. It has to pass the strictest check, and is never run. */

import { ConnectionLost, ReplyError, connect } from "mlx-websockets";
import type { Client, ModelState, Result, ServerMessage, Settings } from "mlx-websockets";

const mlx: Client = await connect("ws://localhost:8765", { token: "secret", model: "demo", reconnect: false });
const settings: Settings = { temperature: 0, seed: null };

for await (const delta of mlx.ask("Hi", { config: settings, system: "Be brief.", responseFormat: {} })) delta.toUpperCase();
for await (const { text, candidate, logprobs } of mlx.ask("Hi").pieces()) [text.length, candidate + 1, logprobs[0]?.top];

const seen: Result = await mlx.show(new Uint8Array(), { source: "webcam", policy: "latest", capturedAt: 1 }).result;
const age: number | undefined = seen.timings?.frame_age_ms;
const [first]: ModelState[] = await mlx.models();
await mlx.loadModel(first!.id, ({ stage, done, total }) => `${stage}: ${done} of ${total}`);

mlx.addEventListener("state", ({ detail }) => detail.state === "open" && detail.resumed);
mlx.addEventListener("message", ({ detail: { direction, bytes } }) => `${direction} ${bytes}`);

function told(message: ServerMessage): string {
  switch (message.type) {
    case "token":
      return message.content;
    case "error":
      return message.code;
    default:
      return message.type;
  }
}

try {
  await mlx.ask("Hi", { images: [new Blob()] }).text;
} catch (error) {
  if (error instanceof ReplyError && error.retryable) setTimeout(() => mlx.close(), error.retryAfterMs);
  if (error instanceof ConnectionLost) console.log(error.closeCode, age, told);
}

// @ts-expect-error there is no such setting
mlx.ask("Hi", { config: { temperatur: 0 } });
// @ts-expect-error a picture is no number
mlx.show(1);
