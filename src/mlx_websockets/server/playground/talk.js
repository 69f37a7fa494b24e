/** What was said: as entries on the page, as sentences for a screen reader, as files to keep. */

const MAX_ENTRIES = 300;
const MAX_KEPT = 5000;
const SPEAK_EVERY_MS = 4000;
const CAPTION_SECONDS = 4;

export class Talk {
  #list;
  #empty;
  #speaker;
  /** @type {{at: number, role: string, text: string, [more: string]: unknown}[]} */
  #kept = [];
  #lastSeen = null;

  /** @param {HTMLElement} list @param {Speaker} speaker */
  constructor(list, speaker) {
    this.#list = list;
    this.#empty = list.querySelector(".empty");
    this.#speaker = speaker;
  }

  /** What the user asked. @param {string} text @param {Blob[]} pictures */
  you(text, pictures) {
    this.#keep({ role: "user", text, pictures: pictures.length });
    const entry = this.#add("you", "You");
    entry.append(paragraph(text));
    if (!pictures.length) return;
    const shown = element("div", "shown");
    for (const picture of pictures) shown.append(thumbnail(picture));
    entry.append(shown);
  }

  /** The model's answer, which grows. */
  reply() {
    const entry = this.#add("reply busy", "Model");
    const text = paragraph("");
    entry.append(text);
    const spoken = this.#speaker.sentences();
    return {
      add: (delta) => {
        text.textContent += delta;
        spoken.add(delta);
        this.#follow();
      },
      end: (result) => {
        entry.classList.remove("busy");
        if (!result.text) text.textContent = "(nothing)";
        spoken.end();
        entry.append(...others(result), figures(result));
        this.#keep({ role: "model", ...result });
        this.#follow();
      },
      fail: (error) => {
        entry.classList.remove("busy");
        entry.classList.add("bad");
        const said = text.textContent;
        text.textContent = said ? `${said}\n${error.message}` : error.message;
        this.#speaker.say(error.message);
        this.#keep({ role: "error", text: error.message, said });
        this.#follow();
      },
    };
  }

  /** What the model said about a frame. Saying the same again adds no line. */
  seen({ name, file, capturedAt, position }, result) {
    this.#keep({ role: "frame", source: name, capturedAt, position, ...result });
    if (this.#lastSeen?.text === result.text && this.#lastSeen.entry === this.#list.lastElementChild) {
      this.#lastSeen.times += 1;
      this.#lastSeen.shown.textContent = `× ${this.#lastSeen.times}`;
      return;
    }
    const entry = this.#add("seen");
    const shown = element("span", "times");
    entry.append(show(file, Object.assign(element("img"), { alt: "" })), clock(), paragraph(result.text), shown);
    this.#lastSeen = { text: result.text, entry, shown, times: 1 };
    this.#speaker.say(result.text, { isReplaceable: true });
    this.#follow();
  }

  /** Something to know that nobody said. */
  note(text) {
    this.#add("note").append(paragraph(text));
    this.#keep({ role: "note", text });
    this.#follow();
  }

  clear() {
    this.#list.replaceChildren(this.#empty);
    this.#lastSeen = null;
  }

