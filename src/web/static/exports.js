// Exports of a run: its files, how closely they agree, and a form that writes more of them.

import { get, post, repeat } from "./api.js";
import { bytes, copyable, count, fill, h, page, percent, scroll, showProblem, table } from "./dom.js";

/** Return the block for a run; found: what the server knows about its exports. */
export function exportsOf(run, found) {
  const result = h("div");
  const draw = (now) => fill(result, now.outdated ? h("p", { class: "warning" }, now.outdated) : null, files(now.files), agreement(now.agreement));
  draw(found);
  const told = page.readOnly ? null : h("p", {}, "Write the model for other programs, each file checked on test images.");
  return [told, result, page.readOnly || !found.possible ? null : form(run, found, draw)];
}

function files(list) {
  if (!list.length) return h("p", { class: "hint" }, "Nothing has been exported yet.");
  return scroll("Exported files", h("table", {}, h("tbody", {}, list.map((file) =>
    h("tr", {}, h("td", {}, h("a", { href: file.url, download: "" }, file.name)), h("td", { class: "right" }, bytes(file.bytes)))))));
}

function agreement(rows) {
  if (!rows.length) return null;
  const columns = ["format", "checked on images", "largest difference of a probability", "same class"];
  const cells = (row) => [row.format, count(row.images), row.difference ? row.difference.toExponential(1) : (row.difference ?? ""), percent(row.same)];
  return [h("h3", {}, "How closely they agree with the run"), scroll("Agreement of the exports", table(columns, rows.map(cells), columns.slice(1)))];
}

function form(run, found, draw) {
  const boxes = found.formats.map((format) => h("input", { type: "checkbox", value: format.name, disabled: Boolean(format.missing), checked: format.name === "timm" && !format.missing }));
  const command = copyable("");
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  const state = h("div", { "aria-live": "polite" });
  const button = h("button", { type: "submit" }, "Export");
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const show = () => {
    command.querySelector("code").textContent = `${found.command} 'formats=[${chosen().join(",")}]'`;
    button.disabled = !chosen().length;
  };
  const follow = (start) => {
    button.disabled = true;
    fill(state, h("p", { class: "hint" }, "Exporting …"), h("pre", { class: "log short", tabindex: "0", "aria-label": "What the export prints" }));
    repeat(async () => {
      let now;
      try {
        now = await get(`/api/starts/${start.id}`);
      } catch (error) {
        if (error.status === 404) {
          state.querySelector("p").textContent = "The server has been restarted, so how the export went is not known here: open this page again to see the files.";
          show();
          return null;
        }
        state.querySelector("p").textContent = `Exporting, as far as is known. ${error.message}`;
        return 3;
      }
      if (now.state !== "ended") state.querySelector("p").textContent = "Exporting …";
      state.querySelector("pre").textContent = now.output || "…";
      if (now.state !== "ended") return 0.7;
      state.querySelector("p").textContent = now.error ? "The export failed; nothing was written." : "Exported.";
      showProblem(problem, now.error);
      show();
      await get(`/api/runs/${run.id}/exports`).then(draw, (error) => showProblem(problem, error.message));
      return null;
    });
  };
  const submit = async (event) => {
    event.preventDefault();
    showProblem(problem, "");
    button.disabled = true;
    try {
      follow(await post(`/api/runs/${run.id}/exports`, { formats: chosen() }));
    } catch (error) {
      showProblem(problem, error.message);
      show();
    }
  };
  show();
  if (found.started && found.started.state !== "ended") follow(found.started);
  return h("form", { on: { submit, change: show } }, h("fieldset", { class: "choices" }, h("legend", {}, "Formats"), found.formats.map((format, place) => choice(format, boxes[place]))), command, problem, h("div", { class: "row" }, button), state);
}

function choice(format, box) {
  const hint = format.missing ? `${format.text}; ${format.missing}` : format.text;
  return h("label", { class: "check" }, box, h("span", {}, h("strong", {}, format.name), " ", h("span", { class: "hint" }, hint)));
}
