// The table of runs: sweeps are one row that opens, and what runs is asked for again every two seconds.

import { actions, showStarts } from "./actions.js";
import { ApiError, get, repeat } from "./api.js";
import { sparkline } from "./charts.js";
import { badge, count, find, h, initial, minutes, moment, page, percent, plural, refill, say, showProblem } from "./dom.js";

const COLUMNS = [
  ["started", "started"], ["status", "status"], ["dataset", "data set"], ["model", "model"], ["parameters", "parameters"],
  ["epoch", "epochs"], ["val_acc", "val acc"], ["", "curve"], ["test_acc", "test acc"], ["minutes", "minutes"],
];
const NUMBERS = ["parameters", "epochs", "val acc", "test acc", "minutes"];
const query = new URLSearchParams(location.search);
const state = { filter: query.get("filter") ?? "", sort: query.get("sort") ?? "started", page: 1 };
const chosen = new Set();
const opened = new Map(); // sweep -> its jobs
let wakeUp = () => {};

function heading([name, label]) {
  const right = NUMBERS.includes(label) ? "right" : null;
  if (!name) return h("th", { scope: "col" }, label);
  const sorted = state.sort.replace(/^-/, "") === name;
  const reversed = state.sort.startsWith("-");
  const names = ["dataset", "model", "status"].includes(name);
  const direction = sorted ? (reversed !== names ? "ascending" : "descending") : null;
  const mark = sorted ? (direction === "ascending" ? " ↑" : " ↓") : "";
  const sort = () => { state.sort = sorted && !reversed ? `-${name}` : name; state.page = 1; reload(); };
  return h("th", { scope: "col", class: right, "aria-sort": direction },
    h("button", { type: "button", class: "plain", data: { focus: `sort-${name}` }, on: { click: sort } }, label + mark));
}

/** Return the name of a folder if it says more than when it began. */
function describeName(name) {
  return /\d{4}-\d\d-\d\d\/(queue-)?\d\d-\d\d-\d\d/.test(name) ? null : h("div", { class: "hint" }, name);
}

function runRow(run, inside = false) {
  const box = h("input", { type: "checkbox", "aria-label": `Select ${run.name}`, data: { focus: `box-${run.id}` } });
  box.checked = chosen.has(run.id);
  box.addEventListener("change", () => { chosen[box.checked ? "add" : "delete"](run.id); showChosen(); });
  const title = h("a", { href: `/runs/${run.id}`, data: { focus: `run-${run.id}` } }, moment(run.started) || run.name);
  const settings = Object.entries(run.settings ?? {}).map(([key, value]) => `${key.split(".").pop()}=${value}`).join(" ");
  const right = (text) => h("td", { class: "right" }, text);
  return h("tr", { class: inside ? "job" : null },
    h("td", {}, box), h("td", { title: run.name }, title, inside ? h("div", { class: "hint" }, `job ${run.job} ${settings}`) : describeName(run.name)),
    h("td", { title: run.error }, h("div", { class: "row" }, badge(run.status), actions("runs", run, wakeUp))),
    h("td", {}, run.dataset), h("td", { class: "words" }, run.model), right(count(run.parameters)),
    right(run.epochs ? `${count(run.epoch)}/${count(run.epochs)}` : ""), right(percent(run.val_acc)),
    h("td", {}, sparkline(run.curve)), right(percent(run.test_acc)), right(minutes(run.minutes)));
}

function sweepRows(sweep) {
  const open = opened.has(sweep.id);
  const button = h("button", { type: "button", class: "small", "aria-expanded": String(open), "aria-label": `Jobs of ${sweep.name}`, data: { focus: `open-${sweep.id}` } }, open ? "▾" : "▸");
  button.addEventListener("click", async () => {
    if (open) opened.delete(sweep.id);
    else await loadJobs(sweep.id);
    draw();
  });
  const row = h("tr", {}, h("td", {}, button),
    h("td", {}, h("a", { href: `/sweeps/${sweep.id}`, title: sweep.name, data: { focus: `sweep-${sweep.id}` } }, moment(sweep.started) || "sweep"), describeName(sweep.name)),
    h("td", {}, h("div", { class: "row" }, badge(sweep.status), actions("sweeps", sweep, wakeUp))),
    h("td", {}, sweep.dataset), h("td", { colspan: "3" }, sweep.counts), h("td", { class: "right" }, percent(sweep.val_acc)),
    h("td", { colspan: "3" }, h("span", { class: "hint" }, sweep.name.split("/").pop().startsWith("queue") ? "queue" : "sweep")));
  return [row, ...(opened.get(sweep.id) ?? []).map((run) => runRow(run, true))];
}

