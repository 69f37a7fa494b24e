/** The settings panel: every field of `config` as the server describes it, and the system text. */

import { element } from "./talk.js";

/** How long a reply may be is for each server to say. */
const LENGTHS = ["maxOutputTokens", "max_tokens_image"];

export class Settings {
  #find;
  /** @type {{name: string, meaning: string, kind: string, least?: number, most?: number, isNullable: boolean}[]} */
  #described = [];
  #defaults = {};
  /** What differs from the server's own, to be told again to a new session. */
  #chosen;

  /** @param {(id: string) => any} find @param {object} chosen */
  constructor(find, chosen) {
    this.#find = find;
    this.#chosen = chosen;
  }

  /** The system text as an option of a request. */
  get system() {
    const text = this.#find("system").value.trim();
    return text ? { system: text } : {};
  }

  /** Tell a new session what was chosen here. @param {import("./client.js").Client} mlx */
  async begin(mlx) {
    const described = await (await fetch("/settings.json")).json();
    this.#described = described.map((each) => (LENGTHS.includes(each.name) ? { ...each, most: mlx.hello.limits.max_output_tokens } : each));
    this.#defaults = await mlx.configure({});
    this.#show(await mlx.configure(this.#chosen));
  }

  /** Have the server take what stands in the panel. Rejects with its sentence if it does not. */
  async apply(mlx) {
    const wanted = {};
    for (const { name, kind, isNullable } of this.#described) {
      const { value } = this.#field(name);
      if (kind !== "words" && (value !== "" || isNullable)) wanted[name] = value === "" ? null : Number(value);
    }
    this.#show(await mlx.configure(wanted));
    this.#chosen = wanted;
  }

  /** Put the server's own values into the panel, to be applied or not. */
  restore() {
    for (const { name } of this.#described) this.#field(name).value = this.#defaults[name] ?? "";
    this.#find("system").value = "";
  }

  #field(name) {
    return this.#find("fields").querySelector(`[name="${name}"]`);
  }

  #show(current) {
    const fields = this.#described.map((each) => {
      const label = element("label");
      const title = element("span", "", asTitle(each.name));
      title.append(" ", element("i", "", rangeOf(each)));
      label.append(title, " ", element("small", "", each.meaning), input(each));
      label.lastElementChild.value = current[each.name] ?? "";
      return label;
    });
    this.#find("fields").replaceChildren(...fields);
  }
}

function input({ name, kind, least, most, isNullable }) {
  const made = element("input");
  Object.assign(made, { name, type: "text", readOnly: kind === "words" });
  if (kind !== "words") Object.assign(made, { type: "number", min: least, max: most, step: kind === "whole" ? 1 : 0.05 });
  if (isNullable) made.placeholder = "not set";
  return made;
}

/** "0–2", or nothing where the end is only what a number can hold. */
function rangeOf({ kind, least, most }) {
  if (kind === "words" || most > 1e6) return "";
  return `${least}–${most}`;
}

/** `maxOutputTokens` as "Max output tokens". */
function asTitle(name) {
  const words = name.replaceAll("_", " ").replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  return words[0].toUpperCase() + words.slice(1);
}
