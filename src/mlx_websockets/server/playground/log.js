/** The last messages of the connection, as they were, but without pictures and secrets. */

import { element } from "./talk.js";

const MAX_KEPT = 500;
const MAX_SHOWN_CHARACTERS = 300;

export class Log {
  #find;
  /** @type {{at: Date, direction: "in" | "out", text: string}[]} */
  #kept = [];
  #isDrawing = false;

  /** @param {(id: string) => any} find */
  constructor(find) {
    this.#find = find;
  }

  add({ direction, message, bytes }) {
    this.#kept.push({ at: new Date(), direction, text: shown(message, bytes) });
    if (this.#kept.length > MAX_KEPT) this.#kept.shift();
    if (this.#find("log").open && !this.#find("hold").checked) this.draw();
  }

  clear() {
    this.#kept = [];
    this.draw();
  }

  /** Show those that the filter lets through, once before the next picture of the screen. */
  draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      const list = this.#find("messages");
      list.replaceChildren(...this.#filtered().map(line));
      list.scrollTop = list.scrollHeight;
    });
  }

  #filtered() {
    const words = this.#find("filter").value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    return this.#kept.filter(({ text }) => !words.length || words.some((word) => text.toLowerCase().includes(word)));
  }
}

function shown(message, bytes) {
  const text = JSON.stringify(message, (name, value) => {
    if ((name === "image" || name === "frame") && value.length > 100) return `(${value.length} characters)`;
    return name === "resume_token" || (name === "token" && message.type === "resume") ? "(secret)" : value;
  });
  return message.images ? `${text.slice(0, MAX_SHOWN_CHARACTERS)}… (${bytes} bytes)` : text;
}

function line({ at, direction, text }) {
  const time = `${at.toLocaleTimeString([], { hour12: false })}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  const kind = text.includes('"type":"error"') ? "bad" : direction;
  const made = element("li");
  made.append(element("time", "", time), element("span", kind, direction === "out" ? ">" : "<"), element("span", kind, text));
  return made;
}
