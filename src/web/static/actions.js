// Stop and resume, and what is starting: used by several pages.

import { get, post, repeat } from "./api.js";
import { copyable, h, page, refill, say } from "./dom.js";

/** Return the buttons that a run or sweep allows now; kind: "runs" or "sweeps". */
export function actions(kind, item, after = () => {}) {
  if (page.readOnly) return [];
  const act = (name, label) => {
    const button = h("button", { type: "button", class: "small", "aria-label": `${label} ${item.name}`, data: { focus: `${name}-${item.id}` } }, label);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const answer = await post(`/api/${kind}/${item.id}/${name}`, name === "resume" && kind === "runs" ? { words: [] } : {});
        say(answer.message ?? `Starting: ${answer.command}`);
        if (answer.id) follow(answer.id, after);
        after();
      } catch (error) {
        say(error.message, true);
        button.disabled = false;
      }
    });
    return button;
  };
  return [item.stoppable ? act("stop", "Stop") : null, item.resumable ? act("resume", "Resume") : null].filter(Boolean);
}

/** Wait until what was started trains, and tell why it could not. */
function follow(id, after) {
  repeat(async () => {
    const start = await get(`/api/starts/${id}`).catch(() => null);
    if (start?.state === "starting") return 1;
    if (start?.error) say(start.error, true);
    after();
    return null;
  });
}

const closed = new Set(); // starts whose errors were read

function closing(element, starts, id) {
  const close = () => { closed.add(id); showStarts(element, starts); };
  return h("button", { type: "button", class: "small", on: { click: close } }, "Close");
}

/** Show what is starting, or could not start, with what it prints. */
export function showStarts(element, starts) {
  // What failed as a job of a sweep is told in the row of the sweep.
  const listed = starts.filter((start) => !closed.has(start.id) && (start.state === "starting" || (start.error && !start.sweep)));
  element.hidden = !listed.length;
  refill(element, listed, () => listed.map((start) => h("div", { class: "card" },
    h("h2", {}, start.error ? "Could not start" : "Starting"), copyable(start.command),
    start.error ? [h("p", { class: "error" }, start.error), closing(element, starts, start.id)] : h("pre", { class: "log short", tabindex: "0", "aria-label": "What it prints" }, start.output || "…"))));
}
