// The page of a user: interactions, profile, and the list of the start page, now and as of an instant, with reasons.

import { get, post, subscribe } from "./api.js";
import { coalesce, count, el, fact, instant, plural, refill, refusal, setText, split, title, words } from "./dom.js";
import { productItem } from "./product.js";
import { TimeTravel } from "./time-travel.js";

const LIMIT = 20;
const TOP = 8;
const PROFILE_MS = 1000;
const RETRY_MS = 5000;
const STATES = { live: "Live", waiting: "Connecting…", ended: "Not live", past: "Historical" };
const ROLES = "the role service or admin, or those of the user";
const KINDS = {
  views: ["view", "views"], clicks: ["click", "clicks"], add_to_carts: ["put into the cart", "put into the cart"], purchases: ["purchase", "purchases"], likes: ["like", "likes"],
  shares: ["share", "shares"], ratings: ["rating", "ratings"],
};
const LEFT_OUT = {
  inactive: "inactive or not in the catalogue", banned: "banned by a rule", itself: "the product of the list", excluded: "excluded by the request",
  bought: "bought before", variant: "variants of products in the list",
};
const STRATEGIES = {
  joined: "It joins products that are visited together with products that are similar to the user's interests.",
  co_visits: "It has products that are visited together with those of the user.", embedding: "It has products that are similar to the user's interests.",
  popularity: "Nothing is known of the user yet, so it has the popular products.",
};
const SIGNALS = { long_term: "Long-term vector", session: "Session vector", collaborative: "Co-visits" };

/** The search for a user, and the page of one. */
export class Users {
  constructor(panel) {
    Object.assign(this, { panel, view: null });
  }

  /** Shows the user that the address names; `null` hides the page. */
  show(params) {
    this.view?.close();
    this.view = null;
    // The ids of its parts are also those of an open job.
    this.part?.replaceChildren();
    if (params === null) return;
    if (!this.form) this.build();
    this.form.elements.user.value = params.user ?? "";
    if (params.user) {
      this.view = new UserView(this.part, params.user);
      this.view.open();
    }
  }

  build() {
    this.form = el("form", { class: "search-form", role: "search", "aria-label": "Find a user" }, el("div", { class: "search-line" },
      el("label", { class: "grow" }, el("span", { class: "visually-hidden" }, "User id"), el("input", { type: "search", name: "user", required: true, maxlength: 128, placeholder: "User id", autocomplete: "off" })),
      el("button", { class: "primary" }, "Show")));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      location.hash = `#/users/${encodeURIComponent(this.form.elements.user.value.trim())}`;
    });
    this.part = el("div", { class: "user" });
    this.panel.replaceChildren(el("h1", { id: "users-title", tabindex: "-1" }, "Users"), this.form,
      el("p", { class: "subtle" }, "What a user did, what the server recommends, and why."), this.part);
  }
}

class UserView {
  constructor(part, user) {
    Object.assign(this, { part, user, closed: false, past: null, newest: null, stop: () => {}, state: "waiting" });
    this.path = `/api/v1/users/${encodeURIComponent(user)}`;
    this.reload = coalesce(() => this.loadProfile(), PROFILE_MS);
  }

  close() {
    this.closed = true;
    this.stop();
  }

  async open() {
    this.build();
    await this.loadProfile();
    if (!this.closed) this.connect({ record: false });
  }

  build() {
    this.live = el("span", { class: "live", data: { state: "waiting" }, role: "status" }, STATES.waiting);
    this.notice = el("p", { class: "notice", role: "alert" });
    this.tiles = el("dl", { class: "tiles" });
    this.profile = el("div", { class: "profile" });
    this.about = el("p", {});
    this.leftOut = el("p", { class: "subtle" });
    this.status = el("p", { class: "visually-hidden", role: "status" });
    this.list = el("ol", { class: "product-list", "aria-label": "Recommended products" });
    this.travel = new TimeTravel({
      label: "Instant to show the list at", help: "The list below, as of this instant: computed again from the events up to it.",
      onInstant: (at) => this.showAsOf(at), onNow: () => this.backToNow(),
    });
    this.part.replaceChildren(el("div", { class: "panel-head" }, el("h2", { id: "user-title" }, this.user), this.live), this.notice, this.tiles, this.profile,
      this.travel.part, el("section", { "aria-labelledby": "list-title" }, el("h2", { id: "list-title" }, "Recommended"), this.about, this.leftOut, this.status, this.list));
    this.travel.part.hidden = true;
  }

