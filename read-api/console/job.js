// The view of one job: its current or historical summary, its timeline and its image matches.

import { showAnalysis } from "./analysis.js";
import { subscribe, get } from "./api.js";
import { bar, chip, coalesce, count, duration, el, instant, percent, setText, score, split, title, words } from "./dom.js";
import { nameOf, sentence } from "./jobs.js";

const MATCHES_SHOWN = 100;
const REFRESH_MS = 1000;
const STATES = { live: "Live", waiting: "Reconnecting…", ended: "Ended", past: "Historical" };

export class JobView {
  constructor(panel, id, { onError }) {
    Object.assign(this, { panel, id, onError, newest: null, past: null, stop: () => {}, closed: false });
    this.path = `/jobs/${id}`;
    this.rest = coalesce(() => this.loadRest(), REFRESH_MS);
    this.travel = coalesce((position) => this.showAsOf(position), 60);
  }

  async open() {
    this.build();
    this.panel.hidden = false;
    try {
      const [job, first] = await Promise.all([get(this.path), get(`${this.path}/events?limit=1`)]);
      if (this.closed) return;
      this.job = job;
      this.first = first.items[0]?.position ?? 1;
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
    for (const part of [this.travelPart, this.matchesPart, this.live]) part.remove();
    while (!this.closed) {
      const job = await get(this.path, { fresh: true });
      if (this.closed) return;
      this.status.replaceChildren(chip(job.status), " ", el("span", { class: "subtle" }, phaseOf(job)));
      this.meter.replaceChildren(bar(job, "Progress"), el("span", { class: "num" }, percent(job)));
      this.blockers.replaceChildren(...(job.error ? [el("li", {}, job.error.user_message)] : []));
      this.tiles.replaceChildren(
        tile("Waited", duration(job.queue_seconds)), tile("Worked", duration(job.run_seconds)), tile("Attempt", count(job.attempt)),
      );
      this.showTimeline(await get(`${this.path}/timeline`, { fresh: true }));
      if (job.ended_at) return;
      await new Promise((wake) => setTimeout(wake, REFRESH_MS));
    }
  }

  close() {
    this.closed = true;
    this.stop();
    this.panel.hidden = true;
    this.panel.replaceChildren();
  }

  fail(error) {
    const text = error.status === 404 ? "The job does not exist, or it belongs to another tenant." : error.message;
    this.panel.replaceChildren(
      el("a", { class: "back", href: "#/" }, "← All jobs"),
      el("h2", { id: "detail-title", tabindex: "-1" }, "Nothing to show"), el("p", { class: "notice", role: "alert" }, text),
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

  /** Gets the job from the list: a failed job may have been retried. */
  notice(job) {
    if (this.stream === "ended" && job && !job.ended_at) this.connect();
  }

  showState(state) {
    this.live.dataset.state = state;
    setText(this.live, STATES[state]);
  }

  build() {
    this.heading = el("h2", { id: "detail-title", tabindex: "-1" }, "Loading…");
    this.kind = el("p", { class: "subtle" });
    this.live = el("span", { class: "live", data: { state: "waiting" }, role: "status" }, "Connecting…");
    this.status = el("span");
    this.meter = el("div", { class: "meter big" });
    this.blockers = el("ul", { class: "blockers", "aria-label": "Blockers", "aria-live": "polite" });
    this.tiles = el("dl", { class: "tiles" });
    this.slider = el("input", { type: "range", min: 1, max: 1, step: 1, id: "travel", oninput: () => this.travel(Number(this.slider.value)) });
    this.when = el("output", { for: "travel", class: "num" }, "now");
    this.now = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.backToNow() }, "Back to now");
    this.timeline = el("ol", { class: "timeline", "aria-label": "Phases" });
    this.errors = el("ul", { class: "blockers", hidden: true, "aria-label": "Errors" });
    this.matchesNote = el("p", { class: "subtle" });
    this.matches = el("tbody");
    const head = ["Score", "Product", "Image", "Video", "Frame", "Evidence"].map((name) => el("th", { scope: "col" }, name));
    this.table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "matches-title", hidden: true },
      el("table", {}, el("thead", {}, el("tr", {}, head)), this.matches));
    this.travelPart = el("section", { "aria-labelledby": "travel-title" },
      el("h3", { id: "travel-title" }, "Time travel"),
      el("p", { class: "subtle", id: "travel-help" }, "All values above, as of this log position."),
      el("div", { class: "travel" },
        el("label", { for: "travel", class: "visually-hidden" }, "Log position to show the job at"), this.slider, this.when, this.now));
    this.matchesPart = el("section", { "aria-labelledby": "matches-title" }, el("h3", { id: "matches-title" }, "Matches"), this.matchesNote,
      this.table);
    this.panel.replaceChildren(
      el("a", { class: "back", href: "#/" }, "← All jobs"),
      el("div", { class: "panel-head" }, this.heading, this.status, this.live), this.kind,
      this.meter, this.blockers, this.tiles, this.travelPart,
      el("section", { "aria-labelledby": "timeline-title" }, el("h3", { id: "timeline-title" }, "Timeline"), this.timeline, this.errors),
      this.matchesPart,
    );
  }

  show(summary) {
    if (this.past === null) this.newest = summary;
    this.status.replaceChildren(chip(summary.status), " ", el("span", { class: "subtle" }, phaseOf(summary)));
    this.meter.replaceChildren(
      bar(summary, "Candidates processed"),
      el("span", { class: "num" }, `${percent(summary)} · ${count(summary.candidates_processed)} of ${count(summary.candidates_total)}`),
    );
    this.blockers.replaceChildren(...summary.blockers.map((text) => el("li", {}, sentence(text))));
    this.tiles.replaceChildren(...tilesOf(summary));
    this.showRange();
  }

  showRange() {
    if (!this.newest) return;
    this.slider.min = this.first;
    this.slider.max = this.newest.position;
    if (this.past === null) this.slider.value = this.newest.position;
    this.slider.setAttribute("aria-valuetext", this.past === null ? "now" : `position ${this.past}`);
    setText(this.when, this.past === null ? `now · ${count(this.newest.position)}` : `${count(this.past)} of ${count(this.newest.position)}`);
    this.now.hidden = this.past === null;
    this.panel.classList.toggle("past", this.past !== null);
    if (this.page) this.showMatches(this.page);
  }

  async showAsOf(position) {
    if (position >= this.newest.position) return this.backToNow();
    this.past = position;
    this.showState("past");
    this.showRange();
    try {
      const summary = await get(`${this.path}/matching/summary?as_of=${position}`);
      // A slow response must not overwrite a later one.
      if (this.past === position) this.show(summary);
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
      const [timeline, matches] = await Promise.all([
        get(`${this.path}/timeline`), get(`${this.path}/matches?order=score_desc&limit=${MATCHES_SHOWN}`),
      ]);
      if (this.closed) return;
      this.showTimeline(timeline);
      this.showMatches(matches);
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

  showMatches(page) {
    this.page = page;
    const then = this.past === null ? page.items : page.items.filter((match) => match.position <= this.past);
    const [found, isAll] = [then.length, page.next_cursor === null];
    const shown = `${found},${isAll},${this.past},${page.items.at(-1)?.id}`;
    if (shown === this.matchesShown) return;
    this.matchesShown = shown;
    this.table.hidden = found === 0;
    setText(this.matchesNote, matchesNote(found, isAll, this.past !== null));
    this.matches.replaceChildren(...then.map((match) => el("tr", {},
      el("td", { class: "num" }, match.score.toFixed(3)), el("td", {}, match.product_id), el("td", {}, match.img_id),
      el("td", {}, match.video_id), el("td", {}, match.frame_id),
      el("td", { class: "path" }, match.evidence_path ? el("code", {}, match.evidence_path) : el("span", { class: "subtle" }, "none")))));
  }
}

function matchesNote(found, isAll, isPast) {
  if (isPast) return found === 0 ? "None found by then." : `${found} found by then${isAll ? "" : `, of the current best ${MATCHES_SHOWN}`}.`;
  if (found === 0) return "None found yet.";
  return isAll ? `All ${found}, best first.` : `The best ${found}.`;
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
    tile("Queue depth", count(summary.queue_depth), "requests left"),
    tile("Vector pass", count(summary.vector_pass_done), `of ${count(summary.vector_pass_total)}`),
    tile("Verified", count(summary.ransac_checked), "by geometry"),
    tile("Started", ...split(summary.started_at)),
    summary.completed_at ? tile("Matched until", ...split(summary.completed_at)) : tile("Last event", ...split(summary.last_event_at)),
  ];
}
