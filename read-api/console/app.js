// Matchbook's console: plain modules, no build step, no other hosts.

import { get, setToken, token } from "./api.js";
import { count, setText } from "./dom.js";
import { Experiments } from "./experiments.js";
import { JobList } from "./jobs.js";
import { JobView } from "./job.js";
import { Matching } from "./matching.js";
import { Models } from "./models.js";
import { Operations } from "./operations.js";
import { Pools, showGameService } from "./pools.js";
import { Search } from "./search.js";
import { Users } from "./user.js";
import { WhatIf } from "./what-if.js";

const STATUS_MS = 2000;
const byId = (id) => document.getElementById(id);
const main = byId("main");
let view = null;
let shownSection = null;
let wasRouted = false;

function showError(error) {
  const text = error.status === 401
    ? "The server requires credentials: press Token and paste one."
    : error.status ? error.message : "The server does not respond. Retrying every two seconds.";
  setText(byId("jobs-notice"), text);
}

const jobs = new JobList({ onError: showError, onLoaded: (items) => view?.notice(items.find((job) => job.id === view.id)) });

const pools = new Pools();
const operations = new Operations();
const search = new Search(byId("search-panel"));
const matching = new Matching(byId("matching-panel"));
const models = new Models(byId("models-panel"));
const users = new Users(byId("users-panel"));
const experiments = new Experiments(byId("experiments-panel"));
const whatIf = new WhatIf(byId("what-if-panel"));
const SECTIONS = { pools: "Pools", search: "Search", matching: "Matching", models: "Models", users: "Users", experiments: "Experiments", "what-if": "What if", operations: "Operations" };

/** Shows jobs and pools, or one section; the list of jobs stays visible beside an open job. `rest` is the address after its name. */
function section(name, rest = "") {
  const isOther = shownSection !== name;
  shownSection = name;
  for (const panel of main.querySelectorAll("[data-in]")) panel.hidden = !panel.dataset.in.split(" ").includes(name);
  const of = (other, params) => (name === other ? params : null);
  operations.show(name === "operations");
  search.show(of("search", new URLSearchParams(rest.replace(/^\?/, ""))));
  matching.show(of("matching", { id: decoded(rest) }));
  models.show(name === "models");
  users.show(of("users", { user: decoded(rest) }));
  experiments.show(name === "experiments");
  whatIf.show(of("what-if", { id: rest || null }));
  // Keyboards and screen readers continue at the new content.
  if (isOther && wasRouted) byId(`${name}-title`)?.focus({ preventScroll: false });
  wasRouted = true;
  for (const link of document.querySelectorAll(".sections a")) {
    if (link.dataset.section === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** A part of an address; as it is, if it is not encoded. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function route() {
  const id = location.hash.match(/^#\/jobs\/([0-9a-fA-F-]{36})$/)?.[1] ?? null;
  view?.close();
  view = null;
  main.classList.toggle("has-detail", id !== null);
  jobs.select(id);
  const [, name = "all", rest] = location.hash.match(/^#\/(jobs|pools|search|matching|models|users|experiments|what-if|operations)(?:\/|(?=\?)|$)(.*)$/) ?? [];
  section(id !== null ? "jobs" : name, rest);
  if (id === null) {
    document.title = SECTIONS[name] ? `${SECTIONS[name]} · Matchbook` : "Matchbook";
    return;
  }
  document.title = "Job · Matchbook";
  view = new JobView(byId("detail"), id, { onError: showError });
  view.open();
  // Keyboards and screen readers continue at the new content.
  byId("detail-title")?.focus({ preventScroll: false });
}

/** The paths that these credentials may not read; requested once and then skipped. */
const forbidden = new Set();

async function getIfAllowed(path) {
  if (forbidden.has(path)) return null;
  try {
    return await get(path);
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) throw error;
    forbidden.add(path);
    return null;
  }
}

async function refreshStatus() {
  const dot = byId("health-dot");
  try {
    const ready = await get("/ready", { accept: [503] });
    dot.dataset.state = ready.ready ? "good" : "bad";
    const failed = ready.checks.filter((check) => !check.ok).map((check) => check.name);
    setText(byId("health"), ready.ready ? "ready" : `not ready: ${failed.join(", ")}`);
    const [status, workers, retries] = await Promise.all([getIfAllowed("/status"), getIfAllowed("/internal/workers"), getIfAllowed("/internal/retries")]);
    if (status) showStatus(status);
    showGameService(byId("game-service"), retries?.breakers);
    const present = workers?.items.filter((worker) => worker.presence === "present").length;
    setText(byId("workers"), workers ? `${count(present)} present` : "–");
  } catch {
    dot.dataset.state = "bad";
    setText(byId("health"), "not reachable");
  }
}

function showStatus(status) {
  byId("open-mode").hidden = status.access !== "open";
  setText(byId("head"), count(status.log.head));
  const stopped = status.projections.filter((projection) => ["stopped", "retrying"].includes(projection.state));
  const behind = Math.max(0, ...status.projections.map((projection) => projection.lag_events));
  const text = stopped.length > 0 ? stopped.map((projection) => `${projection.name} ${projection.state}`).join(", ") : behind === 0 ? "up to date" : `${count(behind)} events behind`;
  setText(byId("lag"), text);
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
    forbidden.clear();
    refreshStatus();
    jobs.load();
    pools.start();
    route();
  });
}

const json = "-H 'Content-Type: application/json'";

function commands() {
  showCommand("first-command", "copy", `curl -X POST ${location.origin}/jobs \\\n  ${json} \\\n  -d '{"name": "my first job"}'`);
  const queue = `curl -X POST ${location.origin}/v1/matchmaking/queue ${json}`;
  showCommand("queue-command", "copy-queue", ["ann", "bob"].map((user) => `${queue} \\\n  -H 'X-User: ${user}' -d '{"pool_key": "blitz"}'`).join("\n"));
}

/** Shows a command with a button that copies it. */
function showCommand(id, button, text) {
  byId(id).textContent = text;
  byId(button).addEventListener("click", async (event) => {
    try {
      await navigator.clipboard.writeText(text);
      setText(event.target, "Copied");
    } catch {
      getSelection().selectAllChildren(byId(id));
      setText(event.target, "Press Ctrl+C");
    }
  });
}

tokens();
commands();
addEventListener("hashchange", route);
route();
jobs.start();
pools.start();
refreshStatus();
setInterval(() => document.hidden || refreshStatus(), STATUS_MS);
