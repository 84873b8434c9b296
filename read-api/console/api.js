// Talking to the server: JSON with conditional requests, and the live stream.

const TOKEN_KEY = "matchbook.token";
const KEPT_ANSWERS_MAX = 200;
const RETRY_MS = 3000;
const kept = new Map();

export const token = () => sessionStorage.getItem(TOKEN_KEY);

export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN_KEY, text);
  else sessionStorage.removeItem(TOKEN_KEY);
  kept.clear();
}

function headers(more = {}) {
  return token() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

/** The server's refusal, with its problem document. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `the server answered ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

/**
 * GETs JSON. An unchanged answer costs a 304 and is the same object as before; times that still run do not change it, so
 * whoever shows these asks for a `fresh` one.
 */
export async function get(path, { accept = [], fresh = false } = {}) {
  const before = fresh ? null : kept.get(path);
  const more = { Accept: "application/json" };
  if (before) more["If-None-Match"] = before.etag;
  const response = await fetch(path, { headers: headers(more), cache: "no-store" });
  if (response.status === 304 && before) return before.body;
  const body = await response.json().catch(() => ({}));
  if (!response.ok && !accept.includes(response.status)) throw new Refused(response.status, body);
  const etag = response.headers.get("ETag");
  if (etag) {
    kept.delete(path);
    kept.set(path, { etag, body });
    if (kept.size > KEPT_ANSWERS_MAX) kept.delete(kept.keys().next().value);
  }
  return body;
}

/**
 * Follows a stream of server-sent events until it says that it ended. `onEvent(name, data)` gets each event, `onState` one
 * of `live`, `waiting`, `ended`. Answers a function that stops it. Read by `fetch`: an EventSource can send no token, and
 * never comes back after an answer such as 503, which a server that starts again gives for a while.
 */
export function follow(path, onEvent, onState) {
  const stop = new AbortController();
  let lastId = null;
  const run = async () => {
    while (!stop.signal.aborted) {
      try {
        const more = { Accept: "text/event-stream" };
        if (lastId !== null) more["Last-Event-ID"] = lastId;
        const response = await fetch(path, { headers: headers(more), signal: stop.signal, cache: "no-store" });
        if (response.status === 204) return onState("ended");
        if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
        onState("live");
        const ended = await readEvents(response.body, (event) => {
          if (event.id) lastId = event.id;
          onEvent(event.name, JSON.parse(event.data));
          return event.name === "stream_ended";
        });
        if (ended) return onState("ended");
      } catch (error) {
        if (stop.signal.aborted) return;
        const isFinal = error instanceof Refused && error.status < 500 && error.status !== 429;
        if (isFinal) return onState("ended");
      }
      onState("waiting");
      await new Promise((wake) => setTimeout(wake, RETRY_MS));
    }
  };
  run();
  return () => stop.abort();
}

/** Reads events off a body until `take` answers true or the body ends. */
async function readEvents(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return false;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = { name: "message", data: "", id: null };
      for (const line of block.split("\n")) {
        const [field, rest] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
        if (field === "event") event.name = rest;
        else if (field === "id") event.id = rest;
        else if (field === "data") event.data += rest;
      }
      if (event.data && take(event)) {
        reader.cancel();
        return true;
      }
    }
  }
}
