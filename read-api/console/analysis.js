// The view of one analysis: its stages, attempts, errors with suggested actions, and highlights.

import { subscribe, get } from "./api.js";
import { bar, chip, coalesce, count, duration, el, instant, percent, setText, title, words } from "./dom.js";

const REFRESH_MS = 250;
const TICK_MS = 1000;
const WAITS = {
  backoff: "after a delay", rate_limited: "after the delay that the service requested", parked: "when the circuit breaker of the failed service closes",
  interrupted: "as soon as a worker is free", asked: "as soon as a worker is free, as requested",
};
const STOPPED = {
  non_retryable: "It is not retried: a retry would not help.",
  maximum_attempts: "It is not retried: the maximum number of attempts was reached.",
  crash_loop: "It is in quarantine: two workers in a row crashed on it. Retry it manually once the cause is fixed.",
  no_policy: "It was reported as failed and is not retried automatically.",
};

/** Shows an analysis in a job view, and keeps it up to date until the view is closed. */
export async function showAnalysis(view, { tile, nameOf }) {
  for (const part of [view.travel.part, view.matches.part]) part.remove();
  const parts = build(view);
  const path = `/api/v1/analysis/${view.id}`;
  const load = async () => {
    try {
      const [analysis, timeline] = await Promise.all([get(path, { fresh: true }), get(`${view.path}/timeline`, { fresh: true })]);
      if (view.closed) return;
      show(view, parts, analysis, tile);
      view.showTimeline(timeline);
      return analysis;
    } catch (error) {
      if (!view.closed) view.onError(error);
    }
  };
  const reload = coalesce(load, REFRESH_MS);
  const first = await load();
  if (view.closed) return;
  setText(view.heading, view.job.name || `Video ${first?.video_id ?? view.id.slice(0, 8)}`);
  const connect = () => {
    view.stop = subscribe(
      `${path}/stream`,
      (name) => {
        if (view.closed) return;
        if (["retrying", "failed", "completed", "cancelled"].includes(name)) setText(document.getElementById("announce"), `${nameOf(view.job)}: ${words(name)}`);
        reload();
      },
      (state) => {
        view.stream = state;
        view.showState(state);
      },
    );
  };
  // `notice` calls it for a job that was retried.
  view.connect = connect;
  view.rest = reload;
  connect();
  // Times and the estimate change between events.
  const tick = setInterval(() => {
    if (view.closed) clearInterval(tick);
    else if (view.stream !== "ended" && !document.hidden) reload();
  }, TICK_MS);
}

function build(view) {
  const stages = el("ol", { class: "stages", "aria-label": "Stages" });
  const attempts = el("ol", { class: "attempts", "aria-label": "Attempts" });
  const found = el("tbody");
  const head = ["From", "To", "Score", "Why"].map((name) => el("th", { scope: "col" }, name));
  const note = el("p", { class: "subtle" });
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of highlights", hidden: true },
    el("table", {}, el("thead", {}, el("tr", {}, head)), found));
  const result = el("section", { "aria-labelledby": "found-title", hidden: true }, el("h2", { id: "found-title" }, "Highlights"), note, table);
  view.tiles.before(el("section", { "aria-labelledby": "stages-title" }, el("h2", { id: "stages-title" }, "Stages"), stages));
  view.tiles.after(result, el("section", { "aria-labelledby": "attempts-title" }, el("h2", { id: "attempts-title" }, "Attempts"), attempts));
  return { stages, attempts, result, note, table, found };
}

