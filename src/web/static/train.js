// Training: images, model and time, start. What the form says is one command, which is always shown and always checked.

import { get, post, repeat } from "./api.js";
import { folderInput } from "./combo.js";
import { copyable, fill, find, h, say, showProblem } from "./dom.js";
import { Field, groupField, quote, splitWords, toCommand } from "./form.js";
import { lookAtData } from "./report.js";

const FIRST = ["training.max_minutes", "training.epochs", "dataset.image_size", "training.batch_size", "training.lr", "seed"];
const LABELS = { experiment: "recipe (experiment)", "training.max_minutes": "minutes (training.max_minutes)", "training.epochs": "epochs (training.epochs)" };
const STANDARD = { dataset: "digits", optimizer: "auto", scheduler: "cosine" }; // the options of configs/config.yaml
const fields = new Map(); // by key, groups too
const extra = { words: [] };
let options = null;
let folder = null;
let checked = 0;
let timer = null;

function words() {
  const typed = [];
  const own = fields.get("source").value === "folder";
  if (own) typed.push("dataset=image_folder", ...(folder.input.value.trim() ? [`dataset.root=${folder.input.value.trim().replace(/(.)\/+$/, "$1")}`] : []));
  else if (fields.get("dataset").word) typed.push(fields.get("dataset").word);
  for (const [key, field] of fields) {
    if (key === "source" || key === "dataset" || (own && key === "dataset.root") || field.element.hidden) continue;
    if (field.word) typed.push(field.word);
  }
  return [...typed, ...extra.words];
}

function changed() {
  hideMissing();
  fill(find("command"), copyable(toCommand(words())));
  clearTimeout(timer);
  timer = setTimeout(check, 600);
}

/** Hide the fields of keys that the chosen data set, optimizer or schedule does not have. */
function hideMissing() {
  const own = fields.get("source").value === "folder";
  for (const [group, standard] of Object.entries(STANDARD)) {
    const option = group === "dataset" && own ? "image_folder" : fields.get(group).value || standard;
    const keys = options.keys[group][option];
    for (const [key, field] of fields) {
      if (key.startsWith(`${group}.`) && keys) field.element.hidden = !keys.includes(key) || (own && key === "dataset.root");
    }
  }
}

async function check() {
  const number = (checked += 1);
  if (fields.get("source").value === "folder" && !folder.input.value.trim()) { // not yet a mistake
    showAt(null, null);
    return;
  }
  try {
    await post("/api/check", { words: words() });
    if (number === checked) showAt(null, null);
  } catch (error) {
    if (number === checked) showAt(error.message, error.key);
  }
}

