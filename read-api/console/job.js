// The view of one job: its current or historical summary, its timeline and its image matches.

import { JobActions } from "./actions.js";
import { showAnalysis } from "./analysis.js";
import { subscribe, get } from "./api.js";
import { bar, chip, coalesce, count, duration, el, instant, percent, plural, setText, score, split, title, words } from "./dom.js";
import { EventList } from "./events.js";
import { nameOf, sentence } from "./jobs.js";
import { MatchList } from "./matches.js";
import { TimeTravel } from "./time-travel.js";

const REFRESH_MS = 1000;
const STATES = { live: "Live", waiting: "Reconnecting…", ended: "Ended", past: "Historical" };

export class JobView {
  constructor(panel, id, { onError }) {
    Object.assign(this, { panel, id, onError, newest: null, past: null, stop: () => {}, closed: false });
    this.path = `/jobs/${id}`;
    this.rest = coalesce(() => this.loadRest(), REFRESH_MS);
  }

  async open() {
    this.build();
    this.panel.hidden = false;
    try {
      const [job, first] = await Promise.all([get(this.path), get(`${this.path}/events?limit=1`)]);
      if (this.closed) return;
      this.job = job;
      // The slider has whole milliseconds, and the job did not exist before its first event.
      this.first = Date.parse(first.items[0]?.recorded_at ?? job.created_at) + 1;
      setText(this.heading, nameOf(job));
      this.kind.replaceChildren(`${title(job.kind)} · created `, instant(job.created_at));
      if (job.kind === "product_video_matching") {
        const summary = await get(`${this.path}/matching/summary`);
        // A stream opened for a closed view would never be stopped.
        if (this.closed) return;
        this.show(summary);
        this.connect();
        await this.loadRest();
      } else if (job.kind === "video_analysis") {
        await showAnalysis(this, { tile, nameOf });
      } else {
        await this.openOther();
      }
    } catch (error) {
      if (!this.closed) this.fail(error);
    }
  }

  /** A job of another kind has no summary, stream or matches, so it is polled. */
  async openOther() {
    for (const part of [this.travel.part, this.matches.part, this.live]) part.remove();
    // After its end, a retry makes it continue.
    Object.assign(this, { stream: "polled", connect: () => this.openOther(), rest: () => {} });
    while (!this.closed) {
      const job = await get(this.path, { fresh: true });
      if (this.closed) return;
      this.status.replaceChildren(chip(job.status), " ", el("span", { class: "subtle" }, phaseOf(job)));
      this.meter.replaceChildren(bar(job, "Progress"), el("span", { class: "num" }, percent(job)));
      this.blockers.replaceChildren(...(job.error ? [el("li", {}, job.error.user_message)] : []));
      this.actions.show(job);
      this.tiles.replaceChildren(
        tile("Waited", duration(job.queue_seconds)), tile("Worked", duration(job.run_seconds)), tile("Attempt", count(job.attempt)),
      );
      this.showTimeline(await get(`${this.path}/timeline`, { fresh: true }));
      if (job.ended_at) return void (this.stream = "ended");
      await new Promise((wake) => setTimeout(wake, REFRESH_MS));
    }
  }

  close() {
    this.closed = true;
    this.stop();
    this.matches?.close();
    this.panel.hidden = true;
    this.panel.replaceChildren();
  }

  fail(error) {
    const text = error.status === 404 ? "The job does not exist, or it belongs to another tenant." : error.message;
    this.panel.replaceChildren(
      el("a", { class: "back", href: "#/" }, "← All jobs"),
      el("h1", { id: "detail-title", tabindex: "-1" }, "Nothing to show"), el("p", { class: "notice", role: "alert" }, text),
    );
  }

  connect() {
    this.stream = "waiting";
    this.stop = subscribe(
      `${this.path}/matching/stream`,
      (name, data) => {
        const summary = data.summary;
        if (!summary || this.closed) return;
        this.newest = summary;
        if (this.past === null) this.show(summary);
        else this.showRange();
        if (name !== "progress" && name !== "connected") setText(document.getElementById("announce"), `${nameOf(this.job)}: ${words(name)}`);
        this.rest();
      },
      (state) => {
        this.stream = state;
        if (this.past === null) this.showState(state);
      },
    );
  }

  /** A job that had ended has a stream again after its retry. */
  afterCommand() {
    if (this.stream === "ended") this.connect();
    this.rest();
  }

  /** Gets the job from the list: a failed job may have been retried. */
  notice(job) {
    if (this.stream === "ended" && job && !job.ended_at) this.connect();
  }

  showState(state) {
    this.live.dataset.state = state;
    setText(this.live, STATES[state]);
  }