  async loadProfile() {
    try {
      const profile = await get(`${this.path}/profile`);
      if (this.closed || profile === this.known) return;
      this.known = profile;
      setText(this.notice, "");
      this.showProfile(profile, await this.names(profile.top_products.slice(0, TOP)));
      await this.showRange(profile);
    } catch (error) {
      if (this.closed) return;
      setText(this.notice, error.status === 404 ? "This user has no interaction yet, or these credentials may not see it." : refusal(error, "this user", ROLES));
    }
  }

  /** The names of products; a product that is not in the catalogue has its id. */
  names(products) {
    return Promise.all(products.map(async ({ product_id: id }) => {
      const product = await get(`/api/v1/products/${encodeURIComponent(id)}`, { accept: [404] });
      return product.name ?? String(id);
    }));
  }

  showProfile({ interactions, session, top_categories: categories, top_products: products }, names) {
    const tile = (name, value, note = null) => el("div", {}, el("dt", {}, name), el("dd", {}, el("span", { class: "value num" }, value), note ? el("span", { class: "subtle" }, note) : null));
    const kinds = Object.entries(KINDS).filter(([kind]) => interactions[kind] > 0).map(([kind, names]) => `${count(interactions[kind])} ${plural(interactions[kind], ...names)}`);
    this.tiles.replaceChildren(
      tile("Interactions", count(interactions.total), kinds.join(", ")),
      tile("Session", session.active ? "Active" : "Ended", `${count(session.interactions)} ${plural(session.interactions, "interaction")}`),
      tile("First", ...split(interactions.first_at)), tile("Last", ...split(interactions.last_at)),
    );
    this.profile.replaceChildren(
      weights("Top categories", categories.slice(0, TOP).map((one) => [one.category_name ?? one.category_id, one.weight])),
      weights("Top products", products.slice(0, TOP).map((one, index) => [names[index], one.weight])),
      this.signals = el("section", {}, el("h3", {}, "Signals")),
    );
    if (this.newest) this.showSignals(this.newest);
  }

  /** From the first interaction, or the first event of the log if that is later, until now. */
  async showRange(profile) {
    this.start ??= Date.parse((await this.listAsOf(1)).computed_at);
    if (this.closed) return;
    this.travel.part.hidden = false;
    this.travel.range(Math.max(this.start, Date.parse(profile.interactions.first_at)), Date.parse(profile.updated_at) + 1);
  }

  /** Watches the lists. Those of a caller with only the role `user` are recorded as served: to itself. */
  connect({ record }) {
    this.stop = subscribe(
      `${this.path}/recommendations/stream?limit=${LIMIT}&explain=true${record ? "" : "&record=false"}`,
      (name, list) => {
        if (this.closed || name !== "recommendations") return;
        const isFirst = this.newest === null;
        this.newest = list;
        this.reload();
        if (this.past !== null) return;
        this.show(list);
        if (!isFirst) setText(this.status, "The list has changed.");
      },
      (state, error) => {
        if (this.closed) return;
        if (error?.status === 403 && !record) return this.connect({ record: true });
        this.state = state;
        if (this.past === null) this.showState(state);
        if (state !== "ended") return;
        if (error && error.status !== 404) setText(this.notice, refusal(error, "the list of this user", ROLES));
        // For example, a user without an interaction: the stream opens when there is one.
        setTimeout(() => this.closed || this.retry(record), RETRY_MS);
      },
    );
  }

  async retry(record) {
    await this.loadProfile();
    if (!this.closed) this.connect({ record });
  }

  showState(state) {
    this.live.dataset.state = state;
    setText(this.live, STATES[state]);
  }

