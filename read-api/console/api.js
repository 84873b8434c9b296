// The client of the server's API: JSON with conditional requests, and live streams.

const TOKEN_KEY = "matchbook.token";
const CACHED_RESPONSES_MAX = 200;
const RETRY_MS = 3000;
const cache = new Map();

export const token = () => sessionStorage.getItem(TOKEN_KEY);

export function setToken(text) {
  if (text) sessionStorage.setItem(TOKEN_KEY, text);
  else sessionStorage.removeItem(TOKEN_KEY);
  cache.clear();
}

function headers(more = {}) {
  return token() ? { ...more, Authorization: `Bearer ${token()}` } : more;
}

/** An error response, with its problem document. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || `the server returned status ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

/**
 * GETs JSON. An unchanged response costs a 304 and returns the same object as before. Times that still run do not change
 * the ETag; a caller that shows them passes `fresh`. With `min`, the response reflects at least that position of the log.
 */
export async function get(path, { accept = [], fresh = false, min = null } = {}) {
  const cached = fresh ? null : cache.get(path);
  const more = { Accept: "application/json" };
  if (min !== null) more["X-Min-Position"] = String(min);
  if (cached) more["If-None-Match"] = cached.etag;
  const response = await fetch(path, { headers: headers(more), cache: "no-store" });
  if (response.status === 304 && cached) return cached.body;
  const body = await response.json().catch(() => ({}));
  if (!response.ok && !accept.includes(response.status)) throw new ApiError(response.status, body);
  const etag = response.headers.get("ETag");
  if (etag) {
    cache.delete(path);
    cache.set(path, { etag, body });
    if (cache.size > CACHED_RESPONSES_MAX) cache.delete(cache.keys().next().value);
  }
  return body;
}

async function respond(path, options) {
  const response = await fetch(path, { ...options, cache: "no-store" });
  if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
  return response;
}

/** POSTs a command, or a question that is too long for an address. */
export async function post(path, body) {
  const more = { Accept: "application/json" };
  if (body !== undefined) more["Content-Type"] = "application/json";
  const response = await respond(path, { method: "POST", headers: headers(more), body: body && JSON.stringify(body) });
  return response.json();
}

/** DELETEs a thing. */
export async function remove(path) {
  const response = await respond(path, { method: "DELETE", headers: headers({ Accept: "application/json" }) });
  return response.json();
}

/** GETs an image. */
export async function image(path) {
  const response = await respond(path, { headers: headers({ Accept: "image/*, application/problem+json" }) });
  return response.blob();
}

/** GETs a file into the memory of the page, with the name that the server gives it. */
export async function blob(path) {
  const response = await respond(path, { headers: headers() });
  const name = response.headers.get("Content-Disposition")?.match(/filename="([^"]+)"/)?.[1];
  return { file: await response.blob(), name };
}

/**
 * Subscribes to a stream of server-sent events until it ends. `onEvent(name, data)` gets each event, `onState` one of
 * `live`, `waiting`, `ended`, and the error that ended it. Returns a function that stops it. Uses `fetch`: an EventSource cannot send a token, and does
 * not reconnect after a response such as 503, which a restarting server returns for a while.
 */
export function subscribe(path, onEvent, onState) {
  const stop = new AbortController();
  let lastId = null;
  const run = async () => {
    while (!stop.signal.aborted) {
      try {
        const more = { Accept: "text/event-stream" };
        if (lastId !== null) more["Last-Event-ID"] = lastId;
        const response = await fetch(path, { headers: headers(more), signal: stop.signal, cache: "no-store" });
        if (response.status === 204) return onState("ended");
        if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
        onState("live");
        const ended = await readEvents(response.body, (event) => {
          if (event.id) lastId = event.id;
          onEvent(event.name, JSON.parse(event.data));
          return event.name === "stream_ended";
        });
        if (ended) return onState("ended");
      } catch (error) {
        if (stop.signal.aborted) return;
        const isFinal = error instanceof ApiError && error.status < 500 && error.status !== 429;
        if (isFinal) return onState("ended", error);
      }
      onState("waiting");
      await new Promise((wake) => setTimeout(wake, RETRY_MS));
    }
  };
  run();
  return () => stop.abort();
}

/** Reads events from a body until `take` returns true or the body ends. */
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
