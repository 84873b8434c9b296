// The pools of players who wait for each other, live.

import { follow, get } from "./api.js";
import { coalesce, count, duration, el, instant, say, words } from "./dom.js";
import { Meetings } from "./meetings.js";
import { Picture } from "./picture.js";

const SHOWN_MAX = 12;
const REFRESH_MS = 200;
const MEETINGS_MS = 1000;
const RETRY_MS = 5000;
const STATES = { live: "Live", waiting: "Reconnecting…", ended: "Not live" };

export class Pools {
  constructor() {
    const part = (name) => document.getElementById(`pools-${name}`);
    Object.assign(this, { list: part("list"), live: part("live"), notice: part("notice"), empty: part("empty"), more: part("more") });
    this.cards = new Map();
    this.meetings = new Meetings();
    // One that fails is asked for again after the next change, and the summary says what is wrong.
    this.newMeetings = coalesce(() => this.meetings.load().catch(() => {}), MEETINGS_MS);
    this.shownMax = SHOWN_MAX;
    this.stop = () => {};
    this.round = 0;
    this.more.addEventListener("click", () => {
      this.shownMax += SHOWN_MAX;
      this.show(this.summary);
    });
  }

  /** Begins anew, as with other credentials. */
  async start() {
    this.stop();
    this.round += 1;
    const round = this.round;
    this.state("waiting");
    const show = coalesce((summary) => round === this.round && this.show(summary), REFRESH_MS);
    try {
      const summary = await get("/internal/queues/summary");
      if (round !== this.round) return;
      this.show(summary);
      say(this.notice, "");
    } catch (error) {
      if (round !== this.round) return;
      this.fail(error);
      const isFinal = error.status === 401 || error.status === 403;
      if (!isFinal) setTimeout(() => round === this.round && this.start(), RETRY_MS);
      return;
    }
    this.stop = follow("/internal/queues/stream", (name, data) => name === "summary" && show(data), (state) => {
      if (round !== this.round) return;
      this.state(state);
      say(this.notice, state === "waiting" ? "The server does not answer. These are its last figures; it is asked again by itself." : "");
      // The stream has no end of its own: it was refused, as with a token that ran out, and the summary says why.
      if (state === "ended") setTimeout(() => round === this.round && this.start(), RETRY_MS);
    });
  }

  state(state) {
    this.live.dataset.state = state;
    say(this.live, STATES[state]);
  }

  fail(error) {
    this.live.dataset.state = "ended";
    say(this.live, STATES.ended);
    this.empty.hidden = true;
    say(this.notice, whyNot(error));
    if (error.status !== 401 && error.status !== 403) return;
    // What other credentials were shown is not for these.
    this.list.replaceChildren();
    this.cards.clear();
    this.meetings.part.hidden = true;
  }

  show(summary) {
    const played = this.summary?.position;
    this.summary = summary;
    if (summary.position !== played) this.newMeetings();
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

function whyNot(error) {
  if (error.status === 401) return "The server has keys: press Token and paste one.";
  if (error.status === 403) return "These credentials may not look at the queues. Press Token and paste one with the role worker, service, auditor or admin.";
  return error.status ? error.message : "The server does not answer. It is asked again every five seconds.";
}

function makeCard(pool, hasTenant) {
  const facts = el("dl", { class: "facts" });
  const picture = new Picture();
  const note = el("p", { class: "subtle" });
  const ever = el("p", { class: "subtle" });
  const node = el("li", { class: "pool" },
    el("h3", {}, pool.pool_key, hasTenant ? el("span", { class: "subtle" }, ` of ${pool.tenant}`) : null),
    facts, picture.node, note, ever);
  const update = (now) => {
    facts.replaceChildren(
      fact("Waiting", count(now.waiting), now.placing > 0 ? `${count(now.placing)} being placed` : null),
      fact("Oldest wait", duration(now.oldest_wait_seconds)),
      fact("Waits now", ...pair(now.wait, "p50_seconds", "p95_seconds", duration)),
      fact("Matched after", ...pair(now.recent_wait, "p50_seconds", "p95_seconds", duration)),
      fact("Matches a minute", count(now.matches_a_minute), `${count(now.matches)} in all`),
      fact("Rating gap", ...pair(now.match_quality, "gap_p50", "gap_p95", (gap) => count(Math.round(gap)))),
    );
    const { of, points } = now.sample;
    say(note, points.length < of ? `${ruleOf(now.settings)} ${count(points.length)} of ${count(of)} are drawn.` : ruleOf(now.settings));
    say(ever, everOf(now.by_status));
    picture.show(now);
  };
  return { node, update };
}

function fact(name, value, note = null) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "num" }, value, note ? el("span", { class: "subtle" }, note) : null));
}

/** The middle of something, and what one in twenty is above; nothing while there is nothing. */
function pair(figures, middle, most, show) {
  if (!figures) return ["–", null];
  return [show(figures[middle]), `p95 ${show(figures[most])}`];
}

function ruleOf(settings) {
  const { window, window_max: most, widen_by: by, widen_every_seconds: every } = settings;
  const whose = settings.window_policy === "both" ? "both windows count" : "the window of who has waited longer counts";
  return `Each meets others within ${window} points, ${by} more every ${duration(every)}, up to ${most}; ${whose}.`;
}

function everOf(byStatus) {
  const ended = ["matched", "cancelled", "expired"].map((status) => `${count(byStatus[status] ?? 0)} ${words(status)}`);
  return `Entries until now: ${ended.join(", ")}.`;
}

const OPEN = "Whoever is matched keeps their place in line. See whether the service at MATCHBOOK_GAME_SERVICE_URL runs, and what its log says; it is asked again by itself.";

/** Says when the service that makes games is left alone, and what to do about it. */
export function showGameService(notice, breakers) {
  const breaker = breakers?.find((one) => one.service === "game_service");
  const state = breaker?.state ?? "closed";
  if (notice.dataset.state === state && notice.dataset.until === String(breaker?.open_until)) return;
  Object.assign(notice.dataset, { state, until: String(breaker?.open_until) });
  const texts = {
    closed: [],
    open: [el("strong", {}, "The game service fails, and is left alone until "), instant(breaker?.open_until), el("strong", {}, ". "), OPEN],
    half_open: [el("strong", {}, "The game service had failed. "), "A few calls find out whether it is back."],
  };
  notice.replaceChildren(...texts[state]);
}
