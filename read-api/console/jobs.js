// The list of jobs, polled every two seconds, which costs a 304 while nothing changes.

import { get } from "./api.js";
import { bar, chip, coalesce, count, duration, el, fact, instant, percent, setText, score, title } from "./dom.js";

const POLL_MS = 2000;
const PAGE = 50;
const SHOWN_MAX = 500;

export class JobList {
  constructor({ onError, onLoaded }) {
    this.list = document.getElementById("jobs");
    this.more = document.getElementById("more");
    this.empty = document.getElementById("empty");
    this.notice = document.getElementById("jobs-notice");
    this.form = document.getElementById("filters");
    this.cards = new Map();
    this.limit = PAGE;
    this.selected = null;
    this.known = null;
    this.onError = onError;
    this.onLoaded = onLoaded;
    const changed = coalesce(() => this.load(), 200);
    this.form.addEventListener("input", changed);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.load();
    });
    this.more.addEventListener("click", () => {
      this.limit = Math.min(SHOWN_MAX, this.limit + PAGE);
      this.load();
    });
  }

  start() {
    const tick = async () => {
      if (!document.hidden) await this.load();
      setTimeout(tick, POLL_MS);
    };
    tick();
    document.addEventListener("visibilitychange", () => document.hidden || this.load());
  }

  async load() {
    const query = new URLSearchParams({ limit: this.limit });
    for (const [name, value] of new FormData(this.form)) if (value.trim()) query.set(name, value.trim());
    const filtered = query.size > 1;
    try {
      const page = await get(`/jobs?${query}`);
      if (query.toString() === this.lastQuery && page === this.lastPage) return;
      [this.lastQuery, this.lastPage] = [query.toString(), page];
      this.show(page, filtered);
      this.onLoaded(page.items);
    } catch (error) {
      // The next response clears the notice, even if it is unchanged.
      this.lastPage = null;
      this.onError(error);
    }
  }

  show(page, filtered) {
    this.empty.hidden = page.items.length > 0 || filtered;
    const isCut = page.next_cursor !== null && this.limit >= SHOWN_MAX;
    const nothing = page.items.length === 0 && filtered ? "No job matches these filters." : "";
    setText(this.notice, isCut ? `The newest ${SHOWN_MAX} are shown; filter to find older ones.` : nothing);
    this.more.hidden = page.next_cursor === null || isCut;
    const ids = page.items.map((job) => job.id);
    const arrived = this.known ? page.items.filter((job) => !this.known.has(job.id)) : [];
    if (arrived.length > 0 && !filtered) {
      setText(document.getElementById("announce"), `New job: ${arrived.map(nameOf).join(", ")}`);
    }
    this.known = new Set([...(this.known ?? []), ...ids]);
    for (const [id, card] of this.cards) {
      if (!ids.includes(id)) {
        card.node.remove();
        this.cards.delete(id);
      }
    }
    page.items.forEach((job, index) => {
      const card = this.cards.get(job.id) ?? this.add(job.id);
      card.update(job);
      // Moving a node drops its focus, so only nodes at another place are moved.
      if (this.list.children[index] !== card.node) this.list.insertBefore(card.node, this.list.children[index] ?? null);
    });
    this.select(this.selected);
  }

  add(id) {
    const card = makeCard(id);
    this.cards.set(id, card);
    return card;
  }

  select(id) {
    this.selected = id;
    for (const [other, card] of this.cards) {
      if (other === id) card.name.setAttribute("aria-current", "true");
      else card.name.removeAttribute("aria-current");
    }
  }
}

export const nameOf = (job) => job.name || `${title(job.kind)} ${job.id.slice(0, 8)}`;

function makeCard(id) {
  // The link covers the whole card; its name is only the job's.
  const name = el("a", { class: "card-name", href: `#/jobs/${id}` });
  const status = el("span");
  const meter = el("div", { class: "meter" });
  const facts = el("dl", { class: "facts" });
  const blockers = el("ul", { class: "blockers", hidden: true, "aria-label": "Blockers" });
  const foot = el("span", { class: "card-foot" });
  const node = el("li", {}, el("div", { class: "card" }, el("span", { class: "card-head" }, name, status), meter, facts, blockers, foot));
  const update = (job) => {
    const now = { ...job, ...job.counters, ...job.matching };
    const isMatching = job.kind === "product_video_matching";
    setText(name, nameOf(job));
    status.replaceChildren(chip(job.status, job.status === "pending" || job.status === "running" ? title(job.phase) : undefined));
    meter.replaceChildren(bar(now, `Progress of ${nameOf(job)}`), el("span", { class: "num" }, percent(now)));
    facts.replaceChildren(...(isMatching ? [
      fact("Candidates", `${count(now.candidates_processed)} / ${count(now.candidates_total)}`),
      fact("Matches", count(now.matches_found)),
      fact("p90", score(now.p90_score)),
      fact("ETA", job.status === "running" ? duration(now.eta_seconds) : "–"),
    ] : [fact("Kind", title(job.kind)), fact("Attempt", count(job.attempt)),
      job.retry ? fact("Next attempt", instant(job.retry.due_at)) : fact("Started", instant(job.started_at))]));
    blockers.hidden = !now.blockers?.length;
    blockers.replaceChildren(...(now.blockers ?? []).map((text) => el("li", {}, sentence(text))));
    foot.replaceChildren("Created ", instant(job.created_at));
  };
  return { node, name, update };
}

/** The sentence of a blocker, which has the form `code: sentence`. */
export const sentence = (blocker) => blocker.replace(/^[a-z_]+: /, "").replace(/^./, (first) => first.toUpperCase());