function show(view, parts, analysis, tile) {
  const attempt = analysis.attempt > 1 ? ` · attempt ${analysis.attempt}` : "";
  const stage = analysis.phase === analysis.status ? attempt.slice(3) : `${analysis.current_stage}${attempt}`;
  view.status.replaceChildren(chip(analysis.status), " ", el("span", { class: "subtle" }, stage));
  view.meter.replaceChildren(bar(analysis, "Progress"), el("span", { class: "num" }, percent(analysis)));
  view.actions.show(analysis);
  view.blockers.replaceChildren(...problems(analysis));
  const eta = analysis.eta ? `${duration(analysis.eta.low)} – ${duration(analysis.eta.high)}` : null;
  const basis = analysis.eta ? `${words(analysis.eta.basis)}, ${count(analysis.eta.samples)}` : null;
  view.tiles.replaceChildren(
    tile("ETA", duration(analysis.estimated_completion_seconds), eta ? `${eta} (${basis})` : null),
    tile("Waited", duration(analysis.queue_seconds), "for a worker"),
    tile("Worked", duration(analysis.run_seconds), "over all attempts"),
    tile("Attempt", count(analysis.attempt)),
  );
  parts.stages.replaceChildren(...analysis.stages.map(stageLine));
  parts.attempts.replaceChildren(...analysis.attempts.map(attemptLine));
  showResult(parts, analysis.result);
}

function stageLine(stage) {
  const skipped = stage.fraction === 1 && !stage.started_at;
  const status = skipped ? "cancelled" : stage.fraction === 1 ? "completed" : stage.started_at ? "running" : "pending";
  const meter = el("progress", { max: 1, "aria-label": stage.name, data: { status } });
  meter.value = skipped ? 0 : stage.fraction;
  const items = stage.items_total ? `${count(stage.items_done ?? 0)} of ${count(stage.items_total)}` : null;
  const done = skipped ? "skipped" : items ?? `${Math.floor(stage.fraction * 100)} %`;
  return el("li", {}, el("span", { class: "phase" }, stage.name), meter, el("span", { class: "num" }, done));
}

function problems(analysis) {
  const { error, retry, retry_state: state } = analysis;
  const lines = [];
  if (error) {
    const advice = error.suggested_actions.map((action) => el("li", {}, action));
    lines.push(el("li", {}, error.user_message, advice.length > 0 ? el("ul", { class: "advice" }, advice) : null,
      el("span", { class: "subtle" }, `${words(error.code)} · ${error.support_reference}`)));
  }
  if (retry) lines.push(el("li", {}, `Attempt ${retry.attempt} starts ${WAITS[retry.reason] ?? "later"}: `, instant(retry.due_at)));
  else if (error && STOPPED[state]) lines.push(el("li", {}, STOPPED[state]));
  return lines;
}

function attemptLine(attempt) {
  const workers = attempt.worker_ids.length > 0 ? attempt.worker_ids.join(", then ") : "no worker yet";
  // The timeline's stay in the queue is the delay and the wait together.
  const delay = attempt.due_at ? Math.max(0, (Date.parse(attempt.due_at) - Date.parse(attempt.queued_at)) / 1000) : 0;
  const delayed = delay > 0 ? `delayed ${duration(delay)}, ` : "";
  const times = `${delayed}waited ${duration(attempt.queue_seconds)} for a worker, worked ${duration(attempt.run_seconds)}`;
  return el("li", {},
    el("span", { class: "phase" }, `Attempt ${attempt.attempt}`), el("span", {}, workers), el("span", { class: "subtle" }, times),
    attempt.error ? el("span", { class: "attempt-error" }, attempt.error.user_message) : null);
}

function showResult(parts, result) {
  const highlights = Array.isArray(result?.highlights) ? result.highlights : null;
  parts.result.hidden = highlights === null;
  if (highlights === null) return;
  parts.table.hidden = highlights.length === 0;
  setText(parts.note, highlights.length === 0 ? "None found." : `${count(highlights.length)} found, best first.`);
  const time = (value) => (typeof value === "number" ? `${value.toFixed(2)} s` : "–");
  parts.found.replaceChildren(...highlights.map((found) => el("tr", {},
    el("td", { class: "num" }, time(found.start_seconds)), el("td", { class: "num" }, time(found.end_seconds)),
    el("td", { class: "num" }, typeof found.score === "number" ? found.score.toFixed(2) : "–"),
    el("td", {}, Array.isArray(found.reasons) ? found.reasons.map(title).join(", ") : ""))));
}
