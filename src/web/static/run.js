// A run: live curves and log, then its results, its configuration and its files.

import { actions } from "./actions.js";
import { get, repeat } from "./api.js";
import { Chart } from "./charts.js";
import { badge, bytes, copyable, count, duration, fill, find, h, initial, minutes, moment, openDialog, page, percent, say, scroll, table } from "./dom.js";
import { browser, grid, openGallery } from "./gallery.js";
import { confusionMatrix } from "./matrix.js";

const charts = {
  loss: new Chart("Loss", (value) => value.toPrecision(3)),
  accuracy: new Chart("Accuracy", (value) => `${(100 * value).toFixed(1)} %`),
  lr: new Chart("Learning rate", (value) => value.toExponential(1)),
};
const LINES = {
  loss: [["train_loss", "training"], ["val_loss", "validation"], ["ema_val_loss", "averaged weights"]],
  accuracy: [["val_acc", "validation"], ["train_acc", "training"], ["ema_val_acc", "averaged weights"]],
  lr: [["lr", "learning rate"]],
};
const history = { columns: [], rows: [] };
let shownStatus = null;
let lost = false;
let wakeUp = () => {};

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value || "–"));
}

function drawHead(run) {
  const progress = run.status === "running" && run.epochs ? [
    h("progress", { max: String(run.epochs), value: String(run.epoch ?? 0), "aria-label": "Epochs done" }),
    h("p", { class: "hint" }, run.epoch ? `epoch ${run.epoch} of ${run.epochs}${run.seconds_left === null ? "" : `, about ${duration(run.seconds_left)} left`}` : "The first epoch is running; its results come when it is done."),
  ] : null;
  const predict = run.has_weights ? h("a", { href: `/predict?run=${run.id}` }, "Predict with it") : null;
  const variant = page.readOnly ? null : h("a", { href: "/train", id: "variant" }, "Train a variant");
  const error = run.error ? h("p", { class: "error" }, `${run.status}: ${run.error}`) : null;
  fill(find("head"), h("h1", {}, run.name),
    h("div", { class: "row" }, badge(run.status), run.ended ? h("span", { class: "hint" }, `ended by ${run.ended}`) : null, actions("runs", run, wakeUp), predict, variant,
      run.sweep ? h("a", { href: `/sweeps/${run.sweep}` }, "Its sweep") : null),
    error, progress,
    h("dl", { class: "facts" }, fact("data set", run.dataset), fact("model", run.model), fact("best validation accuracy", percent(run.val_acc) && `${percent(run.val_acc)} (epoch ${run.best_epoch})`),
      fact("test accuracy", percent(run.test_acc)), fact("parameters", count(run.parameters)), fact("minutes", minutes(run.minutes)), fact("started", moment(run.started))));
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
    if (shownStatus !== null && shownStatus !== answer.run.status) drawDetails(await get(`/api/runs/${page.id}`));
    shownStatus = answer.run.status;
    lost = false;
    return answer.run.status === "running" ? 1.5 : 5;
  } catch (error) {
    if (error.status === 404) {
      fill(find("head"), h("h1", {}, "This run is gone"), h("p", {}, error.message), h("p", {}, h("a", { href: "/" }, "All runs")));
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

function drawDetails(details) {
  const { run } = details;
  const variant = find("variant");
  if (variant) variant.href = `/train?words=${encodeURIComponent(JSON.stringify(details.words))}`;
  fill(find("results"), details.test ? results(run, details) : h("section", {}, h("h2", {}, "Results"), h("p", {}, run.status === "running" ? "The test images are used once, at the end." : "There are none: the test images are used once, at the end of a run. Resume it to get there.")));
  fill(find("about"), h("h2", {}, "Use it"), commands(details), h("h2", {}, "Configuration"), configuration(details),
    h("h2", {}, "Environment"), h("details", {}, h("summary", {}, "Versions, machine, command"), scroll("Environment", table(["key", "value"], details.environment.map((row) => [row.key, row.value])))),
    h("h2", {}, "Files"), files(details));
  if (details.predictions) loadTested(run.id, details);
}

function results(run, details) {
  return h("section", { "aria-label": "Results" }, h("h2", {}, "Results on the test images"),
    h("dl", { class: "facts" }, details.test.map((row) => fact(row.name, row.text))),
    details.confused.length ? [h("h3", {}, "Most confused"), h("div", { class: "row" }, details.confused.map((pair) =>
      h("button", { type: "button", class: "small", on: { click: () => openGallery(run.id, `true ${pair.true}, predicted ${pair.predicted}`, { true: pair.true, predicted: pair.predicted }) } },
        `${pair.true} → ${pair.predicted}: ${pair.count}`)))] : null,
    h("h3", {}, "Confusion matrix"), h("div", { id: "matrix" }, details.predictions ? "…" : "Only its picture is there, below: the run is older than the table of predictions."),
    h("h3", {}, "Worst mistakes"), h("p", { class: "hint" }, "Wrong, and most sure of it."), h("div", { id: "mistakes" }),
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

function commands(details) {
  const { run } = details;
  return h("div", {}, run.has_weights ? [h("p", {}, "Predict images in a terminal:"), copyable(details.predict_command)] : null,
    run.resumable ? [h("p", {}, "Continue it in a terminal:"), copyable(details.resume_command)] : null,
    details.command ? [h("p", {}, "It was started by:"), copyable(details.command)] : null);
}

function configuration(details) {
  const { changed, all } = details.config;
  const rows = h("div");
  const search = h("input", { type: "search", placeholder: "lr, mixup …", "aria-label": "Find a key" });
  const draw = () => fill(rows, scroll("All keys", table(["key", "value"], all.filter((row) => row.key.includes(search.value.trim())).map((row) => [row.key, row.value]))));
  search.addEventListener("input", draw);
  draw();
  return [changed.length ? scroll("Changed keys", table(["changed", "value", "default"], changed.map((row) => [row.key, row.value, row.default]))) : h("p", {}, "Nothing differs from the defaults of the chosen options."),
    h("details", {}, h("summary", {}, `All ${all.length} keys`), search, rows)];
}

function files(details) {
  return scroll("Files", h("table", {}, h("tbody", {}, details.files.map((file) => h("tr", {}, h("td", {}, h("a", { href: file.url, download: "" }, file.name)), h("td", { class: "right" }, bytes(file.bytes)))))));
}

fill(find("curves"), charts.loss.element, charts.accuracy.element, charts.lr.element);
const given = initial();
drawHead(given.run);
drawDetails(given);
shownStatus = given.run.status;
let end = repeat(refresh);
wakeUp = () => { end(); end = repeat(refresh); };
