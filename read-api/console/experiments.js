// Experiments: the results of each ranking variant, with intervals.

import { get } from "./api.js";
import { intervals } from "./chart.js";
import { chip, count, el, loadWhileShown, plural, refusal, setText } from "./dom.js";

const POLL_MS = 3000;
const percent = (share) => `${Math.round(share * 10000) / 100} %`;
const decimal = (value) => String(Math.round(value * 1000) / 1000);

export class Experiments {
  constructor(panel) {
    Object.assign(this, { panel, isShown: false, shown: new Map() });
    loadWhileShown(this, POLL_MS);
  }

  show(isShown) {
    this.isShown = isShown;
    if (!isShown) return;
    if (!this.list) this.build();
    this.load();
  }

  build() {
    this.notice = el("p", { class: "notice", role: "status" });
    this.empty = el("p", { class: "subtle" });
    this.list = el("div", { class: "experiments" });
    this.panel.replaceChildren(el("h1", { id: "experiments-title", tabindex: "-1" }, "Experiments"),
      el("p", { class: "subtle" }, "Ranking variants on the lists of one context. Each interval contains the true value with a probability of 95 %."), this.notice, this.empty, this.list);
  }

  async load() {
    try {
      const { items } = await get("/api/v1/experiments");
      const results = await Promise.all(items.map(({ name }) => get(`/api/v1/experiments/${encodeURIComponent(name)}`)));
      setText(this.notice, "");
      setText(this.empty, items.length === 0 ? "There is no experiment: add one to the settings, and it starts with the server." : "");
      const now = JSON.stringify(results);
      if (now === this.now) return;
      this.now = now;
      const open = new Set([...this.list.querySelectorAll("details[open]")].map((one) => one.dataset.name));
      const focused = this.list.contains(document.activeElement) ? document.activeElement.closest("details")?.dataset.name : null;
      this.list.replaceChildren(...results.map((one) => experimentPart(one, open.has(one.name))));
      if (focused) [...this.list.querySelectorAll("details")].find((one) => one.dataset.name === focused)?.querySelector("summary").focus();
    } catch (error) {
      this.now = null;
      this.list.replaceChildren();
      setText(this.notice, refusal(error, "the experiments", "the role service or admin"));
    }
  }
}

const nameOf = ({ variant }) => variant ?? "Both agreed";

function experimentPart({ name, is_running: isRunning, variants }, isOpen) {
  const competing = variants.filter((one) => one.variant !== null);
  const rows = (measure, of = variants) => of.map((one) => ({ name: nameOf(one), estimate: one[measure], tone: competing.indexOf(one) }));
  const hasWins = competing.some((one) => one.wins !== null);
  const facts = variants.map((one) => `${nameOf(one)}: ${count(one.lists)} ${plural(one.lists, "list")}, ${count(one.impressions)} products shown, ${count(one.clicks)} clicked, ${count(one.purchases)} bought`);
  const verdict = hasWins ? winner(competing) : null;
  return el("article", { class: "experiment" },
    el("div", { class: "panel-head" }, el("h2", {}, name), chip(isRunning ? "running" : "cancelled", isRunning ? "Running" : "Not in the settings any more")),
    variants.length === 0 ? el("p", { class: "subtle" }, "No list was served for it yet.") : [
      verdict ? el("p", {}, verdict) : null, el("ul", { class: "subtle" }, facts.map((text) => el("li", {}, text))),
      el("div", { class: "charts" },
        hasWins ? intervals("Lists won", rows("win_rate", competing), percent, { line: 0.5 }) : null,
        intervals("Products clicked", rows("click_rate"), percent), intervals("Products bought", rows("purchase_rate"), percent),
        intervals("Reward of a product, in purchases", rows("reward"), decimal)),
      el("details", { open: isOpen, data: { name } }, el("summary", {}, "By place in the list"), slots(variants, name)),
    ]);
}

/** A variant is better if the interval of its share of wins is above a half. */
function winner(variants) {
  const best = variants.find((one) => one.win_rate?.low > 0.5);
  return best ? `${nameOf(best)} is better: its interval is above a half.` : "Neither variant is better yet: both intervals contain a half.";
}

function slots(variants, name) {
  const rows = variants.flatMap((one) => one.slots.map((slot) => el("tr", {},
    [slot.slot + 1, nameOf(one), count(slot.impressions), range(slot.click_rate), range(slot.purchase_rate)].map((cell) => el("td", { class: "num" }, String(cell))))));
  const head = ["Place", "Variant", "Shown", "Clicked", "Bought"].map((text) => el("th", { scope: "col" }, text));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Places of ${name}` }, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)));
}

const range = (rate) => (rate ? `${percent(rate.value)} (${percent(rate.low)} to ${percent(rate.high)})` : "–");
