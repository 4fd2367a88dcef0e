// Test images: in a grid, filtered and in pages; and one of them with what the model saw and where it looked.

import { get } from "./api.js";
import { fill, h, openDialog, percent, plural, say } from "./dom.js";

const pictureOf = (run, index, size) => `/api/runs/${run}/images/test/${index}?size=${size}`;

/** Return a grid of test images; a click opens one. */
export function grid(run, rows) {
  return h("ul", { class: "gallery" }, rows.map((row, place) => {
    const outcome = row.correct ? "right-answer" : "wrong-answer";
    const text = row.correct ? `✓ ${row.class}` : `✗ ${row.class} → ${row.predicted}`;
    const image = h("img", { src: pictureOf(run, row.index, 160), alt: "", loading: "lazy", width: "112", height: "112" });
    return h("li", {}, h("button", { type: "button", title: row.image, on: { click: () => openImage(run, rows, place) } },
      image, h("span", { class: outcome }, text), h("br"), percent(row.confidence)));
  }));
}

/** Open the images of some classes in a dialog. */
export async function openGallery(run, title, query) {
  try {
    const found = await get(`/api/runs/${run}/predictions`, { ...query, size: 200 });
    const more = found.total > found.rows.length ? h("p", { class: "hint" }, `the first ${found.rows.length} of ${found.total}`) : null;
    openDialog(title, found.rows.length ? grid(run, found.rows) : h("p", {}, "No images."), more);
  } catch (error) {
    say(error.message, true);
  }
}

/** Return bars of the most probable classes. */
export function bars(top) {
  return h("div", { class: "bars", role: "list" }, top.map((item) => {
    const bar = h("span");
    bar.style.width = `${100 * item.confidence}%`;
    return [h("span", { class: "name", role: "listitem" }, item.class), h("span", { class: "bar", "aria-hidden": "true" }, bar), h("span", {}, percent(item.confidence))];
  }));
}

/** Return a canvas with what the model saw, and over it where it looked, as strong as `opacity` (0 to 1). */
export function attentionCanvas(result) {
  const canvas = h("canvas", { role: "img", "aria-label": `What the model saw of ${result.file}, brighter where it looked` });
  const image = new Image();
  const data = Uint8Array.from(atob(result.input), (letter) => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([data], { type: "image/png" }));
  let opacity = 0.6;
  const draw = () => {
    if (!image.naturalWidth) return;
    const scale = Math.max(1, Math.ceil(256 / Math.max(image.naturalWidth, image.naturalHeight)));
    canvas.width = image.naturalWidth * scale;
    canvas.height = image.naturalHeight * scale;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const rows = result.attention;
    const most = Math.max(...rows.flat());
    rows.forEach((row, y) => row.forEach((value, x) => {
      // Where the model did not look is darkened, so that colors stay those of the picture.
      pen.fillStyle = `rgb(10 12 40 / ${opacity * (1 - value / most)})`;
      const [left, top] = [Math.round((x * canvas.width) / row.length), Math.round((y * canvas.height) / rows.length)];
      const right = Math.round(((x + 1) * canvas.width) / row.length);
      const bottom = Math.round(((y + 1) * canvas.height) / rows.length);
      pen.fillRect(left, top, right - left, bottom - top);
    }));
  };
  image.addEventListener("load", () => { draw(); URL.revokeObjectURL(url); });
  image.src = url;
  return { canvas, set(value) { opacity = value; draw(); } };
}

/** Return a slider for the strength of the overlay. */
export function opacitySlider(overlay) {
  const input = h("input", { type: "range", min: "0", max: "1", step: "0.05", value: "0.6", "aria-label": "Strength of the attention overlay" });
  input.addEventListener("input", () => overlay.set(Number(input.value)));
  return h("label", { class: "row hint" }, "attention", input);
}

