// @ts-check
/**
 * Talk to an mlx-websockets server, from a browser or from Node 22 and newer.
 *
 *     const mlx = await connect("ws://localhost:8765");
 *     for await (const delta of mlx.ask("Tell me a story.")) console.log(delta);
 *
 * If the network breaks the socket, another one is opened and the session goes on there. This is
 * the whole library: it needs nothing else, and the server's own page runs this very file.
 */

/** @import * as wire from "../../../../clients/js/index.js" */

const SUBPROTOCOL = "mlx-websockets.v2.json";
const MEDIA_MARK = [0x4d, 1];
const MAX_HEADER_BYTES = 0xffff;
const MAX_UNSENT = 64;
const MAX_UNANSWERED = 4096;
const JPEG_QUALITY = 0.85;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 30_000;
const OPEN_MS = 10_000;
const CALL_MS = 10_000;
/** For a model that is fetched first. */
const LOAD_MS = 3_600_000;
const UNLOAD_MS = 60_000;
const PING_MS = 20_000;
/** A server keeps a session for so long. */
const RETURN_MS = 600_000;
/** Close codes after which another try would end the same way. */
const FINAL_CODES = [1000, 1008, 1009];

/** The connection is over, and so is every reply that was open. */
export class ConnectionLost extends Error {
  /** @param {number} closeCode @param {string} reason */
  constructor(closeCode, reason) {
    super(reason || `The connection is closed (${closeCode || "no close code"}).`);
    this.name = "ConnectionLost";
    this.closeCode = closeCode;
  }
}

/** The server refused a request or could not finish it. */
export class ReplyError extends Error {
  /** @param {wire.ErrorMessage} message */
  constructor(message) {
    super(message.error);
    this.name = "ReplyError";
    this.code = message.code;
    this.param = message.param;
    this.retryable = message.retryable ?? false;
    this.retryAfterMs = message.retry_after_ms;
  }
}

/**
 * Open a connection.
 *
 * @param {string} [url] `ws://` or `wss://`; a `?token=` in it is sent as the token.
 * @param {wire.ConnectOptions} [options]
 * @returns {Promise<Client>} rejects with `ConnectionLost` if nobody is there or we are not let in.
 */
export async function connect(url = "ws://localhost:8765", options = {}) {
  const client = new Client(url, options);
  await client.open();
  return client;
}

/**
 * The answer to one request: iterate it for its text, or await its `result`. Of several candidates
 * the text is the first one's; `pieces` has them all.
 */
export class Reply {
  /** @type {wire.Piece[]} */ #unread = [];
  /** @type {wire.TokenLogprob[][]} */ #logprobs = [];
  /** @type {() => void} */ #wake = () => {};
  /** @type {(result: wire.Result) => void} */ #resolve = () => {};
  /** @type {(error: Error) => void} */ #reject = () => {};
  /** @type {Error | undefined} */ #error;
  /** @type {(id: string) => void} */ #cancel;

  /** @param {string} id @param {(id: string) => void} cancel */
  constructor(id, cancel) {
    this.id = id;
    this.isOver = false;
    /** @type {wire.ResponseStart | undefined} */
    this.started = undefined;
    this.#cancel = cancel;
    /** @type {Promise<wire.Result>} */
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.result.catch(() => {}); // who iterates hears of the error there
  }

  /** The whole text, once it is whole. */
  get text() {
    return this.result.then((result) => result.text);
  }

  /** Ask the server to end this reply with what it has. */
  cancel() {
    if (!this.isOver) this.#cancel(this.id);
  }

  async *[Symbol.asyncIterator]() {
    for await (const { text, candidate } of this.pieces()) if (text && candidate === 0) yield text;
  }

