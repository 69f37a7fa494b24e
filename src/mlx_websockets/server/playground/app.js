/** The page: one connection, one source of frames, one talk. */

import { connect } from "./client.js";
import { Log } from "./log.js";
import { Meters } from "./meters.js";
import { Settings } from "./settings.js";
import { Source, cameras, jpeg, smaller } from "./sources.js";
import { Speaker, Talk, element, show, thumbnail } from "./talk.js";

const FULL_BYTES = 256 * 1024;
const MAX_OPEN_FRAMES = 10;
const MAX_PICTURES = 8;
const NOTICE_MS = 6000;
const RATES = [0.5, 1, 2, 5, 10, 15];
const PRESETS = ["Describe what you see.", "What colour is it?", "How many objects are there?", "Which shape is it?", "Read the text."];
/** What a browser means by the names of its errors about cameras and screens. */
const TROUBLES = {
  NotAllowedError: "The browser did not allow it. The sign beside the address lets you change that.",
  NotFoundError: "This machine has no camera.",
  NotReadableError: "The camera is in use by another program.",
  OverconstrainedError: "That camera is gone.",
};
/** Reasons to look at no frame that are as they should be. */
const SPARED = ["superseded", "unchanged"];
const KEYS = [
  ["?", "This list", () => open("keys")],
  ["/", "Write a question", () => find("question").focus()],
  ["p", "Change the prompt", () => find("prompt").focus()],
  ["c", "Camera", () => find("source-camera").click()],
  ["s", "Screen", () => find("source-screen").click()],
  ["v", "Video file", () => find("source-video").click()],
  ["d", "Drawn scene", () => find("source-scene").click()],
  ["o", "Add a picture", () => find("pictures").click()],
  ["m", "Choose a model", () => find("model").focus()],
  ["n", "Newest only, on and off", () => find("newest").click()],
  ["x", "Stop the stream", () => stopStream()],
  [",", "Settings", () => open("settings")],
  ["l", "Messages", () => open("log")],
  ["e", "Export", () => open("export")],
];

/** @returns {any} */
const find = (id) => document.getElementById(id);
const speaker = new Speaker(find("speaker"));
const talk = new Talk(find("entries"), speaker);
const meters = new Meters(find);
const source = new Source(find("video"));

const log = new Log(find);
const parameters = new URLSearchParams(location.search);
const isDemo = parameters.has("demo");
const settings = new Settings(find, isDemo ? { temperature: 0 } : {}); // it says what it is surest of

/** @type {import("./client.js").Client | undefined} */
let mlx;
let attached = [];
const replies = new Set();
const frames = new Set();
let frameNumber = 0;
/** @type {Blob | undefined} */
let captioned;
let streamNumber = 0;

// --- the connection ---

async function talkTo() {
  const token = parameters.get("token") ?? undefined;
  const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
  for (let wait = 500; ; wait = Math.min(2 * wait, 10_000)) {
    showState("away", "Connecting");
    try {
      const client = await connect(address, { token });
      client.addEventListener("state", ({ detail }) => client === mlx && changed(detail));
      client.addEventListener("message", ({ detail }) => log.add(detail));
      log.add({ direction: "in", message: client.hello, bytes: 0 });
      mlx = client;
      return isOpen(true);
    } catch (error) {
      if (error.closeCode === 1008) return refused(error.message);
      await new Promise((resolve) => setTimeout(resolve, Math.random() * wait));
    }
  }
}

/** Nobody is let in as we come; a token may help. */
function refused(reason) {
  showState("closed", "Not connected");
  find("door-reason").textContent = reason;
  open("door");
}

function enter() {
  parameters.set("token", find("token").value.trim());
  history.replaceState(null, "", `?${parameters}`); // as the QR code has it; a reload needs it again
  find("token").value = "";
  find("door").close();
  void talkTo();
}

