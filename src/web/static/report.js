// The data report: what the process prints while it looks, then counts, warnings and pictures.

import { get, post } from "./api.js";
import { count, fill, h, openDialog, scroll, table } from "./dom.js";

/** Look at the data of these words and show what is found; onProblem gets errors with their key. */
export async function lookAtData(element, words, onProblem) {
  const output = h("pre", { class: "log short" }, "looking …");
  fill(element, output);
  try {
    const { id } = await post("/api/reports", { words });
    for (;;) {
      const found = await get(`/api/reports/${id}`);
      if (found.output) output.textContent = found.output;
      if (found.state === "done") { fill(element, draw(found)); return; }
      if (found.state === "failed") { fill(element); onProblem(found.error, found.key); return; }
      await new Promise((done) => setTimeout(done, 500));
    }
  } catch (error) {
    fill(element);
    onProblem(error.message, error.key);
  }
}

function draw({ report, pictures }) {
  const total = (name) => report.counts.reduce((sum, row) => sum + row[name], 0);
  const rows = [...report.counts, { class: "all", train: total("train"), val: total("val"), test: total("test") }];
  const picture = ({ title, url }) => h("button", { type: "button", on: { click: () => openDialog(title, h("img", { class: "whole", src: url, alt: title })) } }, h("img", { src: url, alt: "" }), title);
  const leftOut = Object.entries(report.left_out ?? {}).map(([name, why]) => h("p", { class: "hint" }, `${name} was left out: ${why}`));
  return h("div", {},
    report.warnings.map((warning) => h("p", { class: "warning" }, `Note: ${warning}`)),
    h("p", {}, report.summary),
    h("div", { class: "figures" }, pictures.map(picture)), leftOut,
    h("details", { open: rows.length < 14 }, h("summary", {}, `Images of ${report.counts.length} classes`), scroll("Images of each class",
      table(["class", "train", "val", "test"], rows.map((row) => [row.class, count(row.train), count(row.val), count(row.test)]), ["train", "val", "test"]))),
    report.sections.map((part) => (part.lines.length ? h("details", { open: part.heading.startsWith("unreadable") }, h("summary", {}, part.heading), h("pre", { class: "log short", tabindex: "0" }, part.lines.join("\n"))) : h("p", { class: "hint" }, part.heading))));
}
