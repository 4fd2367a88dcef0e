// Questions to the server. What goes wrong is an ApiError with a sentence for people and the key to change.

export class ApiError extends Error {
  constructor(message, key, status) {
    super(message);
    this.key = key;
    this.status = status;
  }
}

async function ask(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new ApiError("The server is not responding: start it again with python inference.py task=serve. Training goes on without it.", null, 0);
  }
  const text = await answer.text();
  let value = {};
  try {
    value = JSON.parse(text);
  } catch {
    throw new ApiError(`The server gave an unexpected answer (${answer.status}).`, null, answer.status);
  }
  if (!answer.ok) throw new ApiError(value.error ?? `error ${answer.status}`, value.key ?? null, answer.status);
  return value;
}

/** Return an address with a query, of which empty values are left out. */
export function address(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") words.append(name, item);
    }
  }
  const text = words.toString();
  return text ? `${path}?${text}` : path;
}

export const get = (path, query = {}) => ask(address(path, query));
export const post = (path, body = {}) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export const upload = (path, form) => ask(path, { method: "POST", body: form });

/** Call an async function again and again; it returns the seconds until the next time, or null to end. */
export function repeat(work) {
  let timer = null;
  let ended = false;
  const turn = async () => {
    if (ended) return;
    const seconds = document.hidden ? 2 : await work();
    if (seconds !== null) timer = setTimeout(turn, 1000 * seconds);
  };
  turn();
  return () => { ended = true; clearTimeout(timer); };
}
