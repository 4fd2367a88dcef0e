// A run: live curves and log, then its results, its configuration and its files.

import { actions } from "./actions.js";
import { get, repeat } from "./api.js";
import { Chart } from "./charts.js";
import { badge, bytes, copyable, count, duration, fill, find, h, initial, minutes, moment, openDialog, page, percent, refill, say, scroll, table } from "./dom.js";
import { exportsOf } from "./exports.js";
import { browser, grid, openGallery } from "./gallery.js";
import { confusionMatrix } from "./matrix.js";

const charts = {
  loss: new Chart("Loss", (value) => value.toPrecision(3)),
  accuracy: new Chart("Accuracy", (value) => `${(100 * value).toFixed(1)} %`),
  lr: new Chart("Learning rate", (value) => value.toExponential(1)),
};
const LINES = {
  loss: [["train_loss", "training"], ["val_loss", "validation"], ["ema_val_loss", "averaged weights"]],
  accuracy: [["train_acc", "training"], ["val_acc", "validation"], ["ema_val_acc", "averaged weights"]],
  lr: [["lr", "learning rate"]],
};
const history = { columns: [], rows: [] };
let details = initial();
let lost = false;
let wakeUp = () => {};

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", { class: String(value).length > 18 ? "long" : null }, value || "–"));
}

/** Draw what changes while the run trains; each part only if it has, so that the focus stays on its buttons. */
function drawHead(run) {
  const { status, ended, stoppable, resumable, error } = run;
  refill(find("title"), [status, ended, stoppable, resumable, run.has_weights, run.sweep], () => [h("h1", {}, run.name),
    h("div", { class: "row" }, badge(status), ended ? h("span", { class: "hint" }, `ended by ${ended}`) : null, actions("runs", run, wakeUp), links(run))]);
  refill(find("error"), [status, error], () => (error ? h("p", { class: "error failure", role: "alert" }, `${status}: ${error}`) : null));
  refill(find("progress"), [status, run.epoch, run.epochs, run.seconds_left], () => progress(run));
  refill(find("facts"), [run.dataset, run.model, run.val_acc, run.best_epoch, run.test_acc, run.parameters, run.minutes], () => [
    fact("data set", run.dataset), fact("model", run.model), fact("best validation accuracy", percent(run.val_acc) && `${percent(run.val_acc)} (epoch ${run.best_epoch})`),
    fact("test accuracy", percent(run.test_acc)), fact("parameters", count(run.parameters)), fact("minutes", minutes(run.minutes)), fact("started", moment(run.started))]);
}

function links(run) {
  const variant = `/train?words=${encodeURIComponent(JSON.stringify(details.words))}`;
  return [run.has_weights ? h("a", { href: `/predict?run=${run.id}`, data: { focus: "predict" } }, "Predict with it") : null,
    page.readOnly ? null : h("a", { href: variant, id: "variant", data: { focus: "variant" } }, "Train a variant"),
    run.sweep ? h("a", { href: `/sweeps/${run.sweep}`, data: { focus: "sweep" } }, "Its sweep") : null];
}

function progress(run) {
  if (run.status !== "running") return null;
  if (!run.epoch) return h("p", { class: "hint" }, "It prepares the images and trains its first epoch; the log below says how far it is.");
  const left = run.seconds_left === null ? "" : `, about ${duration(run.seconds_left)} left`;
  return [h("progress", { max: String(run.epochs), value: String(run.epoch), "aria-label": "Epochs done" }), h("p", { class: "hint" }, `epoch ${run.epoch} of ${run.epochs}${left}`)];
}

function drawCurves() {
  const column = (name) => history.rows.map((row) => row[history.columns.indexOf(name)]);
  for (const [name, chart] of Object.entries(charts)) {
    const lines = LINES[name].filter(([key]) => history.columns.includes(key));
    chart.show(lines.map(([, label]) => label), [column("epoch"), ...lines.map(([key]) => column(key))]);
  }
}

async function refresh() {
  try {
    const since = history.rows.at(-1)?.[history.columns.indexOf("epoch")] ?? 0;
    let answer = await get(`/api/runs/${page.id}/metrics`, { since });
    if (answer.run.epoch !== null && answer.run.epoch < since) { // it was resumed from an earlier epoch
      history.rows = [];
      answer = await get(`/api/runs/${page.id}/metrics`, { since: 0 });
    }
    if (answer.columns.length) history.columns = answer.columns;
    history.rows.push(...answer.rows);
    drawHead(answer.run);
    drawCurves();
    await drawLog();
    if (details.run.status !== answer.run.status) {
      details = await get(`/api/runs/${page.id}`);
      drawDetails();
    }
    lost = false;
    return answer.run.status === "running" ? 1.5 : 5;
  } catch (error) {
    if (error.status === 404) {
      fill(find("main"), h("h1", {}, "This run is gone"), h("p", {}, error.message), h("p", {}, h("a", { href: "/" }, "All runs")));
      return null;
    }
    if (!lost) say(error.message, true);
    lost = true;
    return 3;
  }
}

