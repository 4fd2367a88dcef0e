// The API as /openapi.json describes it: readable without anything from elsewhere.

import { get } from "./api.js";
import { copyable, fill, find, h, say } from "./dom.js";

function describeParameter(parameter) {
  const { schema } = parameter;
  const kind = schema.type ?? schema.anyOf?.map((part) => part.type).filter((type) => type !== "null").join(" or ") ?? "";
  const standard = schema.default === undefined ? "" : `, default ${JSON.stringify(schema.default)}`;
  return h("li", {}, h("code", {}, parameter.name), ` (${parameter.in}, ${kind}${standard}${parameter.required ? ", required" : ""}) ${parameter.description ?? ""}`);
}

/** Return the fields of a JSON body: name, type, default. */
function describeBody(operation, schemas) {
  const reference = operation.requestBody?.content?.["application/json"]?.schema?.$ref;
  const schema = reference ? schemas[reference.split("/").pop()] : null;
  return Object.entries(schema?.properties ?? {}).map(([name, field]) =>
    describeParameter({ name, in: "body", schema: field, required: schema.required?.includes(name), description: field.description }));
}

function example(method, path, operation) {
  const url = `${location.origin}${path.replaceAll(/\{(\w+)(:path)?\}/g, (_, name) => name.toUpperCase())}`;
  if (method === "get") return `curl '${url}'`;
  const kinds = Object.keys(operation.requestBody?.content ?? {});
  if (kinds.includes("multipart/form-data")) return `curl -F files=@cat.jpg '${url}?run=best'`;
  if (path === "/invocations") return `curl --data-binary @cat.jpg '${url}'`;
  if (!kinds.length) return `curl -X POST '${url}'`;
  return `curl -H 'Content-Type: application/json' -d '{"words": ["model=vit_nano", "training.epochs=5"]}' '${url}'`;
}

function draw(path, method, operation, schemas) {
  const inputs = [...(operation.parameters ?? []).map(describeParameter), ...describeBody(operation, schemas)];
  const result = h("pre", { class: "log short", tabindex: "0", "aria-label": "Answer", hidden: true });
  const simple = method === "get" && !path.includes("{") && operation.responses["200"]?.content?.["application/json"] && !operation.parameters?.some((parameter) => parameter.required);
  const attempt = h("button", { type: "button", class: "small" }, "Try it");
  attempt.addEventListener("click", async () => {
    result.hidden = false;
    try {
      result.textContent = JSON.stringify(await get(path), null, 2).slice(0, 20000);
    } catch (error) {
      result.textContent = error.message;
    }
  });
  return h("div", { class: "operation" }, h("h3", {}, h("span", { class: "method" }, method.toUpperCase()), h("code", {}, path)), h("p", {}, operation.summary),
    inputs.length ? h("ul", {}, inputs) : null,
    copyable(example(method, path, operation)), simple ? attempt : null, result);
}

async function load() {
  try {
    const { paths, components } = await get("/openapi.json");
    const groups = new Map();
    for (const [path, operations] of Object.entries(paths)) {
      for (const [method, operation] of Object.entries(operations)) {
        const name = operation.tags?.[0] ?? "other";
        groups.set(name, [...(groups.get(name) ?? []), draw(path, method, operation, components?.schemas ?? {})]);
      }
    }
    const titles = { predict: "Predict", runs: "Runs", train: "Train" };
    fill(find("operations"), Object.entries(titles).map(([name, title]) => [h("h2", {}, title), groups.get(name) ?? []]));
  } catch (error) {
    say(error.message, true);
  }
}
load();