  listAsOf(asOf) {
    return post("/api/v1/recommend", { user_id: this.user, context: "feed", limit: LIMIT, explain: true, as_of: asOf });
  }

  async showAsOf(at) {
    const past = { at };
    this.past = past;
    this.showState("past");
    this.list.setAttribute("aria-busy", "true");
    try {
      const list = await this.listAsOf(new Date(at).toISOString());
      // A slow response must not overwrite a later one.
      if (this.past !== past || this.closed) return;
      setText(this.notice, "");
      this.show(list);
    } catch (error) {
      if (this.past === past && !this.closed) setText(this.notice, refusal(error, "the list of this user", ROLES));
    } finally {
      if (this.past === past) this.list.removeAttribute("aria-busy");
    }
  }

  backToNow() {
    this.past = null;
    this.list.removeAttribute("aria-busy");
    this.showState(this.state);
    if (this.newest) this.show(this.newest);
  }

  show(list) {
    const { strategy, fallback, experiment, results, left_out: leftOut } = list;
    const added = fallback ? ` ${count(fallback.items)} ${plural(fallback.items, "product")} of it complete it: ${words(fallback.ranking)}.` : "";
    const variant = results.find((item) => item.variant)?.variant;
    const by = experiment ? ` It is made for the experiment ${experiment}${variant ? `, variant ${variant}` : ""}.` : "";
    this.about.replaceChildren(`${STRATEGIES[strategy] ?? title(strategy)}${added}${by} Computed for `, instant(list.computed_at), ", from the events up to position ", count(list.computed_from), ".");
    const reasons = Object.entries(leftOut ?? {}).map(([reason, number]) => `${count(number)} ${LEFT_OUT[reason] ?? words(reason)}`);
    setText(this.leftOut, reasons.length > 0 ? `Left out: ${reasons.join(", ")}.` : "No candidate was left out.");
    this.showSignals(list);
    refill(this.list, results.map((item) => productItem(item, { why: [`${reasonOf(item)}.`], parts: partsOf(item) })));
  }

  /** Which signals there are for the user: one without a weight is missing. */
  showSignals({ weights: used }) {
    this.signals?.replaceChildren(el("h3", {}, "Signals"), el("ul", { class: "signals" }, Object.entries(SIGNALS).map(([name, label]) =>
      el("li", {}, `${label}: `, used[name] > 0 ? el("span", { class: "num" }, `weight ${number(used[name])}`) : el("span", { class: "subtle" }, "none")))));
  }
}

const number = (value) => String(Math.round(value * 1000) / 1000);
const reasonOf = ({ reason }) => reason.replace(/^./, (first) => first.toUpperCase());

function partsOf({ score, explanation: parts, slot, probability }) {
  if (!parts) return null;
  const ranked = (value, rank) => (value === null ? null : `${number(value)}${rank === null ? "" : ` (place ${rank})`}`);
  const facts = {
    Score: number(score), "Co-visits": ranked(parts.co_visits, parts.co_visits_rank), "Visited with": parts.visited_with, Similarity: ranked(parts.similarity, parts.similarity_rank),
    "To long-term interests": ranked(parts.long_term, null), "To this session": ranked(parts.session, null), Popularity: ranked(parts.popularity, null),
    "Boosted by": ranked(parts.boost, null), "Pinned by": parts.pinned_by, Place: slot + 1, Probability: probability === 1 ? null : number(probability),
  };
  return el("dl", { class: "facts" }, Object.entries(facts).filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => fact(name, String(value))));
}

/** Names with their weights, as bars. */
function weights(heading, rows) {
  const most = Math.max(...rows.map(([, weight]) => weight), 0);
  const lines = rows.map(([name, weight]) => {
    const meter = el("span", { class: "span", "aria-hidden": "true" });
    meter.style.setProperty("--part", most > 0 ? weight / most : 0);
    return el("li", {}, el("span", { class: "phase" }, name), meter, el("span", { class: "num" }, number(weight)));
  });
  return el("section", {}, el("h3", {}, heading), rows.length === 0 ? el("p", { class: "subtle" }, "None yet.") : el("ol", { class: "weights", "aria-label": heading }, lines));
}
