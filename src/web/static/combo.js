// A text field for a folder of the server's machine, which completes paths: arrow keys and Enter, or the mouse.

import { get } from "./api.js";
import { fill, h } from "./dom.js";

/** Return the input with its list; onChange is called with each new path. */
export function folderInput(id, onChange) {
  const list = h("ul", { id: `${id}-list`, role: "listbox", "aria-label": "Folders", hidden: true });
  const input = h("input", {
    id, type: "text", role: "combobox", "aria-expanded": "false", "aria-controls": `${id}-list`, "aria-autocomplete": "list",
    placeholder: "photos, or a whole path", spellcheck: "false", autocomplete: "off",
  });
  const note = h("p", { class: "hint", role: "status" });
  let folders = [];
  let chosen = -1;
  let asked = 0;

  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); chosen = -1; };
  const draw = () => {
    fill(list, folders.map((folder, place) => h("li", { id: `${id}-${place}`, role: "option", "aria-selected": String(place === chosen), on: { mousedown: (event) => { event.preventDefault(); take(folder.path); } } }, folder.name)));
    list.hidden = !folders.length;
    input.setAttribute("aria-expanded", String(folders.length > 0));
    if (chosen >= 0) {
      input.setAttribute("aria-activedescendant", `${id}-${chosen}`);
      list.children[chosen].scrollIntoView({ block: "nearest" });
    }
  };
  const look = async () => {
    const number = (asked += 1);
    try {
      const found = await get("/api/folders", { path: input.value });
      if (number !== asked) return;
      // What is typed may be half a name: then the folder above is the one that is listed.
      folders = found.parent && input.value.endsWith("/") ? [{ name: "../ (up)", path: found.parent }, ...found.folders] : found.folders;
      chosen = -1;
      const inside = found.folders.length;
      note.textContent = found.error ?? (input.value && found.path ? describe(found, inside) : "");
      if (document.activeElement === input) draw();
    } catch (error) {
      if (number === asked) { note.textContent = error.message; folders = []; close(); }
    }
  };
  const take = (path) => {
    input.value = path.endsWith("/") ? path : `${path}/`;
    onChange(path);
    look();
  };
  input.addEventListener("input", () => { onChange(input.value.trim()); look(); });
  input.addEventListener("focus", look);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !list.hidden) { event.preventDefault(); close(); }
    if (list.hidden) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      chosen = (chosen + step + folders.length) % folders.length;
      draw();
    } else if (event.key === "Enter" && chosen >= 0) {
      event.preventDefault();
      take(folders[chosen].path);
    }
  });
  const element = h("div", {}, h("div", { class: "combo" }, input, list), note);
  return { element, input };
}

function describe(found, inside) {
  if (found.images) return `${found.images} images directly in it; each class needs a folder of its own`;
  return inside ? `${inside} folders in it: each becomes a class, unless they are called train, val and test` : "no folders in it";
}
