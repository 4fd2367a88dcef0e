// A sweep: its ranking, its curves, its jobs.

import { actions } from "./actions.js";
import { get, repeat } from "./api.js";
import { alignCurves, Chart } from "./charts.js";
import { badge, copyable, fill, find, h, minutes, openDialog, page, percent, refill, say, scroll, table } from "./dom.js";

const SHOWN = 8; // curves, the best ones
const chart = new Chart("Validation accuracy of each epoch", (value) => `${(100 * value).toFixed(1)} %`);
let lost = false;
let wakeUp = () => {};

const nameOf = (run) => `job ${run.job} ${Object.entries(run.settings).map(([key, value]) => `${key.split(".").pop()}=${value}`).join(" ")}`;

function jobRow(run) {
  const name = run.started ? h("a", { href: `/runs/${run.id}` }, nameOf(run)) : nameOf(run);
  const right = (text) => h("td", { class: "right" }, text);
  return h("tr", {}, h("td", {}, name), h("td", {}, h("div", { class: "row" }, badge(run.status), run.started ? actions("runs", run, wakeUp) : null)),
    right(percent(run.val_acc)), right(percent(run.test_acc)), right(run.epochs ? `${run.epoch}/${run.epochs}` : ""), right(minutes(run.minutes)));
}

/** Draw each part that has changed, so that the focus stays on its buttons. */
function draw(sweep) {
  const { status, counts, stoppable, resumable } = sweep;
  refill(find("head"), [status, counts, stoppable, resumable], () => [h("h1", {}, sweep.name), h("div", { class: "row" }, badge(status), counts, actions("sweeps", sweep, wakeUp))]);
  refill(find("best"), sweep.best, () => (sweep.best ? h("p", {}, "Best: ", h("a", { href: `/runs/${sweep.best.id}` }, "this run"), `, ${sweep.best.why}.`) : null));
  refill(find("jobs"), sweep.runs, () => jobs(sweep.runs));
  refill(find("errors"), sweep.errors, () => sweep.errors.map((error) => h("p", { class: "error" }, error)));
  refill(find("tables"), sweep.tables, () => sweep.tables.map((part) => [h("h2", {}, part.heading), scroll(part.heading, table(part.columns, part.rows, part.right))]));
  refill(find("picture"), sweep.picture, () => (sweep.picture ? [h("h2", {}, "Picture"), picture(sweep.picture)] : null));
  refill(find("commands"), [sweep.command, resumable && sweep.resume_command], () => [h("h2", {}, "In a terminal"), copyable(sweep.command), resumable ? copyable(sweep.resume_command) : null]);
}

function jobs(runs) {
  const heading = (name, place) => h("th", { scope: "col", class: place > 1 ? "right" : null }, name);
  return scroll("Jobs", h("table", {}, h("thead", {}, h("tr", {}, ["job", "status", "val acc", "test acc", "epochs", "minutes"].map(heading))), h("tbody", {}, runs.map(jobRow))));
}

function picture(src) {
  const image = () => h("img", { class: "whole", src, alt: "Settings and validation curves of the sweep" });
  return h("button", { type: "button", "aria-label": "Enlarge the picture of the sweep", on: { click: () => openDialog("Settings and results", image()) } }, image());
}

async function drawCurves(runs) {
  const begun = runs.filter((run) => run.epoch).slice(0, SHOWN);
  const curves = await Promise.all(begun.map(async (run) => {
    const { columns, rows } = await get(`/api/runs/${run.id}/metrics`);
    return { label: nameOf(run), epoch: rows.map((row) => row[columns.indexOf("epoch")]), val_acc: rows.map((row) => row[columns.indexOf("val_acc")]) };
  }));
  if (curves.length) chart.show(curves.map((curve) => curve.label), alignCurves(curves));
}

async function refresh() {
  try {
    const sweep = await get(`/api/sweeps/${page.id}`);
    draw(sweep);
    await drawCurves(sweep.runs);
    lost = false;
    return ["running", "waiting"].includes(sweep.status) ? 2 : 10;
  } catch (error) {
    if (error.status === 404) {
      fill(find("main"), h("h1", {}, "This sweep is gone"), h("p", {}, error.message), h("p", {}, h("a", { href: "/" }, "All runs")));
      return null;
    }
    if (!lost) say(error.message, true);
    lost = true;
    return 5;
  }
}

fill(find("curves"), chart.element);
let end = repeat(refresh);
wakeUp = () => { end(); end = repeat(refresh); };
