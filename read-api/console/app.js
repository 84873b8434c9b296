// Matchbook's console: plain modules, no build step, nothing from another host.

import { get, setToken, token } from "./api.js";
import { count, say } from "./dom.js";
import { JobList } from "./jobs.js";
import { JobView } from "./job.js";
import { Pools, showGameService } from "./pools.js";

const STRIP_MS = 2000;
const byId = (id) => document.getElementById(id);
const main = byId("main");
let view = null;

function showError(error) {
  const text = error.status === 401
    ? "The server has keys: press Token and paste one."
    : error.status ? error.message : "The server does not answer. It is asked again every two seconds.";
  say(byId("jobs-notice"), text);
}

const jobs = new JobList({ onError: showError, onLoaded: (items) => view?.notice(items.find((job) => job.id === view.id)) });

const pools = new Pools();

/** All sections, or one of them; with a job open, the list of jobs beside it. */
function section(name) {
  main.dataset.section = name;
  for (const link of document.querySelectorAll(".sections a")) {
    if (link.dataset.section === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function route() {
  const id = location.hash.match(/^#\/jobs\/([0-9a-fA-F-]{36})$/)?.[1] ?? null;
  view?.close();
  view = null;
  main.classList.toggle("has-detail", id !== null);
  jobs.select(id);
  section(id !== null ? "jobs" : location.hash.match(/^#\/(jobs|pools)$/)?.[1] ?? "all");
  if (id === null) {
    document.title = main.dataset.section === "pools" ? "Pools · Matchbook" : "Matchbook";
    return;
  }
  document.title = "Job · Matchbook";
  view = new JobView(byId("detail"), id, { onError: showError });
  view.open();
  // A keyboard or screen reader goes on where the new content is.
  byId("detail-title")?.focus({ preventScroll: false });
}

/** What these credentials may not read; asked for once and then left out. */
const refused = new Set();

async function allowed(path) {
  if (refused.has(path)) return null;
  try {
    return await get(path);
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) throw error;
    refused.add(path);
    return null;
  }
}

async function strip() {
  const dot = byId("health-dot");
  try {
    const ready = await get("/ready", { accept: [503] });
    dot.dataset.state = ready.ready ? "good" : "bad";
    const open = ready.checks.filter((check) => !check.ok).map((check) => check.name);
    say(byId("health"), ready.ready ? "ready" : `not ready: ${open.join(", ")}`);
    const [status, workers, retries] = await Promise.all([allowed("/status"), allowed("/internal/workers"), allowed("/internal/retries")]);
    if (status) showStatus(status);
    showGameService(byId("game-service"), retries?.breakers);
    const present = workers?.items.filter((worker) => worker.presence === "present").length;
    say(byId("workers"), workers ? `${count(present)} present` : "–");
  } catch {
    dot.dataset.state = "bad";
    say(byId("health"), "not reachable");
  }
}

function showStatus(status) {
  byId("open-mode").hidden = status.access !== "open";
  say(byId("head"), count(status.log.head));
  const stopped = status.projections.filter((projection) => projection.state === "stopped");
  const behind = Math.max(0, ...status.projections.map((projection) => projection.lag_events));
  const text = stopped.length > 0 ? `${stopped.map((projection) => projection.name).join(", ")} stopped` : behind === 0 ? "up to date" : `${count(behind)} events behind`;
  say(byId("lag"), text);
}

function tokens() {
  const dialog = byId("token-dialog");
  byId("token-button").addEventListener("click", () => {
    byId("token-input").value = token() ?? "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "keep") setToken(byId("token-input").value.trim());
    else if (dialog.returnValue === "forget") setToken(null);
    else return;
    refused.clear();
    strip();
    jobs.load();
    pools.start();
    route();
  });
}

const json = "-H 'Content-Type: application/json'";

function commands() {
  offer("first-command", "copy", `curl -X POST ${location.origin}/jobs \\\n  ${json} \\\n  -d '{"name": "my first job"}'`);
  const queue = `curl -X POST ${location.origin}/v1/matchmaking/queue ${json}`;
  offer("queue-command", "copy-queue", ["ann", "bob"].map((user) => `${queue} \\\n  -H 'X-User: ${user}' -d '{"pool_key": "blitz"}'`).join("\n"));
}

/** A command to copy. */
function offer(id, button, text) {
  byId(id).textContent = text;
  byId(button).addEventListener("click", async (event) => {
    try {
      await navigator.clipboard.writeText(text);
      say(event.target, "Copied");
    } catch {
      getSelection().selectAllChildren(byId(id));
      say(event.target, "Press Ctrl+C");
    }
  });
}

tokens();
commands();
addEventListener("hashchange", route);
route();
jobs.start();
pools.start();
strip();
setInterval(() => document.hidden || strip(), STRIP_MS);