function changed({ state, resumed, reason }) {
  if (state === "open") {
    talk.note(resumed ? "Connected again; nothing was lost." : "Connected again. The server was restarted, so the talk begins anew.");
    speaker.say("Connected again.");
    isOpen(!resumed);
  } else if (state === "away") {
    showState("away", "Connecting again");
    speaker.say("The connection is lost. Connecting again.");
  } else {
    showState("closed", reason);
    stopStream();
    refresh();
  }
}

async function isOpen(isNew) {
  showState("open", "Connected");
  refresh();
  if (!isNew) return;
  try {
    await settings.begin(mlx);
    showModels(await mlx.models());
  } catch (error) {
    if (mlx.state === "open") tell(error.message);
  }
}

function showState(state, text) {
  find("state").dataset.state = state;
  find("state-text").textContent = text;
  find("again").hidden = state !== "closed";
}

function showModels(models) {
  const before = find("model").value;
  const options = models.map(({ id, vision, state }) => {
    const kind = vision === false ? " (text)" : "";
    const option = element("option", "", id + kind + (state === "ready" ? "" : ` – ${state}`));
    option.value = id;
    option.dataset.state = state;
    return option;
  });
  find("model").replaceChildren(...options);
  if (models.some(({ id }) => id === before)) find("model").value = before;
  find("model").disabled = models.length < 2;
}

const model = () => (find("model").selectedIndex > 0 ? { model: find("model").value } : {});

function refresh() {
  const isThere = mlx?.state === "open";
  find("send").disabled = !isThere;
  find("stop").disabled = !replies.size;
  find("source-stop").disabled = !source.isRunning;
  find("invitation").hidden = source.isRunning;
  find("look").disabled = !source.isRunning;
  for (const name of ["camera", "screen", "video", "scene"]) {
    find(`source-${name}`).setAttribute("aria-pressed", String(source.name === name));
  }
}

// --- asking ---

async function ask() {
  const text = find("question").value.trim();
  if (!text || mlx?.state !== "open") return find("question").focus();
  const pictures = attached;
  const now = find("look").checked && source.picture();
  if (now) pictures.push(await jpeg(now));
  attach([]);
  find("question").value = "";
  talk.you(text, pictures);
  await follow(() => mlx.ask(text, { images: pictures, history: find("history").checked || undefined, ...settings.system, ...model() }));
}

async function follow(begin) {
  const shown = talk.reply();
  let reply;
  try {
    reply = begin();
    replies.add(reply);
    refresh();
    for await (const delta of reply) shown.add(delta);
    const result = await reply.result;
    shown.end(result);
    meters.note(result);
    if (find("model").selectedOptions[0]?.dataset.state !== "ready") showModels(await mlx.models()); // it is now
  } catch (error) {
    shown.fail(error);
  } finally {
    replies.delete(reply);
    refresh();
  }
}

function stopReplies() {
  for (const reply of replies) reply.cancel();
}

async function startAnew() {
  const before = mlx;
  mlx = undefined;
  before?.close();
  talk.clear();
  await talkTo();
}

// --- pictures to send along ---

