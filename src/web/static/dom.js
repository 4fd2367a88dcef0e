// Elements, and values as people read them. Names come from strangers' files: they are set as text, never as HTML.

export const page = { id: document.body.dataset.id, readOnly: document.body.dataset.readOnly === "yes" };

/** Return an element. Properties: class, on: {event: handler}, data: {name: value}; false and null leave one out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const find = (id) => document.getElementById(id);

/** Replace what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
}

const shown = new WeakMap();

/** Replace what an element holds by build(), if these facts differ from last time: focus and selected text stay. */
export function refill(element, facts, build) {
  const stamp = JSON.stringify(facts);
  if (shown.get(element) === stamp) return;
  shown.set(element, stamp);
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  fill(element, build());
  if (focused) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** Return the data that the server has put into the page, so that it need not be asked for again. */
export function initial() {
  const element = find("initial");
  return element ? JSON.parse(element.textContent) : null;
}

export const percent = (share) => (share === null || share === undefined ? "" : `${(100 * share).toFixed(2)} %`);
export const count = (number) => (number === null || number === undefined ? "" : Math.round(number).toLocaleString("en-US"));
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** Return a moment in the time zone of the reader, as 2026-11-28 20:47. */
export function moment(text) {
  const time = new Date(text ?? "");
  if (Number.isNaN(time.getTime())) return "";
  const two = (number) => String(number).padStart(2, "0");
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}`;
}

export function minutes(value) {
  if (value === null || value === undefined) return "";
  return value >= 1 ? value.toFixed(1) : value.toFixed(2);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function bytes(size) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  for (; size >= 1000 && unit < 3; unit += 1) size /= 1000;
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

const SYMBOLS = { running: "●", finished: "✓", stopped: "■", failed: "✗", killed: "✗", pending: "○", waiting: "○", pruned: "✂" };

/** Return a status as a symbol and a word: never by color alone. */
export function badge(status) {
  const symbol = h("span", { class: "symbol", "aria-hidden": "true" }, SYMBOLS[status] ?? "?");
  return h("span", { class: `status ${SYMBOLS[status] ? status : "unknown"}` }, symbol, status);
}

/** Return a command with a button that copies it. */
export function copyable(text, label = "Copy") {
  const code = h("code", {}, text);
  const button = h("button", { type: "button", class: "small" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected: press Ctrl-C";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  return h("div", { class: "copy" }, code, button);
}

/** Return a plain table; right: the columns with numbers. */
export function table(columns, rows, right = [], caption = "") {
  const side = (name) => (right.includes(name) ? "right" : null);
  return h("table", { "aria-label": caption || null },
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col", class: side(name) }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, place) =>
      h("td", { class: side(columns[place]) ?? (String(cell).length > 60 ? "wrap" : null) }, cell))))));
}

/** Return a box in which a wide element scrolls, by keyboard too. */
export function scroll(label, ...children) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, children);
}

/** Show a message for a while; errors stay until they are closed. */
export function say(text, isError = false) {
  const box = h("div", { class: isError ? "error" : "" }, text, " ");
  const close = h("button", { type: "button", class: "small", on: { click: () => box.remove() } }, "Close");
  box.append(close);
  find("messages").append(box);
  if (!isError) setTimeout(() => box.remove(), 6000);
}

/** Show an error under a field and mark the field, or take it away. */
export function showProblem(element, text, field = null) {
  element.textContent = text ?? "";
  element.hidden = !text;
  if (field) field.toggleAttribute("aria-invalid", false);
  if (field && text) field.setAttribute("aria-invalid", "true");
}

let dialogs = 0;

function closeDialogs() {
  // From the top one down: so the focus ends where it was before the first one.
  for (const dialog of [...document.querySelectorAll("dialog[open]")].reverse()) dialog.close();
}

/** Open a dialog with a heading, over one that is open, to which it has a way back; Escape and Close end them all. */
export function openDialog(title, ...content) {
  const below = document.querySelector("dialog[open]");
  const id = `dialog-${(dialogs += 1)}`;
  const heading = h("h2", { id }, title);
  const body = h("div", {}, content);
  const dialog = h("dialog", { "aria-labelledby": id, tabindex: "-1" });
  const back = below ? h("button", { type: "button", on: { click: () => dialog.close() } }, "Back") : null;
  dialog.append(h("div", { class: "head" }, heading, h("div", { class: "row" }, back, h("button", { type: "button", on: { click: closeDialogs } }, "Close"))), body);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) closeDialogs(); });
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); closeDialogs(); });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, heading, body };
}