  build() {
    this.heading = el("h1", { id: "detail-title", tabindex: "-1" }, "Loading…");
    this.kind = el("p", { class: "subtle" });
    this.live = el("span", { class: "live", data: { state: "waiting" }, role: "status" }, "Connecting…");
    this.status = el("span");
    this.meter = el("div", { class: "meter big" });
    this.blockers = el("ul", { class: "blockers", "aria-label": "Blockers", "aria-live": "polite" });
    this.tiles = el("dl", { class: "tiles" });
    this.actions = new JobActions(this.path, () => this.afterCommand());
    this.travel = new TimeTravel({ onInstant: (at) => this.showAsOf(at), onNow: () => this.backToNow() });
    this.matches = new MatchList(this.id);
    this.events = new EventList(this.path);
    this.timeline = el("ol", { class: "timeline", "aria-label": "Phases" });
    this.errors = el("ul", { class: "blockers", hidden: true, "aria-label": "Errors" });
    this.panel.replaceChildren(
      el("a", { class: "back", href: "#/" }, "← All jobs"),
      el("div", { class: "panel-head" }, this.heading, this.status, this.live), this.kind,
      this.meter, this.actions.part, this.blockers, this.tiles, this.travel.part,
      el("section", { "aria-labelledby": "timeline-title" }, el("h2", { id: "timeline-title" }, "Timeline"), this.timeline, this.errors),
      this.matches.part, this.events.part,
    );
  }

  show(summary) {
    if (this.past === null) this.newest = summary;
    this.status.replaceChildren(chip(summary.status), " ", el("span", { class: "subtle" }, phaseOf(summary)));
    this.meter.replaceChildren(
      bar(summary, "Progress of the job"),
      el("span", { class: "num" }, `${percent(summary)} · ${count(summary.candidates_processed)} of ${count(summary.candidates_total)} candidates`),
    );
    this.blockers.replaceChildren(...summary.blockers.map((text) => el("li", {}, sentence(text))));
    this.tiles.replaceChildren(...tilesOf(summary));
    this.showRange();
  }

  showRange() {
    if (!this.newest) return;
    this.travel.range(this.first, Date.parse(this.newest.last_event_at));
    this.panel.classList.toggle("past", this.past !== null);
    this.matches.update(this.newest.matches_found, this.past?.position ?? null);
    this.actions.show(this.newest);
  }

  /** Shows the job as of an instant, in milliseconds since 1970. */
  async showAsOf(at) {
    const past = { at, position: this.past?.position ?? null };
    this.past = past;
    this.showState("past");
    try {
      const summary = await get(`${this.path}/matching/summary?as_of=${encodeURIComponent(new Date(at).toISOString())}`);
      // A slow response must not overwrite a later one.
      if (this.past !== past || this.closed) return;
      past.position = summary.position;
      this.show(summary);
    } catch (error) {
      this.onError(error);
    }
  }

  backToNow() {
    this.past = null;
    this.showState(this.stream ?? "waiting");
    this.show(this.newest);
  }

  async loadRest() {
    try {
      const [timeline] = await Promise.all([get(`${this.path}/timeline`), this.matches.load()]);
      if (!this.closed) this.showTimeline(timeline);
    } catch (error) {
      if (!this.closed) this.onError(error);
    }
  }

  showTimeline(timeline) {
    const longest = Math.max(...timeline.phases.map((phase) => phase.duration_seconds ?? 0), 0.001);
    this.timeline.replaceChildren(...timeline.phases.map((phase) => {
      const meter = el("span", { class: "span", "aria-hidden": "true" });
      meter.style.setProperty("--part", Math.max(0.01, (phase.duration_seconds ?? 0) / longest));
      const attempt = timeline.attempt > 1 ? ` (attempt ${phase.attempt})` : "";
      return el("li", { data: { phase: phase.phase, open: phase.ended_at === null } },
        el("span", { class: "phase" }, title(phase.phase) + attempt), meter,
        el("span", { class: "num" }, duration(phase.duration_seconds)),
        el("span", { class: "subtle" }, instant(phase.started_at)));
    }));
    this.errors.hidden = timeline.errors.length === 0;
    this.errors.replaceChildren(...timeline.errors.map((error) => el("li", {}, `${error.request_id ? `Request ${error.request_id}, attempt` : "Attempt"} ${error.attempt}: ${error.error.user_message} `, instant(error.at))));
  }
}

function phaseOf(summary) {
  const attempt = summary.attempt > 1 ? ` · attempt ${summary.attempt}` : "";
  return summary.phase === summary.status ? attempt.slice(3) : `${title(summary.phase)}${attempt}`;
}

function tile(name, value, note = null) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, el("span", { class: "value num" }, value), note ? el("span", { class: "subtle" }, note) : null));
}

function tilesOf(summary) {
  const eta = summary.eta ? `${duration(summary.eta.low)} – ${duration(summary.eta.high)}` : null;
  return [
    tile("ETA", duration(summary.eta_seconds), eta),
    tile("Matches found", count(summary.matches_found), `${count(summary.matches_with_evidence)} with evidence`),
    tile("p90 score", score(summary.p90_score), `mean ${score(summary.avg_score)}`),
    tile("Queue depth", count(summary.queue_depth), `${plural(summary.queue_depth, "request")} left`),
    tile("Vector pass", count(summary.vector_pass_done), `of ${count(summary.vector_pass_total)}`),
    tile("Verified", count(summary.ransac_checked), "by geometry"),
    tile("Started", ...split(summary.started_at)),
    summary.completed_at ? tile("Matched until", ...split(summary.completed_at)) : tile("Last event", ...split(summary.last_event_at)),
  ];
}