async function loadJobs(id) {
  try {
    opened.set(id, (await get(`/api/sweeps/${id}`)).runs);
  } catch (error) {
    opened.delete(id);
    say(error.message, true);
  }
}

let answer = initial(); // null if the filter of the address is a mistake

function empty() {
  if (state.filter) return h("div", { class: "empty" }, h("p", {}, "No run matches this filter."), h("p", {}, "Change it, or leave it empty to see all."));
  return h("div", { class: "empty" }, h("p", {}, `There are no runs in ${answer.folders.join(" and ")} yet.`),
    page.readOnly ? null : h("p", {}, h("a", { href: "/train" }, "Train the first model"), ", on the included digits, in a minute, or on your own photos."),
    h("p", {}, "In a terminal: ", h("code", {}, "python train.py")));
}

/** Draw the table again if anything has changed: selected text, the focus and the scroll position stay. */
function draw() {
  const box = find("table");
  const left = box.scrollLeft;
  refill(box, [answer.rows, state, [...opened], [...chosen]], () => {
    if (!answer.rows.length) return empty();
    const rows = answer.rows.map((row) => (row.kind === "sweep" ? sweepRows(row) : runRow(row)));
    const select = h("th", { scope: "col" }, h("span", { class: "hint" }, "select"));
    return h("table", {}, h("thead", {}, h("tr", {}, select, COLUMNS.map(heading))), h("tbody", {}, rows));
  });
  box.scrollLeft = left;
  drawPaging();
  refill(find("problems"), answer.problems, () => (answer.problems.length ? h("details", {}, h("summary", {}, `${answer.problems.length} cannot be read`), h("ul", {}, answer.problems.map((text) => h("li", {}, text)))) : null));
  showChosen();
}

function drawPaging() {
  const { page: here, pages, total } = answer;
  const turn = (label, to) => h("button", { type: "button", disabled: to < 1 || to > pages, data: { focus: label }, on: { click: () => { state.page = to; reload(); } } }, label);
  refill(find("paging"), [here, pages, total], () => [h("span", { role: "status" }, (total ? plural(total, "row") : "") + (pages > 1 ? `, page ${here} of ${pages}` : "")),
    pages > 1 ? [turn("Previous", here - 1), turn("Next", here + 1)] : null]);
}

function showChosen() {
  const button = find("compare");
  button.disabled = chosen.size < 2;
  button.textContent = chosen.size ? `Compare selected (${chosen.size})` : "Compare selected";
}

async function load() {
  try {
    answer = await get("/api/runs", state);
    showProblem(find("filter-error"), null, find("filter"));
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 400) throw error;
    showProblem(find("filter-error"), error.message, find("filter"));
    return;
  }
  await Promise.all([...opened.keys()].map(loadJobs));
  draw();
}

async function reload() {
  const words = new URLSearchParams(Object.entries({ filter: state.filter, sort: state.sort === "started" ? "" : state.sort }).filter(([, value]) => value));
  history.replaceState(null, "", words.size ? `/?${words}` : "/");
  try {
    await load();
  } catch (error) {
    say(error.message, true);
  }
}

find("search").addEventListener("submit", (event) => {
  event.preventDefault();
  state.filter = find("filter").value.trim();
  state.page = 1;
  reload();
});
find("compare").addEventListener("click", () => {
  location.href = `/compare?${[...chosen].map((id) => `run=${id}`).join("&")}`;
});
find("filter").value = state.filter;

let lost = false;
async function refresh() {
  try {
    const { starts } = await get("/api/starts");
    showStarts(find("starts"), starts);
    await load();
    if (lost) say("The server is back.");
    lost = false;
    if (!answer) return 10; // its filter is a mistake, said beside it
    const busy = starts.some((start) => start.state !== "ended") || answer.rows.some((row) => ["running", "waiting"].includes(row.status));
    return busy ? 2 : 10;
  } catch (error) {
    if (!lost) say(error.message, true);
    lost = true;
    return 3;
  }
}
if (answer) draw();
let end = repeat(refresh);
wakeUp = () => { end(); end = repeat(refresh); };