async function drawLog() {
  const log = find("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  const { lines } = await get(`/api/runs/${page.id}/log`, { lines: 300 });
  const text = lines.join("\n");
  if (log.textContent !== text) {
    log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

function drawDetails() {
  const { run } = details;
  fill(find("results"), details.test ? results(run) : h("section", {}, h("h2", {}, "Results"), h("p", {}, run.status === "running" ? "The test images are used once, at the end." : "There are none: the test images are used once, at the end of a run. Resume it to get there.")));
  fill(find("about"), h("h2", {}, "Use it"), commands(run), h("h2", {}, "Configuration"), configuration(details.config),
    h("h2", {}, "Environment"), h("details", {}, h("summary", {}, "Versions, machine, command"), scroll("Environment", table(["key", "value"], details.environment.map((row) => [row.key, row.value])))),
    h("h2", {}, "Files"), files(details.files), h("h2", {}, "Export"), exportsOf(run, details.exports));
  if (details.predictions) loadTested(run.id);
}

function results(run) {
  return h("section", { "aria-label": "Results" }, h("h2", {}, "Results on the test images"),
    h("dl", { class: "facts" }, details.test.map((row) => fact(row.name, row.text))),
    details.confused.length ? [h("h3", {}, "Most confused"), h("div", { class: "row" }, details.confused.map((pair) =>
      h("button", { type: "button", class: "small", on: { click: () => openGallery(run.id, `true ${pair.true}, predicted ${pair.predicted}`, { true: pair.true, predicted: pair.predicted }) } },
        `${pair.true} → ${pair.predicted}: ${pair.count}`)))] : null,
    h("h3", {}, "Confusion matrix"), h("div", { id: "matrix" }, details.predictions ? "…" : "Only its picture is there, below: the run is older than the table of predictions."),
    h("h3", {}, "Worst mistakes"), h("p", { class: "hint" }, "Wrong, with the highest confidence."), h("div", { id: "mistakes" }),
    details.per_class ? h("details", {}, h("summary", {}, "Each class"), perClass(details.per_class)) : null,
    h("details", { on: { toggle: (event) => event.target.open && !event.target.dataset.done && openBrowser(event.target, run.id, details.classes ?? []) } }, h("summary", {}, "All test images")),
    h("h3", {}, "Figures"), h("div", { class: "figures" }, details.figures.map((figure) =>
      h("button", { type: "button", on: { click: () => openDialog(figure.title, h("img", { class: "whole", src: figure.url, alt: figure.title })) } },
        h("img", { src: figure.url, alt: "", loading: "lazy" }), figure.title))));
}

function openBrowser(element, run, classes) {
  element.dataset.done = "yes";
  element.append(browser(run, classes));
}

async function loadTested(run) {
  try {
    fill(find("matrix"), confusionMatrix(run, await get(`/api/runs/${run}/confusion`)));
    const worst = await get(`/api/runs/${run}/predictions`, { correct: false, size: 12 });
    fill(find("mistakes"), worst.total ? grid(run, worst.rows) : h("p", {}, "None: all test images are right."));
  } catch (error) {
    fill(find("matrix"), h("p", { class: "error" }, error.message));
  }
}

function perClass(rows) {
  const state = { key: "f1", up: true };
  const box = h("div");
  const columns = ["class", "precision", "recall", "f1", "support"];
  const draw = () => {
    const order = (a, b) => (state.key === "class" ? a.class.localeCompare(b.class) : a[state.key] - b[state.key]) * (state.up ? 1 : -1);
    const heading = (key) => h("th", { scope: "col", class: key === "class" ? null : "right", "aria-sort": key === state.key ? (state.up ? "ascending" : "descending") : null },
      h("button", { type: "button", class: "plain", on: { click: () => { state.up = key === state.key ? !state.up : true; state.key = key; draw(); } } }, key === "support" ? "images" : key));
    const cells = (row) => columns.map((key) => h("td", { class: key === "class" ? null : "right" }, key === "class" ? row.class : key === "support" ? count(row[key]) : percent(row[key])));
    fill(box, scroll("Each class", h("table", {}, h("thead", {}, h("tr", {}, columns.map(heading))), h("tbody", {}, [...rows].sort(order).map((row) => h("tr", {}, cells(row)))))));
  };
  draw();
  return box;
}

function commands(run) {
  return h("div", {}, run.has_weights ? [h("p", {}, "Predict images in a terminal:"), copyable(details.predict_command)] : null,
    run.resumable ? [h("p", {}, "Continue it in a terminal:"), copyable(details.resume_command)] : null,
    details.command ? [h("p", {}, "It was started by:"), copyable(details.command)] : null);
}

function configuration({ changed, all }) {
  const rows = h("div");
  const search = h("input", { type: "search", placeholder: "lr, mixup …", "aria-label": "Find a key" });
  const draw = () => fill(rows, scroll("All keys", table(["key", "value"], all.filter((row) => row.key.includes(search.value.trim())).map((row) => [row.key, row.value]))));
  search.addEventListener("input", draw);
  draw();
  return [changed.length ? scroll("Changed keys", table(["changed", "value", "default"], changed.map((row) => [row.key, row.value, row.default]))) : h("p", {}, "Nothing differs from the defaults of the chosen options."),
    h("details", {}, h("summary", {}, `All ${all.length} keys`), search, rows)];
}

function files(list) {
  return scroll("Files", h("table", {}, h("tbody", {}, list.map((file) => h("tr", {}, h("td", {}, h("a", { href: file.url, download: "" }, file.name)), h("td", { class: "right" }, bytes(file.bytes)))))));
}

fill(find("curves"), charts.loss.element, charts.accuracy.element, charts.lr.element);
drawHead(details.run);
drawDetails();
let end = repeat(refresh);
wakeUp = () => { end(); end = repeat(refresh); };
