// The latest game matches of all pools: players, rating gap, waiting times and outcome.

import { get } from "./api.js";
import { chip, count, duration, el, title, words } from "./dom.js";

const SHOWN = 10;
/** The job status whose chip colour is used. */
const TONES = { placing: "pending", playing: "running", finished: "completed", expired: "cancelled", abandoned: "failed" };

export class RecentMatches {
  constructor() {
    this.part = document.getElementById("recent-matches");
    this.rows = document.getElementById("recent-matches-rows");
  }

  /** Loads them; hidden if the credentials do not allow it. */
  async load() {
    try {
      const page = await get(`/internal/matches?limit=${SHOWN}`);
      if (page === this.page) return;
      this.page = page;
      this.show(page.items);
    } catch (error) {
      if (error.status === 401 || error.status === 403) this.part.hidden = true;
      else throw error;
    }
  }

  show(matches) {
    this.part.hidden = matches.length === 0;
    this.rows.replaceChildren(...matches.map((match) => {
      const [first, second] = match.players;
      return el("tr", {},
        el("td", {}, player(first)), el("td", {}, player(second)),
        el("td", {}, chip(match.result === "aborted" ? "cancelled" : TONES[match.status], outcome(match)), match.detail ? el("span", { class: "subtle" }, ` ${match.detail}`) : null),
        el("td", {}, match.pool_key, match.challenge_id ? el("span", { class: "subtle" }, " by challenge") : null),
        el("td", { class: "num" }, count(Math.abs(first.rating - second.rating))),
        el("td", { class: "num" }, waited(first, second)));
    }));
  }
}

function player({ user_id: user, rating, rating_before: before, rating_after: after }) {
  const change = after === null || before === null ? null : Math.round(after - before);
  const moved = change === null ? "" : ` ${change < 0 ? "−" : "+"}${Math.abs(change)}`;
  return [user ?? "erased", el("span", { class: "subtle num" }, ` ${rating}${moved}`)];
}

function waited(first, second) {
  const waits = [first, second].map((one) => one.waited_seconds).filter((wait) => wait !== null);
  return waits.length === 0 ? "–" : waits.map((wait) => duration(wait)).join(" / ");
}

function outcome(match) {
  if (match.status === "abandoned") return title(match.reason ?? "abandoned");
  if (match.status !== "finished") return title(match.status);
  const names = { first: match.players[0].user_id ?? "the first", second: match.players[1].user_id ?? "the second" };
  return names[match.result] ? `${names[match.result]} won` : title(words(match.result));
}