  /** @param {"md" | "json" | "srt"} kind */
  exported(kind) {
    if (kind === "json") return JSON.stringify(this.#kept, null, 2);
    return kind === "md" ? asMarkdown(this.#kept) : asSubtitles(this.#kept.filter(({ role }) => role === "frame"));
  }

  #keep(what) {
    this.#kept.push({ at: Date.now() / 1000, ...what });
    if (this.#kept.length > MAX_KEPT) this.#kept.shift();
  }

  #add(kind, who) {
    this.#empty.remove();
    const wasAtEnd = isAtEnd(this.#list);
    const entry = element("article", `entry ${kind}`);
    if (who) {
      const head = element("header");
      head.append(element("b", "", who), clock());
      entry.append(head);
    }
    this.#list.append(entry);
    while (this.#list.children.length > MAX_ENTRIES) this.#list.firstElementChild.remove();
    if (wasAtEnd) this.#list.scrollTop = this.#list.scrollHeight;
    return entry;
  }

  #follow() {
    if (isAtEnd(this.#list)) this.#list.scrollTop = this.#list.scrollHeight;
  }
}

/** Reads aloud, for who listens: whole sentences, not too many. */
export class Speaker {
  #region;
  /** @type {{text: string, isReplaceable: boolean}[]} */
  #waiting = [];
  #timer;

  /** @param {HTMLElement} region an `aria-live` one */
  constructor(region) {
    this.#region = region;
  }

  /** One that is replaceable makes way for a newer one of its kind. */
  say(text, { isReplaceable = false } = {}) {
    this.#waiting = this.#waiting.filter((each) => !(isReplaceable && each.isReplaceable)).slice(-20);
    this.#waiting.push({ text, isReplaceable });
    this.#timer ??= setTimeout(() => this.#speak(), 150);
  }

  /** Takes deltas and says the sentences in them. */
  sentences() {
    let begun = "";
    return {
      add: (delta) => {
        begun += delta;
        const end = begun.search(/[.!?…。！？]["')\]]?\s(?!.*[.!?…。！？]\s)/s);
        if (end < 0) return;
        this.say(begun.slice(0, end + 1).trim());
        begun = begun.slice(end + 1);
      },
      end: () => begun.trim() && this.say(begun.trim()),
    };
  }

  #speak() {
    const texts = this.#waiting.map(({ text }) => text);
    this.#waiting = [];
    if (texts.length) this.#region.textContent = texts.join(" ");
    this.#timer = texts.length ? setTimeout(() => this.#speak(), SPEAK_EVERY_MS) : undefined;
  }
}

const isAtEnd = (list) => list.scrollHeight - list.scrollTop - list.clientHeight < 80;

export function element(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

function paragraph(text) {
  const made = element("p");
  made.textContent = text;
  return made;
}

function clock() {
  const now = new Date();
  const made = element("time", "", now.toLocaleTimeString([], { hour12: false }));
  made.dateTime = now.toISOString();
  return made;
}

export function thumbnail(picture) {
  return show(picture, Object.assign(element("img"), { alt: "Picture that was sent" }));
}

/** Let an image show a file. @param {Blob} picture @param {HTMLImageElement} image */
export function show(picture, image) {
  const url = URL.createObjectURL(picture);
  const forget = () => URL.revokeObjectURL(url);
  image.addEventListener("load", forget, { once: true });
  image.addEventListener("error", forget, { once: true });
  image.src = url;
  return image;
}

/** The replies beside the first, where `candidateCount` asked for several. */
function others({ candidates = [] }) {
  return candidates.slice(1).map(({ text }, at) => {
    const other = paragraph(text || "(nothing)");
    other.className = "other";
    other.prepend(element("small", "", `${at + 2}. `));
    return other;
  });
}

function figures({ finishReason, usage, timings }) {
  const parts = [];
  if (timings?.ttft_ms) parts.push(`first token ${Math.round(timings.ttft_ms)} ms`);
  if (timings?.tokens_per_second) parts.push(`${timings.tokens_per_second.toFixed(1)} tokens/s`);
  if (usage?.output_tokens) parts.push(`${usage.output_tokens} tokens`);
  if (finishReason === "length") parts.push("ended at the limit of tokens");
  if (finishReason === "cancelled") parts.push("stopped");
  if (finishReason === "timeout") parts.push("took too long");
  return element("div", "figures", parts.join(" · "));
}

function asMarkdown(kept) {
  const names = { user: "You", model: "Model", error: "Error", note: "Note" };
  const parts = merged(kept).map(({ at, until, role, text, pictures, source }) => {
    const times = [at, until].filter(Boolean).map((each) => new Date(each * 1000).toLocaleTimeString([], { hour12: false }));
    const with_ = pictures ? ` (with ${pictures} ${pictures === 1 ? "picture" : "pictures"})` : "";
    return `**${names[role] ?? source}**${with_}, ${times.join(" to ")}\n\n${text}\n`;
  });
  return `# Talk of ${new Date().toLocaleString()}\n\n${parts.join("\n")}`;
}

/** What was said of several frames in a row stands once, with the time of the last one. */
function merged(kept) {
  const result = [];
  for (const each of kept) {
    const last = result.at(-1);
    const isSame = each.role === "frame" && last?.role === "frame" && last.text === each.text && last.source === each.source;
    if (isSame) Object.assign(last, { until: each.at, ...("to" in each ? { to: each.to } : {}) });
    else result.push({ ...each });
  }
  return result;
}

/** Times are those in the video, if all is of one; else they count from the first frame. */
function asSubtitles(frames) {
  const captions = merged(frames.every(({ position }) => position !== undefined) ? inTheVideo(frames) : sinceTheFirst(frames));
  return captions
    .map(({ from, to, text }, at) => {
      const end = Math.max(from + 0.1, Math.min(captions[at + 1]?.from ?? Infinity, to + CAPTION_SECONDS));
      return `${at + 1}\n${stamp(from)} --> ${stamp(end)}\n${text.replace(/\s*\n\s*/g, " ").replaceAll("-->", "→")}\n`;
    })
    .join("\n");
}

function sinceTheFirst(frames) {
  const begin = frames[0]?.capturedAt ?? 0;
  return frames.map((frame) => ({ ...frame, from: frame.capturedAt - begin, to: frame.capturedAt - begin }));
}

/** It is shown again and again; its first time counts. */
function inTheVideo(frames) {
  const again = frames.findIndex(({ position }, at) => at > 0 && position < frames[at - 1].position);
  const once = again < 0 ? frames : frames.slice(0, again);
  return once.map((frame) => ({ ...frame, from: frame.position, to: frame.position }));
}

function stamp(seconds) {
  return new Date(Math.round(seconds * 1000)).toISOString().slice(11, 23).replace(".", ",");
}
