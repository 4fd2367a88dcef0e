// Fields for the keys of the configuration. A field that was not touched says nothing: the files in configs/ decide.

import { h, showProblem } from "./dom.js";

/** A key with its input; `word` is what is typed for it, or null. */
export class Field {
  constructor(description, onChange, label = description.key) {
    this.key = description.key;
    this.description = description;
    const id = `field-${this.key.replaceAll(".", "-")}`;
    this.input = build(description, id);
    this.input.addEventListener("input", () => { this.mark(); onChange(this); });
    this.problem = h("p", { class: "error", id: `${id}-error`, hidden: true });
    const help = [description.help, description.null && !description.help.includes("null:") ? `empty: ${description.null}` : ""].filter(Boolean).join("; ");
    this.element = h("div", { class: "field" }, h("label", { for: id }, label), this.input,
      this.problem, h("span", { class: "hint", id: `${id}-help` }, help));
    this.input.setAttribute("aria-describedby", `${id}-help ${id}-error`);
  }

  get value() {
    return this.input.value.trim();
  }

  set value(text) {
    this.input.value = text;
    this.mark();
  }

  get word() {
    return this.value === "" ? null : `${this.key}=${this.value}`;
  }

  mark() {
    this.element.classList.toggle("changed", this.value !== "");
    this.setProblem(null);
  }

  setProblem(text) {
    showProblem(this.problem, text, this.input);
  }

  matches(text) {
    return `${this.key} ${this.description.help}`.toLowerCase().includes(text.toLowerCase());
  }
}

function build(description, id) {
  const standard = description.default === null || description.default === undefined ? "default" : `default: ${JSON.stringify(description.default).replaceAll('"', "")}`;
  const choices = description.choices ?? (description.type === "bool" ? ["true", "false"] : null);
  if (choices) return h("select", { id }, h("option", { value: "" }, standard), choices.map((choice) => h("option", { value: choice }, choice)));
  const numeric = ["int", "float"].includes(description.type);
  const range = description.low !== null && description.high !== null ? `${description.low} to ${description.high}` : description.low !== null ? `from ${description.low}` : "";
  return h("input", { id, type: "text", inputmode: numeric ? "decimal" : null, placeholder: standard, title: range || null, spellcheck: "false", autocomplete: "off" });
}

/** Return a select with the options of a group; "" is the default. */
export function groupField(group, options, first, onChange, label = group) {
  const description = { key: group, help: "", null: "", type: "choice", choices: options.map((option) => option.name), default: null, low: null, high: null };
  const field = new Field(description, onChange, label);
  field.input.options[0].textContent = first;
  const help = field.element.querySelector(".hint");
  const explain = () => { help.textContent = options.find((option) => option.name === field.value)?.help ?? ""; };
  field.input.addEventListener("input", explain);
  field.explain = explain;
  return field;
}

/** Return the words of a line as a shell splits it; quotes keep spaces together. */
export function splitWords(line) {
  const found = line.match(/(?:[^\s'"]|'[^']*'?|"[^"]*"?)+/g) ?? [];
  return found.map((word) => word.replaceAll(/'([^']*)'?|"([^"]*)"?/g, (_, single, double) => single ?? double));
}

/** Return a word as a shell takes it. */
export const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
export const toCommand = (words) => ["python", "train.py", ...words.map(quote)].join(" ");