function attach(pictures) {
  attached = pictures;
  const items = pictures.map((picture, at) => {
    const item = element("li");
    const remove = element("button", "", "×");
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove picture ${at + 1}`);
    remove.addEventListener("click", () => {
      attach(attached.filter((each) => each !== picture));
      find("question").focus();
    });
    item.append(thumbnail(picture), remove);
    return item;
  });
  find("attached").replaceChildren(...items);
}

async function take(files) {
  const film = files.find((file) => file.type.startsWith("video/"));
  if (film) return begin(() => source.film(film));
  const images = files.filter((file) => file.type.startsWith("image/"));
  if (!images.length) return tell("That is neither a picture nor a video.");
  try {
    const pictures = await Promise.all(images.map(smaller));
    attach([...attached, ...pictures].slice(0, MAX_PICTURES));
    if (!find("question").value) find("question").value = "Describe what you see.";
    find("question").focus();
    speaker.say(pictures.length === 1 ? "Picture added." : `${pictures.length} pictures added.`);
  } catch (error) {
    tell(error.message);
  }
}

// --- the stream ---

async function begin(start) {
  try {
    await start();
  } catch (error) {
    if (error.name !== "AbortError") tell(TROUBLES[error.name] ?? error.message); // that is another source, chosen meanwhile
    return refresh();
  }
  find("video").classList.toggle("mirrored", source.name === "camera" && source.facing === "user");
  find("caption").hidden = true;
  find("cameras").hidden = source.name !== "camera";
  if (source.name === "camera") await listCameras();
  refresh();
  pump(++streamNumber);
}

function stopStream() {
  if (!source.isRunning) return;
  if (mlx?.state === "open") mlx.cancel({ source: source.name });
  source.stop();
  streamNumber += 1;
  find("cameras").hidden = true;
  find("caption").hidden = true;
  refresh();
}

async function pump(number) {
  for (let due = performance.now(); number === streamNumber; ) {
    if (mlx?.state === "open" && mlx.bufferedAmount < FULL_BYTES && mlx.unsent === 0 && frames.size < MAX_OPEN_FRAMES) {
      await sendFrame().catch((error) => tell(error.message));
    }
    due = Math.max(due + 1000 / RATES[find("rate").value], performance.now());
    await new Promise((resolve) => setTimeout(resolve, due - performance.now()));
  }
}

async function sendFrame() {
  const picture = source.picture();
  if (!picture) return;
  const { name } = source;
  const { position } = source;
  const capturedAt = Date.now() / 1000;
  const file = await jpeg(picture, 0.8);
  if (name !== source.name || mlx?.state !== "open") return;
  const reply = mlx.show(file, {
    source: name,
    prompt: find("prompt").value.trim() || PRESETS[0],
    frameId: ++frameNumber,
    capturedAt,
    policy: find("newest").checked ? "latest" : "queue",
    ...settings.system,
    ...model(),
  });
  const became = meters.sent();
  frames.add(reply);
  void read(reply, { name, file, capturedAt, position }, became);
}

async function read(reply, frame, became) {
  try {
    let said = "";
    for await (const delta of reply) {
      if (frame.name === source.name) showCaption((said += delta), frame.file);
    }
    const result = await reply.result;
    if (result.dropped) return became(SPARED.includes(result.dropped) ? result.dropped : "dropped");
    if (result.finishReason === "cancelled") return became("dropped");
    became("analysed");
    meters.note(result);
    talk.seen(frame, result);
  } catch (error) {
    became("dropped");
    if (error.name === "ReplyError" && !error.retryable) {
      tell(error.message);
      stopStream();
    }
  } finally {
    frames.delete(reply);
  }
}

/** What is said, beside the picture that it is said of: the stream has gone on meanwhile. */
function showCaption(text, picture) {
  find("caption-text").textContent = text;
  find("caption").hidden = false;
  if (captioned === picture) return;
  captioned = picture;
  show(picture, find("caption-picture"));
}

async function listCameras() {
  const options = (await cameras()).map(({ deviceId, label }, at) => {
    const option = element("option", "", label || `Camera ${at + 1}`);
    option.value = deviceId;
    return option;
  });
  const current = find("video").srcObject?.getVideoTracks()[0]?.getSettings().deviceId;
  find("camera").replaceChildren(...options);
  if (current) find("camera").value = current;
}

// --- panels ---

function open(id) {
  if (document.querySelector("dialog[open]")) return;
  if (id === "log") log.draw();
  find(id).showModal();
}

async function applySettings() {
  try {
    await settings.apply(mlx);
    find("settings-trouble").textContent = "";
    find("settings").close();
    speaker.say("Settings applied.");
  } catch (error) {
    find("settings-trouble").textContent = error.message;
  }
}

function save(kind) {
  const types = { md: "text/markdown", json: "application/json", srt: "application/x-subrip" };
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([talk.exported(kind)], { type: types[kind] }));
  link.download = `talk-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

let noticeTimer;

function tell(text) {
  find("notice").textContent = text;
  find("notice").hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (find("notice").hidden = true), NOTICE_MS);
}

// --- hands ---

function on(id, event, what) {
  find(id).addEventListener(event, what);
}

on("composer", "submit", (event) => {
  event.preventDefault();
  void ask();
});
on("stop", "click", stopReplies);
on("clear", "click", startAnew);
on("source-camera", "click", () => begin(() => source.camera()));
on("source-screen", "click", () => begin(() => source.screen()));
on("source-scene", "click", () => begin(() => source.scene()));
on("source-video", "click", () => find("film").click());
on("source-stop", "click", stopStream);
on("film", "change", ({ target }) => {
  const [file] = target.files;
  if (file) void begin(() => source.film(file));
  target.value = "";
});
on("camera", "change", ({ target }) => begin(() => source.camera({ deviceId: target.value })));
on("flip", "click", () => begin(() => source.camera({ facing: source.facing === "user" ? "environment" : "user" })));
on("attach", "click", () => find("pictures").click());
on("pictures", "change", ({ target }) => {
  void take([...target.files]);
  target.value = "";
});
on("rate", "input", ({ target }) => {
  find("rate-shown").textContent = String(RATES[target.value]);
  target.setAttribute("aria-valuetext", String(RATES[target.value]));
});
on("settings-form", "submit", (event) => {
  event.preventDefault();
  void applySettings();
});
on("restore", "click", () => settings.restore());
on("filter", "input", () => log.draw());
on("log-clear", "click", () => log.clear());
on("again", "click", () => talkTo());
on("door-form", "submit", (event) => {
  event.preventDefault();
  enter();
});
source.onended = stopStream;

for (const button of document.querySelectorAll("[data-opens]")) button.addEventListener("click", () => open(button.dataset.opens));
for (const button of document.querySelectorAll("[data-closes]")) button.addEventListener("click", () => button.closest("dialog").close());
for (const button of document.querySelectorAll("[data-export]")) button.addEventListener("click", () => save(button.dataset.export));

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  void take(files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  void take([...event.dataTransfer.files]);
});
document.addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && event.target === find("question") && !event.shiftKey) {
    event.preventDefault();
    void ask();
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void ask();
  else if (event.key === "Escape") replies.size ? stopReplies() : event.target.blur?.();
  else if (!event.ctrlKey && !event.metaKey && !event.altKey && !isTyped(event.target)) {
    const [, , act] = KEYS.find(([key]) => key === event.key) ?? [];
    if (!act) return;
    event.preventDefault();
    act();
  }
});

/** Whether a key means a letter there. A field keeps the focus for a moment after its dialog was closed. */
function isTyped(place) {
  const field = place.closest?.("input:not([type=checkbox], [type=range]), textarea, select");
  return field && !field.closest("dialog:not([open])");
}

for (const text of PRESETS) {
  const button = element("button", "", text);
  button.type = "button";
  button.addEventListener("click", () => (find("prompt").value = text));
  find("presets").append(button);
}
const spelled = [["Enter", "Send; with Shift a new line"], ["Ctrl Enter", "Send, from anywhere"], ["Esc", "Stop the reply"], ...KEYS];
for (const [key, meaning] of spelled) {
  const term = element("dt");
  key.split(" ").forEach((each) => term.append(element("kbd", "", each), " "));
  find("key-list").append(term, element("dd", "", meaning));
}

setInterval(() => meters.tick(), 500);
if (matchMedia("(pointer: fine)").matches) find("question").focus({ preventScroll: true });
void talkTo();
if (isDemo) void begin(() => source.scene());
