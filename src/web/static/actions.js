// Stop and resume, and what is starting: used by several pages.

import { post } from "./api.js";
import { copyable, fill, h, page, say } from "./dom.js";

/** Return the buttons that a run or sweep allows now; kind: "runs" or "sweeps". */
export function actions(kind, item, after = () => {}) {
  if (page.readOnly) return [];
  const act = (name, label) => {
    const button = h("button", { type: "button", class: "small", "aria-label": `${label} ${item.name}` }, label);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const answer = await post(`/api/${kind}/${item.id}/${name}`, name === "resume" && kind === "runs" ? { words: [] } : {});
        say(answer.message ?? `started: ${answer.command}`);
        after(answer);
      } catch (error) {
        say(error.message, true);
        button.disabled = false;
      }
    });
    return button;
  };
  return [item.stoppable ? act("stop", "Stop") : null, item.resumable ? act("resume", "Resume") : null].filter(Boolean);
}

/** Show what is starting, or could not start, with what it prints. */
export function showStarts(element, starts) {
  const shown = starts.filter((start) => start.state === "starting" || start.error);
  element.hidden = !shown.length;
  const before = new Map([...element.querySelectorAll("[data-start]")].map((part) => [part.dataset.start, part]));
  fill(element, shown.map((start) => {
    const old = before.get(start.id);
    if (old && old.dataset.state === `${start.state}${start.output.length}`) return old;
    const lines = h("pre", { class: "log short", tabindex: "0", "aria-label": "What it prints" }, start.output || "…");
    return h("div", { class: "card", data: { start: start.id, state: `${start.state}${start.output.length}` } },
      h("h3", {}, start.error ? "Could not start" : "Starting"), copyable(start.command),
      start.error ? h("p", { class: "error" }, start.error) : lines);
  }));
}