/** Show an error at the field of its key, or above the buttons if there is none. */
function showAt(message, key) {
  for (const field of fields.values()) field.setProblem(null);
  showProblem(find("problem"), null);
  const rootField = key === "dataset.root" && fields.get("source").value === "folder";
  showProblem(find("root-problem"), rootField ? message : null, folder.input);
  if (!message) return;
  const field = rootField ? null : fields.get(key);
  if (field && !field.element.hidden) {
    field.setProblem(message);
    for (let part = field.element.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  }
  showProblem(find("problem"), message);
}

function buildData() {
  const source = new Field({ key: "source", help: "", null: "", type: "choice", choices: [], default: null, low: null, high: null }, () => { showSource(); changed(); }, "Train on");
  fill(source.input, h("option", { value: "folder" }, "my own photos: a folder per class"), h("option", { value: "known" }, "a known data set"));
  source.mark = () => {};
  fields.set("source", source);
  const dataset = groupField("dataset", options.groups.dataset.filter((option) => option.name !== "image_folder"), "digits, included (the default)", changed);
  fields.set("dataset", dataset);
  folder = folderInput("root", changed);
  const own = h("div", { class: "field", id: "own" }, h("label", { for: "root" }, "Folder (dataset.root)"), folder.element, h("p", { id: "root-problem", class: "error", hidden: true }),
    h("span", { class: "hint" }, "On this machine; nothing is uploaded. photos/cat/1.jpg, photos/dog/1.jpg, …"));
  fill(find("data"), h("div", { class: "fields" }, source.element, own, dataset.element));
  source.input.value = "folder";
  showSource();
}

function showSource() {
  const own = fields.get("source").value === "folder";
  find("own").hidden = !own;
  fields.get("dataset").element.hidden = own;
}

function buildFields() {
  const described = new Map(options.fields.map((field) => [field.key, field]));
  for (const [group, first] of [["model", "chosen from the images"], ["experiment", "no recipe"], ["optimizer", "chosen from the images"], ["scheduler", "cosine"], ["augmentation", "chosen from the images"]]) {
    fields.set(group, groupField(group, options.groups[group], first, changed, LABELS[group]));
  }
  for (const key of FIRST) fields.set(key, new Field(described.get(key), changed, LABELS[key]));
  const first = ["model", "experiment", ...FIRST, "augmentation", "optimizer", "scheduler"];
  fill(find("main-fields"), first.map((key) => fields.get(key).element));
  const sections = new Map();
  for (const field of options.fields) {
    if (fields.has(field.key)) continue;
    fields.set(field.key, new Field(field, changed));
    sections.set(field.section, [...(sections.get(field.section) ?? []), fields.get(field.key)]);
  }
  const moreWords = h("input", { type: "text", id: "words", placeholder: "key=value key=value", spellcheck: "false" });
  moreWords.addEventListener("input", () => { extra.words = splitWords(moreWords.value); changed(); });
  fill(find("all-fields"), [...sections].map(([name, list]) => h("details", { data: { section: name }, open: false }, h("summary", {}, name), h("div", { class: "fields" }, list.map((field) => field.element)))),
    h("div", { class: "field" }, h("label", { for: "words" }, "More words"), moreWords, h("span", { class: "hint" }, "anything else of the command line, separated by spaces; quotes keep spaces together")));
  find("search").addEventListener("input", () => {
    const text = find("search").value.trim();
    for (const [name, list] of sections) {
      const part = find("all-fields").querySelector(`[data-section="${name}"]`);
      for (const field of list) field.element.classList.toggle("other", text !== "" && !field.matches(text));
      const found = list.some((field) => field.matches(text));
      part.hidden = !found;
      part.open = text !== "" && found;
    }
  });
}

/** Fill the form with the words of another run. */
function prefill() {
  let given = [];
  try {
    given = JSON.parse(new URLSearchParams(location.search).get("words") ?? "[]");
  } catch {
    return;
  }
  for (const word of given.filter((item) => typeof item === "string" && item.includes("="))) {
    const [key, value] = [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)];
    if (key === "dataset.root" && !given.some((other) => other.startsWith("dataset=") && other !== "dataset=image_folder")) folder.input.value = value;
    else if (key === "dataset") fields.get("source").input.value = value === "image_folder" ? "folder" : "known";
    if (key === "dataset" && value === "image_folder") continue;
    if (fields.has(key)) fields.get(key).value = value;
    else if (key !== "dataset.root") extra.words.push(word);
  }
  if (given.length && !given.some((word) => word.startsWith("dataset"))) fields.get("source").input.value = "known";
  find("words").value = extra.words.map(quote).join(" ");
  fields.get("dataset").explain();
  showSource();
}

async function start(queue) {
  for (const id of ["start", "queue"]) find(id).disabled = true;
  try {
    const started = await post("/api/start", { words: words(), queue });
    showAt(null, null);
    follow(started);
  } catch (error) {
    showAt(error.message, error.key);
    find("problem").scrollIntoView({ block: "nearest" });
  }
  for (const id of ["start", "queue"]) find(id).disabled = false;
}

/** Show what a start prints, until its run is there. */
function follow(started) {
  const output = h("pre", { class: "log short", tabindex: "0" }, "…");
  fill(find("live"), h("h2", {}, "Starting"), copyable(started.command), output);
  find("live").scrollIntoView({ block: "nearest" });
  repeat(async () => {
    try {
      const now = await get(`/api/starts/${started.id}`);
      output.textContent = now.output || "…";
      if (now.run) { location.href = `/runs/${now.run}`; return null; }
      if (now.sweep) { location.href = `/sweeps/${now.sweep}`; return null; }
      if (now.state !== "ended") return 0.5;
      if (now.error) { showAt(now.error, now.key); fill(find("live")); } else say("The process has ended.");
      return null;
    } catch (error) {
      say(error.message, true);
      return 3;
    }
  });
}

function showRunning() {
  const running = options.running;
  find("queue").hidden = !running.length;
  find("running").textContent = running.length ? `${running.length === 1 ? "A run is training" : `${running.length} runs are training`} now; another one at the same time makes both slower.` : "";
}

async function load() {
  try {
    options = await get("/api/options");
  } catch (error) {
    say(error.message, true);
    return;
  }
  buildData();
  buildFields();
  prefill();
  showRunning();
  changed();
  find("form").addEventListener("submit", (event) => { event.preventDefault(); start(false); });
  find("queue").addEventListener("click", () => start(true));
  find("look").addEventListener("click", async () => {
    find("look").disabled = true;
    await lookAtData(find("report"), words(), showAt);
    find("look").disabled = false;
  });
  repeat(async () => {
    try {
      options.running = (await get("/api/options")).running;
      showRunning();
    } catch { /* said by what is asked for next */ }
    return 10;
  });
}

if (find("form")) load();