  /** Everything as it comes: each candidate's text, and how likely its tokens were. @returns {AsyncGenerator<wire.Piece>} */
  async *pieces() {
    for (;;) {
      const piece = this.#unread.shift();
      if (piece !== undefined) yield piece;
      else if (this.#error) throw this.#error;
      else if (this.isOver) return;
      else await new Promise((resolve) => (this.#wake = () => resolve(undefined)));
    }
  }

  // --- what the connection does ---

  /** @param {wire.Token} message */
  add({ content, candidate = 0, logprobs = [] }) {
    (this.#logprobs[candidate] ??= []).push(...logprobs);
    const isFull = this.#unread.length >= 4096;
    const last = isFull ? this.#unread.map((each) => each.candidate).lastIndexOf(candidate) : -1;
    if (last < 0) this.#unread.push({ text: content, candidate, logprobs });
    else {
      const { text, logprobs: before } = this.#unread[last];
      this.#unread[last] = { text: text + content, candidate, logprobs: [...before, ...logprobs] };
    }
    this.#wake();
  }

  /** Those of a candidate's tokens so far. @param {number} candidate */
  logprobs(candidate) {
    return this.#logprobs[candidate] ?? [];
  }

  /** @param {wire.Result} result */
  end(result) {
    this.isOver = true;
    this.#resolve(result);
    this.#wake();
  }

  /** @param {Error} error */
  fail(error) {
    this.isOver = true;
    this.#error = error;
    this.#reject(error);
    this.#wake();
  }
}

/**
 * An open connection; get one from `connect`. Dispatches two kinds of `CustomEvent`:
 * `state` (`detail`: `{state, resumed, reason}`, where state is "open", "away" or "closed") and
 * `message` (`detail`: `{direction, message, bytes}`) for everything that goes over the socket.
 */
export class Client extends EventTarget {
  #url;
  #protocols;
  #reconnect;
  #model;
  /** @type {WebSocket | undefined} */ #socket;
  /** @type {"away" | "resuming" | "open" | "closed"} */ #phase = "away";
  #numbers = 0;
  #heard = 0;
  #said = 0;
  #farewell = "";
  /** @type {Map<string, Reply>} */ #replies = new Map();
  /** @type {Map<string, Call>} */ #calls = new Map();
  /** @type {{id: string | undefined, encode: () => Encoded | Promise<Encoded>}[]} */ #outbox = [];
  /** @type {{number: number, id: string | undefined, encoded: Encoded}[]} */ #unanswered = [];
  #isWriting = false;
  /** @type {{resolve: () => void, reject: (error: Error) => void} | undefined} */ #opening;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #heart;

  /** @param {string} url @param {wire.ConnectOptions} options */
  constructor(url, { token, model, reconnect = true } = {}) {
    super();
    const address = new URL(url);
    const shown = token ?? address.searchParams.get("token");
    address.searchParams.delete("token");
    this.#url = address.href;
    this.#protocols = shown ? [SUBPROTOCOL, keyItem(shown)] : [SUBPROTOCOL];
    this.#reconnect = reconnect;
    this.#model = model;
    /** @type {wire.Hello | undefined} */
    this.hello = undefined;
    /** Milliseconds to the server and back, when it was last asked. @type {number | undefined} */
    this.latencyMs = undefined;
  }

  get state() {
    return this.#phase === "resuming" ? "away" : this.#phase;
  }

  /** Bytes that wait in this machine for the network. */
  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** How many requests wait to be sent. */
  get unsent() {
    return this.#outbox.length;
  }

  // --- what one can do ---

  /**
   * Ask a question, with or without pictures.
   * @param {string} text
   * @param {wire.AskOptions} [options]
   */
  ask(text, { images = [], ...options } = {}) {
    if (!images.length) return this.#request({ type: "text_input", content: text, ...options });
    const { context, ...rest } = options;
    const prompt = context ? `${context}\n\n${text}` : text;
    return this.#request({ type: "image_input", prompt, ...rest }, images);
  }

  /**
   * Show one picture of a running stream; its result may say that it was `dropped`.
   * @param {wire.Picture} picture
   * @param {wire.ShowOptions} [options]
   */
  show(picture, options = {}) {
    const { frameId, capturedAt, ...rest } = options;
    return this.#request({ type: "video_frame", source: "camera", frame_id: frameId, ts: capturedAt, ...rest }, [picture]);
  }

  /**
   * Change the settings of this connection; resolves to all of them.
   * @param {wire.Settings} settings
   * @returns {Promise<wire.Settings>}
   */
  async configure(settings) {
    return (await this.#call({ type: "config", ...settings })).current_config;
  }

  /** How the server is. @returns {Promise<Record<string, any>>} */
  async status() {
    return (await this.#call({ type: "get_status" })).stats;
  }

  /** The models that can be asked, the default one first. @returns {Promise<wire.ModelState[]>} */
  async models() {
    return (await this.#call({ type: "list_models" })).models;
  }

  /**
   * Have one of the server's models in memory before somebody asks it something.
   * @param {string} model
   * @param {(progress: wire.ModelProgress) => void} [onProgress] called as it goes on.
   * @returns {Promise<void>}
   */
  async loadModel(model, onProgress) {
    await this.#call({ type: "load_model", model }, { ms: LOAD_MS, onProgress });
  }

  /** Take one of the server's models out of memory. @param {string} model @returns {Promise<void>} */
  async unloadModel(model) {
    await this.#call({ type: "unload_model", model }, { ms: UNLOAD_MS });
  }

  /** Milliseconds to the server and back. */
  async ping() {
    const begun = performance.now();
    await this.#call({ type: "ping" });
    this.latencyMs = performance.now() - begun;
    return this.latencyMs;
  }

  /** End a source's frames, or everything of this connection. @param {{id?: string, source?: string}} [what] */
  cancel(what = {}) {
    this.#put(what.id, () => JSON.stringify({ type: "cancel", ...what }));
  }

  /** Close the connection. Open replies fail with `ConnectionLost`. */
  close() {
    const socket = this.#socket;
    this.#end(new ConnectionLost(1000, "The connection was closed."));
    socket?.close(1000);
  }

  // --- requests ---

  /**
   * @param {Record<string, unknown>} message
   * @param {wire.Picture[]} [pictures]
   */
  #request(message, pictures = []) {
    const id = `q${++this.#numbers}`;
    const reply = new Reply(id, (each) => this.cancel({ id: each }));
    const { responseFormat, deadlineMs, ...rest } = message;
    const renamed = { response_format: responseFormat, deadline_ms: deadlineMs };
    const header = { ...(this.#model ? { model: this.#model } : {}), ...rest, ...renamed, id };
    this.#put(id, () => (pictures.length ? withPictures(header, pictures) : JSON.stringify(header)));
    this.#replies.set(id, reply);
    return reply;
  }

  /**
   * Send what is answered by one message, and wait for that.
   * @param {Record<string, unknown>} message
   * @param {{ms?: number, onProgress?: (progress: wire.ModelProgress) => void}} [options]
   */
  #call(message, { ms = CALL_MS, onProgress } = {}) {
    const id = `c${++this.#numbers}`;
    return /** @type {Promise<any>} */ (
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => settle(() => reject(new Error("The server did not answer in time."))), ms);
        const settle = (/** @type {() => void} */ how) => {
          clearTimeout(timer);
          this.#calls.delete(id);
          how();
        };
        this.#calls.set(id, {
          note: (progress) => {
            try {
              onProgress?.(progress);
            } catch (error) {
              settle(() => reject(error)); // it ends the wait, and not the connection
            }
          },
          resolve: (answer) => settle(() => resolve(answer)),
          reject: (error) => settle(() => reject(error)),
        });
        try {
          this.#put(id, () => JSON.stringify({ ...message, id }));
        } catch (error) {
          settle(() => reject(error));
        }
      })
    );
  }

  /** @param {string | undefined} id @param {() => Encoded | Promise<Encoded>} encode */
  #put(id, encode) {
    if (this.#phase === "closed") throw new ConnectionLost(0, this.#farewell);
    if (this.#outbox.length >= MAX_UNSENT) throw new Error(`${MAX_UNSENT} messages wait to be sent.`);
    this.#outbox.push({ id, encode });
    this.#write();
  }

  async #write() {
    if (this.#isWriting) return;
    this.#isWriting = true;
    while (this.#phase === "open" && this.#outbox.length) {
      const { id, encode } = this.#outbox[0];
      let encoded;
      try {
        encoded = await encode();
      } catch (error) {
        this.#outbox.shift();
        this.#settle(id, (waiting) => waiting.fail(/** @type {Error} */ (error)));
        continue;
      }
      if (this.#phase !== "open" || this.#outbox[0]?.encode !== encode) continue;
      this.#outbox.shift();
      this.#unanswered.push({ number: ++this.#said, id, encoded });
      if (this.#unanswered.length > MAX_UNANSWERED) this.#unanswered.shift();
      this.#transmit(encoded);
    }
    this.#isWriting = false;
  }

  /** @param {Encoded} encoded */
  #transmit(encoded) {
    this.#tell("out", encoded);
    this.#socket?.send(encoded);
  }

  // --- the socket ---

  /** Open a socket and wait until requests may be sent. `connect` does this. @returns {Promise<void>} */
  open() {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(this.#url, this.#protocols);
      const timer = setTimeout(() => {
        lost(1006, "The server did not answer in time.");
        socket.close();
      }, OPEN_MS);
      const lost = (/** @type {number} */ code, /** @type {string} */ reason) => {
        clearTimeout(timer);
        if (this.#socket === socket) this.#lose(code, reason);
      };
      socket.binaryType = "arraybuffer";
      socket.onmessage = ({ data }) => this.#socket === socket && this.#receive(JSON.parse(data), data.length);
      socket.onclose = ({ code, reason }) => lost(code, reason);
      socket.onerror = () => {}; // a close follows
      this.#socket = socket;
      this.#opening = {
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
        reject,
      };
    });
  }

  /** @param {any} message @param {number} length */
  #receive(message, length) {
    this.#tell("in", message, length);
    if (message.type === "hello") return this.#greet(message);
    if (message.type === "resumed") return this.#resumed(message);
    if (message.type === "error" && message.code === "resume_failed" && this.#phase === "resuming") {
      return this.#startAnew();
    }
    this.#heard += 1;
    this.#forgetAnswered(message.id);
    if (message.type === "goaway") this.#farewell = message.reason;
    else this.#deliver(message);
  }

  /** @param {wire.Hello} hello */
  #greet(hello) {
    const before = this.hello;
    this.#next = hello;
    if (before?.resume_token) {
      this.#phase = "resuming";
      this.#transmit(JSON.stringify({ type: "resume", token: before.resume_token, last_seq: this.#heard }));
    } else {
      this.#startAnew();
    }
  }

  /** @type {wire.Hello | undefined} */ #next;

  /** @param {wire.Resumed} message */
  #resumed(message) {
    this.#unanswered = this.#unanswered.filter((sent) => sent.number > message.received);
    this.#isOpen(true);
    for (const { encoded } of this.#unanswered) this.#transmit(encoded);
    this.#write();
  }

  /** The session is a new one: what was open in the last one has no answer. */
  #startAnew() {
    const wasLost = this.hello !== undefined;
    this.hello = this.#next;
    this.#heard = this.#said = 0;
    const gone = new ConnectionLost(0, this.#farewell || "The server was restarted; ask again.");
    if (wasLost) {
      const waiting = new Set(this.#outbox.map((draft) => draft.id));
      for (const id of [...this.#replies.keys(), ...this.#calls.keys()]) {
        if (!waiting.has(id)) this.#settle(id, (each) => each.fail(gone));
      }
    }
    this.#unanswered = [];
    this.#farewell = "";
    this.#isOpen(false);
    this.#write();
  }

  /** @param {boolean} resumed */
  #isOpen(resumed) {
    this.#phase = "open";
    clearInterval(this.#heart);
    this.#heart = setInterval(() => {
      const socket = this.#socket;
      this.ping().catch(() => {
        if (this.#socket !== socket || this.#phase !== "open") return;
        this.#lose(1006, "The server does not answer."); // browsers notice a dead network after minutes
        socket?.close();
      });
    }, PING_MS);
    /** @type {any} */ (this.#heart).unref?.();
    this.#opening?.resolve();
    this.#opening = undefined;
    this.#say({ state: "open", resumed });
  }

  /** @param {number} code @param {string} reason */
  #lose(code, reason) {
    const wasOpen = this.#opening === undefined;
    const error = new ConnectionLost(code, reason || this.#farewell);
    clearInterval(this.#heart);
    this.#socket = undefined;
    this.#opening?.reject(error);
    this.#opening = undefined;
    if (this.#phase === "closed") return;
    this.#phase = "away";
    if (!wasOpen && !this.hello) this.#end(error);
    else if (wasOpen && (!this.#reconnect || FINAL_CODES.includes(code))) this.#end(error);
    else if (wasOpen) this.#comeBack(error);
  }

  /** @param {ConnectionLost} why */
  async #comeBack(why) {
    this.#say({ state: "away", reason: why.message });
    const deadline = Date.now() + RETURN_MS;
    for (let longest = FIRST_WAIT_MS; Date.now() < deadline; longest = Math.min(2 * longest, LONGEST_WAIT_MS)) {
      // Anything up to a limit that doubles: a crowd does not return at once.
      await new Promise((resolve) => setTimeout(resolve, Math.random() * longest));
      if (this.#phase === "closed") return;
      try {
        return await this.open();
      } catch (error) {
        why = /** @type {ConnectionLost} */ (error);
        if (why.closeCode === 1008) break;
      }
    }
    this.#end(why);
  }

  /** @param {ConnectionLost} error */
  #end(error) {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    this.#farewell = error.message;
    this.#socket = undefined;
    this.#outbox = [];
    this.#unanswered = [];
    clearInterval(this.#heart);
    this.#opening?.reject(error);
    this.#opening = undefined;
    for (const id of [...this.#replies.keys(), ...this.#calls.keys()]) this.#settle(id, (each) => each.fail(error));
    this.#say({ state: "closed", reason: error.message });
  }

  // --- what is said about requests ---

  /** @param {any} message */
  #deliver(message) {
    const reply = this.#replies.get(message.id);
    switch (message.type) {
      case "response_start":
        if (reply) reply.started = message;
        break;
      case "token":
        reply?.add(message);
        break;
      case "response_complete":
        this.#settle(message.id, (each) => each.end(completed(message, reply)));
        break;
      case "frame_dropped":
        this.#settle(message.id, (each) => each.end({ text: "", dropped: message.reason }));
        break;
      case "error":
        // A cancel that came too late says `not_active` about a reply that has its end.
        if (message.code !== "not_active") this.#settle(message.id, (each) => each.fail(new ReplyError(message)));
        break;
      case "model_progress":
        this.#calls.get(message.id)?.note(message);
        break;
      default:
        this.#calls.get(message.id)?.resolve(message);
    }
  }

  /**
   * @param {string | undefined} id
   * @param {(waiting: {end: (result: wire.Result) => void, fail: (error: Error) => void}) => void} how
   */
  #settle(id, how) {
    if (id === undefined) return;
    const reply = this.#replies.get(id);
    const call = this.#calls.get(id);
    this.#replies.delete(id);
    if (reply) how(reply);
    else if (call) how({ end: call.resolve, fail: call.reject });
  }

  /** The server spoke about `id`: it has that message, and all before. @param {string | undefined} id */
  #forgetAnswered(id) {
    const at = id === undefined ? -1 : this.#unanswered.findIndex((sent) => sent.id === id);
    this.#unanswered.splice(0, at + 1);
  }

  /** @param {object} detail */
  #say(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }

  /** @param {"in" | "out"} direction @param {any} message @param {number} [bytes] */
  #tell(direction, message, bytes) {
    const shown = typeof message === "string" ? JSON.parse(message) : message instanceof Uint8Array ? header(message) : message;
    this.dispatchEvent(
      new CustomEvent("message", { detail: { direction, message: shown, bytes: bytes ?? message.length } }),
    );
  }
}

/** @typedef {string | Uint8Array<ArrayBuffer>} Encoded */
/**
 * @typedef {object} Call what is answered by one message
 * @property {(progress: wire.ModelProgress) => void} note
 * @property {(message: any) => void} resolve
 * @property {(error: Error) => void} reject
 */

/** @param {wire.ResponseComplete} message @param {Reply | undefined} reply @returns {wire.Result} */
function completed(message, reply) {
  const logprobs = (/** @type {number} */ candidate) => reply?.logprobs(candidate) ?? [];
  return {
    text: message.full_text,
    finishReason: message.finish_reason,
    usage: message.usage,
    timings: message.timings,
    seconds: message.inference_time,
    candidates: (message.candidates ?? []).map(({ index, text, finish_reason }) => {
      return { text, finishReason: finish_reason, logprobs: logprobs(index) };
    }),
    logprobs: logprobs(0),
  };
}

/** The subprotocol item that carries a token: a browser can set no header. @param {string} token */
function keyItem(token) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  return `mlx-key.${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

// --- pictures ---

/**
 * Binary for one picture, JSON for several.
 * @param {Record<string, unknown>} message
 * @param {wire.Picture[]} pictures
 * @returns {Promise<Encoded>}
 */
async function withPictures(message, pictures) {
  const files = await Promise.all(pictures.map(fileOf));
  if (files.length > 1) {
    const images = await Promise.all(files.map(async (file) => base64(new Uint8Array(await file.arrayBuffer()))));
    return JSON.stringify({ ...message, images });
  }
  const data = new Uint8Array(await files[0].arrayBuffer());
  const text = new TextEncoder().encode(JSON.stringify({ ...message, mime: files[0].type || mimeOf(data) }));
  if (text.length > MAX_HEADER_BYTES) return JSON.stringify({ ...message, image: base64(data) });
  const media = new Uint8Array(4 + text.length + data.length);
  media.set([...MEDIA_MARK, text.length >> 8, text.length & 0xff]);
  media.set(text, 4);
  media.set(data, 4 + text.length);
  return media;
}

/** @param {wire.Picture} picture @returns {Promise<Blob>} */
async function fileOf(picture) {
  if (picture instanceof Blob) return picture;
  if (picture instanceof Uint8Array || picture instanceof ArrayBuffer) {
    return new Blob([/** @type {BlobPart} */ (picture)]);
  }
  if ("toBlob" in picture) return asJpeg(picture);
  if ("convertToBlob" in picture) return picture.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
}

/** @param {HTMLCanvasElement} canvas @returns {Promise<Blob>} */
function asJpeg(canvas) {
  return new Promise((resolve, reject) => {
    const taken = (/** @type {Blob | null} */ blob) => (blob ? resolve(blob) : reject(new Error("The canvas is empty.")));
    canvas.toBlob(taken, "image/jpeg", JPEG_QUALITY);
  });
}

/** The type that a file's first bytes show. @param {Uint8Array} data */
function mimeOf(data) {
  const start = String.fromCharCode(...data.subarray(0, 12));
  if (start.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (start.startsWith("\x89PNG")) return "image/png";
  if (start.startsWith("GIF8")) return "image/gif";
  if (start.startsWith("RIFF") && start.endsWith("WEBP")) return "image/webp";
  throw new TypeError("These bytes are no JPEG, PNG, WebP or GIF file.");
}

/** @param {Uint8Array} data */
function base64(data) {
  let text = "";
  for (let at = 0; at < data.length; at += 0x8000) text += String.fromCharCode(...data.subarray(at, at + 0x8000));
  return btoa(text);
}

/** What a binary message says about its picture. @param {Uint8Array} media */
function header(media) {
  const end = 4 + (media[2] << 8) + media[3];
  return { ...JSON.parse(new TextDecoder().decode(media.subarray(4, end))), image: `(${media.length - end} bytes)` };
}
