// What an operator looks after: workers, retries with circuit breakers, and read models.

import { get, post } from "./api.js";
import { chip, count, duration, el, instant, loadWhileShown, plural, refill, row, setText, title, words } from "./dom.js";

const POLL_MS = 2000;
const WORKERS_MAX = 500;
/** The job status whose chip colour is used. */
const TONES = {
  present: "running", stopped: "cancelled", lost: "failed", crashed: "failed", out_of_memory: "failed",
  closed: "completed", half_open: "pending", open: "failed",
  live: "completed", catching_up: "running", paused: "pending", retrying: "failed",
};

export class Operations {
  constructor() {
    this.panel = document.getElementById("operations-panel");
    this.notice = document.getElementById("operations-notice");
    this.done = document.getElementById("operations-done");
    this.isShown = false;
    loadWhileShown(this, POLL_MS);
  }

  show(isShown) {
    this.isShown = isShown;
    if (isShown) this.load();
  }

  async load() {
    try {
      const [workers, retries, projections] = await Promise.all([
        get(`/internal/workers?limit=${WORKERS_MAX}`), get("/internal/retries"), get("/internal/projections"),
      ]);
      setText(this.notice, "");
      if (workers !== this.workers) this.showWorkers(workers);
      if (retries !== this.retries) this.showRetries(retries);
      if (projections !== this.projections) this.showProjections(projections);
      Object.assign(this, { workers, retries, projections });
    } catch (error) {
      const text = error.status === 403 ? "These credentials may not see the operations: they need the role admin."
        : error.status === 401 ? "The server requires credentials: press Token and paste one with the role admin." : error.message;
      setText(this.notice, text);
    }
  }

  showWorkers({ items, next_cursor: next }) {
    const order = (worker) => (worker.presence === "present" ? 0 : 1);
    const sorted = [...items].sort((a, b) => order(a) - order(b) || a.id.localeCompare(b.id));
    const present = items.filter((worker) => worker.presence === "present").length;
    setText(document.getElementById("workers-note"), items.length === 0 ? "No worker has registered yet."
      : `${count(present)} present, ${count(items.length - present)} past${next ? `; only the first ${count(WORKERS_MAX)} are listed` : ""}.`);
    fill("workers-rows", sorted.map((worker) => row(worker.id, chip(TONES[worker.presence], title(worker.presence)), instant(worker.since),
      worker.kinds.map(words).join(", "), worker.version ?? "–", lastEnd(worker.last_end))));
  }

  showRetries({ classes, breakers }) {
    fill("breakers-rows", breakers.map((breaker) => row(words(breaker.service), chip(TONES[breaker.state], title(breaker.state)),
      breaker.open_until ? instant(breaker.open_until) : "–", count(breaker.openings))));
    setText(document.getElementById("retries-note"), classes.length === 0 ? "No attempt has failed yet." : "The errors with which attempts failed, and what became of their retries.");
    fill("retries-rows", classes.map((one) => row(words(one.code), words(one.category), count(one.failed_attempts), counts(one.retries),
      duration(one.mean_delay_seconds), counts(one.outcomes), instant(one.last_failed_at))));
  }

  showProjections({ items }) {
    fill("projections-rows", items.map((projection) => {
      const { name, state, stop, rebuild } = projection;
      const failure = rebuild?.failed ?? stop;
      const button = (text, command) => el("button", { type: "button", class: "quiet small", "aria-label": `${text} ${name}`, onclick: () => this.control(name, command) }, text);
      return row(name, chip(TONES[state] ?? "failed", title(state)), count(projection.generation), count(projection.position),
        `${count(projection.lag_events)} ${plural(projection.lag_events, "event")}`,
        failure ? [`At position ${count(failure.position)}: ${failure.error}; ${failure.remedy}`] : progressOf(projection),
        el("span", { class: "buttons" }, state === "live" || state === "catching_up" ? button("Pause", "pause") : button("Resume", "resume"), button("Rebuild", "rebuild")));
    }));
  }

  async control(name, command) {
    try {
      const { detail } = await post(`/internal/projections/${name}/${command}`);
      setText(this.done, `${name}: ${detail}`);
    } catch (error) {
      setText(this.done, `${name}: ${error.message}`);
    }
    this.load();
  }
}

function fill(id, rows) {
  const body = document.getElementById(id);
  refill(body, rows);
  body.closest(".scroll").hidden = rows.length === 0;
}

function lastEnd(end) {
  if (!end) return "–";
  const code = end.exit_code !== null ? `, exit code ${end.exit_code}` : end.signal !== null ? `, signal ${end.signal}` : "";
  return [`${title(end.end)}${code}${end.reason ? `: ${end.reason}` : ""} `, instant(end.at)];
}

const counts = (object) => Object.entries(object).filter(([, value]) => value > 0).map(([name, value]) => `${words(name)} ${count(value)}`).join(", ") || "–";

function progressOf({ progress, rebuild }) {
  const now = rebuild?.progress ?? progress;
  if (!now) return "–";
  const left = now.eta_seconds === null ? "" : `, about ${duration(now.eta_seconds)} left`;
  return `${rebuild ? `Generation ${rebuild.generation}: ` : ""}${Math.floor(now.fraction * 100)} %${left}`;
}
