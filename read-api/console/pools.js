// The pools and their queued players, live.

import { subscribe, get } from "./api.js";
import { coalesce, count, duration, el, instant, setText, words } from "./dom.js";
import { PoolChart } from "./pool-chart.js";
import { RecentMatches } from "./recent-matches.js";

const SHOWN_MAX = 12;
const REFRESH_MS = 200;
const MATCHES_MS = 1000;
const RETRY_MS = 5000;
const STATES = { live: "Live", waiting: "Reconnecting…", ended: "Not live" };

export class Pools {
  constructor() {
    const part = (name) => document.getElementById(`pools-${name}`);
    Object.assign(this, { list: part("list"), live: part("live"), notice: part("notice"), empty: part("empty"), more: part("more") });
    this.cards = new Map();
    this.recentMatches = new RecentMatches();
    // A failed request is repeated after the next change; the summary shows the error.
    this.reloadMatches = coalesce(() => this.recentMatches.load().catch(() => {}), MATCHES_MS);
    this.shownMax = SHOWN_MAX;
    this.stop = () => {};
    this.session = 0;
    this.more.addEventListener("click", () => {
      this.shownMax += SHOWN_MAX;
      this.show(this.summary);
    });
  }

  /** Restarts, for example with other credentials. */
  async start() {
    this.stop();
    this.session += 1;
    const session = this.session;
    this.state("waiting");
    const show = coalesce((summary) => session === this.session && this.show(summary), REFRESH_MS);
    try {
      const summary = await get("/internal/queues/summary");
      if (session !== this.session) return;
      this.show(summary);
      setText(this.notice, "");
    } catch (error) {
      if (session !== this.session) return;
      this.fail(error);
      const isFinal = error.status === 401 || error.status === 403;
      if (!isFinal) setTimeout(() => session === this.session && this.start(), RETRY_MS);
      return;
    }
    this.stop = subscribe("/internal/queues/stream", (name, data) => name === "summary" && show(data), (state) => {
      if (session !== this.session) return;
      this.state(state);
      setText(this.notice, state === "waiting" ? "The server does not respond. These are the last values; retrying automatically." : "");
      // The stream never ends on its own: it was refused, for example for an expired token, and the summary shows why.
      if (state === "ended") setTimeout(() => session === this.session && this.start(), RETRY_MS);
    });
  }

  state(state) {
    this.live.dataset.state = state;
    setText(this.live, STATES[state]);
  }

  fail(error) {
    this.live.dataset.state = "ended";
    setText(this.live, STATES.ended);
    this.empty.hidden = true;
    setText(this.notice, errorText(error));
    if (error.status !== 401 && error.status !== 403) return;
    // Data that was shown with other credentials is removed.
    this.list.replaceChildren();
    this.cards.clear();
    this.recentMatches.part.hidden = true;
  }

  show(summary) {
    const previous = this.summary?.position;
    this.summary = summary;
    if (summary.position !== previous) this.reloadMatches();
    const pools = [...summary.pools].sort(byName);
    const shown = pools.slice(0, this.shownMax);
    const tenants = new Set(pools.map((pool) => pool.tenant));
    this.empty.hidden = pools.length > 0;
    this.more.hidden = shown.length === pools.length;
    const names = new Set(shown.map(nameOf));
    for (const [name, card] of this.cards) {
      if (!names.has(name)) {
        card.node.remove();
        this.cards.delete(name);
      }
    }
    shown.forEach((pool, index) => {
      const card = this.cards.get(nameOf(pool)) ?? this.add(nameOf(pool), makeCard(pool, tenants.size > 1));
      if (this.list.children[index] !== card.node) this.list.insertBefore(card.node, this.list.children[index] ?? null);
      card.update(pool);
    });
  }

  add(name, card) {
    this.cards.set(name, card);
    return card;
  }
}

const nameOf = (pool) => `${pool.tenant}/${pool.pool_key}`;
const byName = (one, other) => nameOf(one).localeCompare(nameOf(other), "en");

function errorText(error) {
  if (error.status === 401) return "The server requires credentials: press Token and paste one.";
  if (error.status === 403) return "These credentials may not read the queues. Press Token and paste one with the role worker, service, auditor or admin.";
  return error.status ? error.message : "The server does not respond. Retrying every five seconds.";
}

function makeCard(pool, hasTenant) {
  const facts = el("dl", { class: "facts" });
  const chart = new PoolChart();
  const note = el("p", { class: "subtle" });
  const totals = el("p", { class: "subtle" });
  const node = el("li", { class: "pool" },
    el("h2", {}, pool.pool_key, hasTenant ? el("span", { class: "subtle" }, ` of ${pool.tenant}`) : null),
    facts, chart.node, note, totals);
  const update = (now) => {
    facts.replaceChildren(
      fact("Waiting", count(now.waiting), now.placing > 0 ? `${count(now.placing)} being placed` : null),
      fact("Oldest wait", duration(now.oldest_wait_seconds)),
      fact("Waits now", ...percentiles(now.wait, "p50_seconds", "p95_seconds", duration)),
      fact("Matched after", ...percentiles(now.recent_wait, "p50_seconds", "p95_seconds", duration)),
      fact("Matches a minute", count(now.matches_a_minute), `${count(now.matches)} in total`),
      fact("Rating gap", ...percentiles(now.match_quality, "gap_p50", "gap_p95", (gap) => count(Math.round(gap)))),
    );
    const { of, points } = now.sample;
    setText(note, points.length < of ? `${windowRule(now.settings)} ${count(points.length)} of ${count(of)} are shown.` : windowRule(now.settings));
    setText(totals, totalsText(now.by_status));
    chart.show(now);
  };
  return { node, update };
}

function fact(name, value, note = null) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "num" }, value, note ? el("span", { class: "subtle" }, note) : null));
}

/** The median and the 95th percentile; dashes while there is no data. */
function percentiles(values, p50, p95, format) {
  if (!values) return ["–", null];
  return [format(values[p50]), `p95 ${format(values[p95])}`];
}

function windowRule(settings) {
  const { window, window_max: most, widen_by: by, widen_every_seconds: every } = settings;
  const policy = settings.window_policy === "both" ? "both players must be in each other's window" : "the window of the longer waiting player counts";
  return `Players are paired within ${window} points, ${by} more every ${duration(every)}, up to ${most}; ${policy}.`;
}

function totalsText(byStatus) {
  const ended = ["matched", "cancelled", "expired"].map((status) => `${count(byStatus[status] ?? 0)} ${words(status)}`);
  return `Entries in total: ${ended.join(", ")}.`;
}

const OPEN = "Matched players keep their place in the queue. Check that the service at MATCHBOOK_GAME_SERVICE_URL is running, and read its log; it is retried automatically.";

/** Shows the circuit breaker of the game service while it is not closed, and what to do about it. */
export function showGameService(notice, breakers) {
  const breaker = breakers?.find((one) => one.service === "game_service");
  const state = breaker?.state ?? "closed";
  if (notice.dataset.state === state && notice.dataset.until === String(breaker?.open_until)) return;
  Object.assign(notice.dataset, { state, until: String(breaker?.open_until) });
  const texts = {
    closed: [],
    open: [el("strong", {}, "The game service is failing. Its circuit breaker is open until "), instant(breaker?.open_until), el("strong", {}, ". "), OPEN],
    half_open: [el("strong", {}, "The game service was failing. "), "A few calls are testing whether it has recovered."],
  };
  notice.replaceChildren(...texts[state]);
}