/** Open an image; the buttons and the arrow keys go to those beside it. */
function openImage(run, rows, first) {
  let place = first;
  const step = (by, label) => h("button", { type: "button", on: { click: () => go(by) } }, label);
  const [back, forth] = [step(-1, "← Previous"), step(1, "Next →")];
  const content = h("div");
  const { dialog, heading } = openDialog("", content, h("div", { class: "row" }, back, forth, h("span", { class: "hint" }, "or the arrow keys")));
  const draw = () => {
    heading.textContent = rows[place].image;
    fill(content, describeImage(run, rows[place]));
    [back.disabled, forth.disabled] = [place === 0, place === rows.length - 1];
    // A disabled button swallows the arrow keys.
    if (document.activeElement.disabled || !dialog.contains(document.activeElement)) dialog.focus();
  };
  const go = (by) => {
    if (!rows[place + by]) return;
    place += by;
    draw();
  };
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.target.type !== "range") go(by);
  });
  draw();
}

/** Return an image, whether it is right, and, once they are computed, where the model looked and its answer. */
function describeImage(run, row) {
  const picture = h("figure", {}, openPicture(run, row), h("figcaption", {}, "the test image"));
  const seen = h("div", { class: "seen" }, h("p", { class: "hint" }, "Computing …"));
  explain(run, row, seen);
  const verdict = row.correct ? h("p", { class: "right-answer" }, `✓ right: ${row.class}`) : h("p", { class: "wrong-answer" }, `✗ true ${row.class}, predicted ${row.predicted}`);
  return [verdict, h("div", { class: "pair" }, picture, seen)];
}

function openPicture(run, row) {
  const picture = h("img", { src: pictureOf(run, row.index, 512), alt: `Test image ${row.image}`, width: "320", height: "320" });
  picture.addEventListener("error", async () => {
    try {
      await get(`/api/runs/${run}/images/test/${row.index}`);
    } catch (error) { // the sentence that an <img> does not show
      picture.replaceWith(h("p", { class: "error" }, error.message));
    }
  });
  return picture;
}

async function explain(run, row, element) {
  try {
    const result = await get(`/api/runs/${run}/explain/test/${row.index}`);
    const overlay = attentionCanvas(result);
    fill(element, h("figure", {}, overlay.canvas, h("figcaption", {}, "what the model saw, bright where it looked (last layer)")), opacitySlider(overlay), bars(result.top));
  } catch (error) {
    fill(element, h("p", { class: "error" }, error.message));
  }
}

/** Return a browser of all test images: by class, by right or wrong, by confidence, in pages. */
export function browser(run, classes) {
  const state = { true: "", predicted: "", correct: "false", order: "confident", page: 1, size: 48 };
  const images = h("div");
  const shown = h("p", { role: "status" });
  const pages = h("div", { class: "row" });
  const choose = (name, label, options) => {
    const select = h("select", { "aria-label": label }, options.map(([value, text]) => h("option", { value, selected: state[name] === value }, text)));
    select.addEventListener("change", () => { state[name] = select.value; state.page = 1; load(); });
    return h("label", { class: "row hint" }, label, select);
  };
  const named = [["", "any"], ...classes.map((name) => [name, name])];
  async function load() {
    try {
      const found = await get(`/api/runs/${run}/predictions`, state);
      shown.textContent = plural(found.total, "image");
      fill(images, found.total ? grid(run, found.rows) : h("p", {}, "No image matches."));
      const turn = (label, to) => h("button", { type: "button", disabled: to < 1 || to > found.pages, on: { click: () => { state.page = to; load(); } } }, label);
      fill(pages, found.pages > 1 ? [turn("Previous", found.page - 1), `page ${found.page} of ${found.pages}`, turn("Next", found.page + 1)] : null);
    } catch (error) {
      fill(images, h("p", { class: "error" }, error.message));
    }
  }
  load();
  return h("div", {}, h("div", { class: "row" },
    choose("correct", "show", [["", "all"], ["false", "wrong ones"], ["true", "right ones"]]), choose("true", "true class", named), choose("predicted", "predicted", named),
    choose("order", "order", [["confident", "most confident first"], ["unsure", "least confident first"]])), shown, images, pages);
}
