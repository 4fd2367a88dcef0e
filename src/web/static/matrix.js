// The confusion matrix, whose cells open their images. Only cells that are not zero are elements, so that a thousand
// classes do not freeze the page. Arrow keys go from cell to cell.

import { h } from "./dom.js";
import { openGallery } from "./gallery.js";

const COUNTED = 25; // classes up to which cells show their counts

/** Return the matrix of a run. */
export function confusionMatrix(run, matrix) {
  const { classes, cells, totals } = matrix;
  const buttons = new Map();
  for (const [truth, guess, number] of cells) buttons.set(`${truth} ${guess}`, cellButton(run, classes, truth, guess, number, totals[truth]));
  const list = cells.map(([truth, guess]) => ({ truth, guess, button: buttons.get(`${truth} ${guess}`) }));
  if (list.length) list[0].button.tabIndex = 0;
  const body = classes.length <= COUNTED ? smallTable(classes, buttons) : plane(classes, list);
  const axis = "Rows: the true class. Columns: the predicted class. A cell opens its images.";
  const said = h("p", { class: "hint said", "aria-hidden": "true" }, axis); // screen readers get the labels of the cells
  const element = h("div", { class: "matrix", role: "group", "aria-label": `Confusion matrix. ${axis}` }, body);
  element.addEventListener("keydown", (event) => move(event, list));
  for (const name of ["focusin", "mouseover"]) {
    element.addEventListener(name, (event) => { said.textContent = event.target.closest("button")?.title ?? axis; });
  }
  return h("div", {}, said, element);
}

function cellButton(run, classes, truth, guess, number, total) {
  const share = number / Math.max(1, total);
  const title = truth === guess ? `${classes[truth]}: ${number} right of ${total}` : `true ${classes[truth]}, predicted ${classes[guess]}: ${number} of ${total}`;
  const open = () => openGallery(run, title, { true: classes[truth], predicted: classes[guess] });
  const button = h("button", { type: "button", tabindex: "-1", title, "aria-label": title, on: { click: open } });
  if (classes.length <= COUNTED) button.textContent = number;
  const kind = truth === guess ? "heat" : "miss";
  button.classList.add(kind);
  // Two ranges, in each of which the text has enough contrast.
  const strong = share >= 0.5;
  const part = (classes.length <= COUNTED ? 10 : 30) + 50 * share; // small cells need more color to be seen
  button.style.backgroundColor = strong ? `var(--${kind}-strong)` : `color-mix(in srgb, var(--${kind}) ${part}%, var(--surface))`;
  button.style.color = strong ? "#fff" : "var(--ink)";
  return button;
}

function smallTable(classes, buttons) {
  const head = h("tr", {}, h("td"), classes.map((name) => h("th", { scope: "col", title: name }, h("span", {}, name))));
  const rows = classes.map((name, truth) => h("tr", {}, h("th", { scope: "row", title: name }, name),
    classes.map((_, guess) => h("td", {}, buttons.get(`${truth} ${guess}`) ?? ""))));
  return h("table", {}, h("thead", {}, head), h("tbody", {}, rows));
}

function plane(classes, list) {
  const side = Math.max(6, Math.min(18, Math.floor(900 / classes.length)));
  const element = h("div", { class: "plane" });
  element.style.width = element.style.height = `${side * classes.length}px`;
  for (const { truth, guess, button } of list) {
    Object.assign(button.style, { left: `${side * guess}px`, top: `${side * truth}px`, width: `${side}px`, height: `${side}px` });
    element.append(button);
  }
  return element;
}

/** Move the focus to the next cell in the direction of an arrow key. */
function move(event, list) {
  const here = list.findIndex((cell) => cell.button === document.activeElement);
  if (here < 0 || !event.key.startsWith("Arrow")) return;
  event.preventDefault();
  const { truth, guess } = list[here];
  const vertical = ["ArrowUp", "ArrowDown"].includes(event.key);
  const sign = ["ArrowUp", "ArrowLeft"].includes(event.key) ? -1 : 1;
  const distance = (cell) => (vertical ? [sign * (cell.truth - truth), Math.abs(cell.guess - guess)] : [sign * (cell.guess - guess), Math.abs(cell.truth - truth)]);
  const ahead = list.map((cell) => [cell, ...distance(cell)]).filter(([, along]) => along > 0);
  // Along the row or column first, then the nearest one beside it.
  ahead.sort((a, b) => 1000 * a[2] + a[1] - (1000 * b[2] + b[1]));
  const next = ahead[0]?.[0];
  if (!next) return;
  list[here].button.tabIndex = -1;
  next.button.tabIndex = 0;
  next.button.focus();
}
