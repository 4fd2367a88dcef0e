// A sweep: its ranking, its curves, its jobs.

import { actions } from "./actions.js";
import { get, repeat } from "./api.js";
import { alignCurves, Chart } from "./charts.js";
import { badge, copyable, fill, find, h, minutes, openDialog, page, percent, say, scroll, table } from "./dom.js";

const SHOWN = 8; // curves, the best ones
const chart = new Chart("Validation accuracy of each epoch", (value) => `${(100 * value).toFixed(1)} %`);
let drawn = "";
let wakeUp = () => {};

const nameOf = (run) => `${run.job}: ${Object.entries(run.settings).map(([key, value]) => `${key.split(".").pop()}=${value}`).join(" ")}`;

function jobRow(run) {
  const name = run.started ? h("a", { href: `/runs/${run.id}` }, nameOf(run)) : nameOf(run);
  const right = (text) => h("td", { class: "right" }, text);
  return h("tr", {}, h("td", {}, name), h("td", {}, h("div", { class: "row" }, badge(run.status), run.started ? actions("runs", run, wakeUp) : null)),
    right(percent(run.val_acc)), right(percent(run.test_acc)), right(run.epochs ? `${run.epoch}/${run.epochs}` : ""), right(minutes(run.minutes)));
}

function draw(sweep) {
  const text = JSON.stringify(sweep);
  if (text === drawn) return;
  drawn = text;
  fill(find("head"), h("h1", {}, sweep.name), h("div", { class: "row" }, badge(sweep.status), sweep.counts, actions("sweeps", sweep, wakeUp)));
  const best = sweep.best ? h("p", {}, "Best: ", h("a", { href: `/runs/${sweep.best.id}` }, "this run"), `, ${sweep.best.why}.`) : null;
  const jobs = h("table", {}, h("thead", {}, h("tr", {}, ["job", "status", "val acc", "test acc", "epochs", "minutes"].map((name, place) => h("th", { scope: "col", class: place > 1 ? "right" : null }, name)))),
    h("tbody", {}, sweep.runs.map(jobRow)));
  const picture = sweep.picture ? h("button", { type: "button", "aria-label": "Enlarge the picture of the sweep", on: { click: () => openDialog("Settings and results", h("img", { class: "whole", src: sweep.picture, alt: "Settings and validation curves of the sweep" })) } },
    h("img", { class: "whole", src: sweep.picture, alt: "Settings and validation curves of the sweep" })) : null;
  fill(find("body"), best, h("h2", {}, "Jobs"), scroll("Jobs", jobs), sweep.errors.map((error) => h("p", { class: "error" }, error)),
    sweep.tables.map((part) => [h("h2", {}, part.heading), scroll(part.heading, table(part.columns, part.rows, part.right))]), picture ? h("h2", {}, "Picture") : null, picture,
    h("h2", {}, "In a terminal"), copyable(sweep.command), sweep.resumable ? copyable(sweep.resume_command) : null);
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
    return sweep.status === "running" ? 2 : 10;
  } catch (error) {
    say(error.message, true);
    return error.status === 404 ? null : 5;
  }
}

fill(find("curves"), chart.element);
let end = repeat(refresh);
wakeUp = () => { end(); end = repeat(refresh); };
