// Images from a drop, the clipboard, a dialog or the camera, predicted in small groups; nothing is stored anywhere.

import { address, get, upload } from "./api.js";
import { copyable, fill, find, h, percent, plural, say, table } from "./dom.js";
import { attentionCanvas, bars, opacitySlider } from "./gallery.js";

const GROUP = 8; // images in a request
const PAUSE = 2000; // milliseconds before a busy server is asked again
const TRIES = 5;
const results = [];
let busy = Promise.resolve();

async function loadRuns() {
  const wanted = new URLSearchParams(location.search).get("run");
  try {
    const rows = [];
    for (let page = 1, pages = 1; page <= pages && page <= 4; page += 1) {
      const answer = await get("/api/runs", { weights: true, flat: true, page });
      pages = answer.pages;
      rows.push(...answer.rows);
    }
    if (!rows.length) {
      fill(find("drop"), h("p", {}, "There is no trained run yet."), h("p", {}, h("a", { href: "/train" }, "Train the first model"), ", then come back."));
      find("run").disabled = true;
      return;
    }
    const best = h("option", { value: "best" }, "best, on the data set of the newest run");
    fill(find("run"), best, rows.map((run) => h("option", { value: run.id, selected: run.id === wanted }, `${run.dataset} · ${run.model} · ${percent(run.val_acc)} · ${run.name}`)));
  } catch (error) {
    say(error.message, true);
  }
  showCurl();
}

function showCurl() {
  const url = address(`${location.origin}/api/predict`, { run: find("run").value || "best" });
  fill(find("curl"), copyable(`curl -F files=@cat.jpg '${url}'`));
}

function add(files) {
  const list = [...files];
  busy = busy.then(() => predictAll(list));
}

async function predictAll(files) {
  const query = { run: find("run").value || "best", topk: 5, attention: find("attention").checked };
  for (let first = 0; first < files.length; first += GROUP) {
    find("progress").textContent = `predicting ${first + 1} to ${Math.min(files.length, first + GROUP)} of ${plural(files.length, "image")} …`;
    await predictGroup(files.slice(first, first + GROUP), query);
  }
  find("progress").textContent = "";
  drawTable();
}

/** Predict some images in one request; if none of them can be read, each alone, to tell what is wrong with each. */
async function predictGroup(files, query) {
  try {
    const answer = await send(files, query);
    answer.results.forEach((result) => show(result, answer.run));
  } catch (error) {
    if ([413, 422].includes(error.status) && files.length > 1) {
      for (const file of files) await predictGroup([file], query);
    } else {
      for (const file of files) show({ file: file.name, error: error.message, top: [], notes: [] }, null);
    }
  }
}

async function send(files, query, tries = TRIES) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  try {
    return await upload(address("/api/predict", query), form);
  } catch (error) {
    if (![429, 503].includes(error.status) || tries <= 1) throw error;
    await new Promise((done) => setTimeout(done, PAUSE));
    return send(files, query, tries - 1);
  }
}

function show(result, run) {
  results.push({ ...result, run });
  const card = h("article", { class: "card" }, h("h2", {}, result.file));
  if (result.error) card.append(h("p", { class: "error" }, result.error));
  else {
    if (result.attention) {
      const overlay = attentionCanvas(result);
      card.append(h("figure", {}, overlay.canvas), opacitySlider(overlay));
    }
    card.append(bars(result.top), ...result.notes.map((note) => h("p", { class: "hint" }, note)), h("p", { class: "hint" }, "by ", h("a", { href: `/runs/${run.id}` }, run.text)));
  }
  find("results").prepend(card);
}

function drawTable() {
  find("summary").hidden = !results.length;
  const rows = results.map((result) => [result.file, result.error ? result.error : result.class, result.error ? "" : percent(result.confidence)]);
  fill(find("table"), table(["file", "class", "confidence"], rows, ["confidence"]));
}

/** Return the results as `inference.py output=FILE.csv` writes them. */
function toCsv() {
  const good = results.filter((result) => !result.error);
  const most = Math.max(...good.map((result) => result.top.length), 1);
  const header = ["file"];
  for (let rank = 1; rank <= most; rank += 1) header.push(...(rank === 1 ? ["class", "confidence"] : [`class_${rank}`, `confidence_${rank}`]));
  const quote = (cell) => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const lines = good.map((result) => [result.file, ...result.top.flatMap((item) => [item.class, String(item.confidence)])]);
  return [header, ...lines].map((line) => line.map(quote).join(",")).join("\n") + "\n";
}

find("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([toCsv()], { type: "text/csv" }));
  const link = h("a", { href: url, download: "predictions.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
find("clear").addEventListener("click", () => {
  results.length = 0;
  fill(find("results"));
  drawTable();
});
find("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
find("run").addEventListener("change", showCurl);

const drop = find("drop");
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
// An image that is dropped beside the box must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
drop.addEventListener("drop", (event) => { event.preventDefault(); add(event.dataTransfer.files); });
window.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) add(files.map((file, place) => new File([file], file.name || `pasted_${results.length + place + 1}.png`, { type: file.type })));
});

const video = find("video");
const shutter = find("shutter");
let taken = 0;
find("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices) {
    say("A browser gives the camera to pages of this machine (127.0.0.1) or with https only.", true);
    return;
  }
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    shutter.showModal();
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, true);
  }
});
find("take").addEventListener("click", () => {
  const canvas = h("canvas", { width: String(video.videoWidth), height: String(video.videoHeight) });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera_${(taken += 1)}.jpg`;
  canvas.toBlob((blob) => add([new File([blob], name, { type: "image/jpeg" })]), "image/jpeg", 0.95);
  find("taken").textContent = `${name} is taken; its prediction is below this window.`;
});
find("close").addEventListener("click", () => shutter.close());
shutter.addEventListener("close", () => {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  find("taken").textContent = "";
});

loadRuns();
