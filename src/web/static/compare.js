// Runs side by side, as `python inference.py task=compare` tells it.

import { get } from "./api.js";
import { alignCurves, Chart } from "./charts.js";
import { fill, find, h, scroll, table } from "./dom.js";

const runs = new URLSearchParams(location.search).getAll("run");

async function load() {
  if (runs.length < 2) {
    fill(find("body"), h("div", { class: "empty" }, h("p", {}, "Select two or more runs in the table, then Compare selected."), h("p", {}, h("a", { href: "/" }, "All runs"))));
    return;
  }
  try {
    const answer = await get("/api/compare", { run: runs });
    document.querySelector("h1").textContent = answer.title;
    const chart = new Chart("Validation accuracy of each epoch", (value) => `${(100 * value).toFixed(1)} %`);
    find("curves-title").hidden = false;
    fill(find("curves"), chart.element);
    chart.show(answer.curves.map((curve) => curve.label), alignCurves(answer.curves));
    fill(find("body"), answer.sections.map((part) => [h("h2", {}, part.heading), part.sentences.map((text) => h("p", {}, text)),
      part.table ? scroll(part.heading, table(part.table.columns, part.table.rows, part.table.right)) : null]),
    h("h2", {}, "Runs"), h("ul", {}, answer.curves.map((curve) => h("li", {}, h("a", { href: `/runs/${curve.id}` }, curve.label)))));
  } catch (error) {
    fill(find("body"), h("p", { class: "error" }, error.message), h("p", {}, h("a", { href: "/" }, "All runs")));
  }
}
load();
