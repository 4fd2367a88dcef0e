// Line charts by uPlot, which draws on a canvas: so the values are also in a table below it.
/* global uPlot */

import { fill, h, scroll, table } from "./dom.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const COLORS = ["--accent", "--second", "--third", "--bad", "--warn", "--muted", "--good", "--ink"];
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A chart of lines over epochs, which is drawn again when its values or the colors change. */
export class Chart {
  /** format: a value as text; lines: at most how many; the legend shows the values under the mouse. */
  constructor(title, format, { log = false } = {}) {
    this.format = format;
    this.log = log;
    this.plot = h("div", { class: "plot" });
    this.values = h("div");
    const details = h("details", { on: { toggle: () => this.fillTable() } }, h("summary", {}, "Values as a table"), this.values);
    this.element = h("section", { class: "chart", "aria-label": title }, h("h3", {}, title), this.plot, details);
    this.details = details;
    this.title = title;
    this.labels = [];
    this.data = [[]];
    this.chart = null;
    dark.addEventListener("change", () => this.build());
    this.build();
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  /** Show these columns: x values, then one array for each label, with null where there is no value. */
  show(labels, data) {
    const same = this.chart && labels.join("\n") === this.labels.join("\n");
    this.labels = labels;
    this.data = data;
    if (same) this.chart.setData(data);
    else this.build();
    if (this.details.open) this.fillTable();
  }

  build() {
    if (this.chart) this.chart.destroy();
    this.chart = null;
    const empty = !this.labels.length || !this.data[0].length;
    fill(this.plot, empty ? h("p", { class: "hint" }, "No epoch is done yet.") : null);
    if (empty || !this.plot.clientWidth) return;
    const axis = () => ({ stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } });
    const show = (_, value) => (value === null || value === undefined ? "–" : this.format(value));
    const options = {
      width: this.plot.clientWidth,
      height: 240,
      scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 0.5, high + 0.5] : [low, high]) }, y: this.log ? { distr: 3 } : {} },
      axes: [{ ...axis(), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis(), size: 64, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : this.format(tick))) }],
      series: [{ label: "epoch" }, ...this.labels.map((label, place) => ({
        label,
        stroke: color(COLORS[place % COLORS.length]),
        width: 2,
        dash: place % 2 ? [6, 3] : [],
        points: { show: this.data[0].length < 40, size: 5 },
        value: show,
      }))],
    };
    this.chart = new uPlot(options, this.data, this.plot);
    if (this.labels.length > 1) this.openLegend();
  }

  /** Let the keyboard hide and show lines too; uPlot itself listens to clicks on the legend. */
  openLegend() {
    this.plot.querySelectorAll(".u-series").forEach((row, place) => {
      if (place === 0) return; // the epoch
      const label = row.querySelector(".u-label");
      const tell = () => label.setAttribute("aria-pressed", String(this.chart.series[place].show));
      label.tabIndex = 0;
      label.setAttribute("role", "button");
      label.title = "Hide or show this line";
      label.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        label.click();
      });
      row.addEventListener("click", () => setTimeout(tell));
      tell();
    });
  }

  resize() {
    if (!this.chart) this.build();
    else if (this.chart.width !== this.plot.clientWidth) this.chart.setSize({ width: this.plot.clientWidth, height: 240 });
  }

  fillTable() {
    const [epochs, ...columns] = this.data;
    const rows = epochs.map((epoch, place) => [
      String(epoch), ...columns.map((column) => (column[place] === null || column[place] === undefined ? "" : this.format(column[place]))),
    ]);
    fill(this.values, scroll(`${this.title}, values`, table(["epoch", ...this.labels], rows.reverse(), ["epoch", ...this.labels])));
  }
}

/** Return x values and columns for curves that have epochs of their own. */
export function alignCurves(curves) {
  const epochs = [...new Set(curves.flatMap((curve) => curve.epoch))].sort((a, b) => a - b);
  const columns = curves.map((curve) => {
    const known = new Map(curve.epoch.map((epoch, place) => [epoch, curve.val_acc[place]]));
    return epochs.map((epoch) => known.get(epoch) ?? null);
  });
  return [epochs, ...columns];
}

/** Return a small curve without axes. */
export function sparkline(values) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  if (values.length > 1) {
    const low = Math.min(...values);
    const range = Math.max(...values) - low || 1;
    const line = document.createElementNS(space, "polyline");
    const place = (value, index) => `${(100 * index) / (values.length - 1)},${22 - (20 * (value - low)) / range}`;
    line.setAttribute("points", values.map(place).join(" "));
    svg.append(line);
  }
  return svg;
}
