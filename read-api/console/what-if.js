// What another configuration would have done with the recorded history: a question, its progress, and both results side by side.

import { get, post } from "./api.js";
import { Curves, intervals } from "./chart.js";
import { chip, count, duration, el, refusal, setText, title, words } from "./dom.js";

const POLL_MS = 500;
const ROLES = "the role admin";
const STATUS = { running: "running", completed: "completed", failed: "failed" };
/** Pairs, because an object has its numbers first. */
const RANGES = [["", "All of it"], ["3600", "The last hour"], ["86400", "The last day"], ["604800", "The last week"]];
const KINDS = { pool: "The settings of a pool", retry: "The policy of retries", ranking: "The weights of a ranking" };
const SETTINGS = {
  window: "Rating window", widen_by: "Widened by", widen_every_seconds: "every (seconds)", window_max: "Widest window", entry_expires_after_seconds: "Entries expire after (seconds)", rematch_after_seconds: "Rematch after (seconds)",
};
const POLICIES = { longest_waiting: "That of the longer waiting player counts", both: "Both windows count" };
const CATEGORIES = ["network", "external", "resource", "processing", "input", "unknown"];
const BACKOFFS = ["exponential", "linear", "fixed", "immediate"];
const CONTEXTS = ["feed", "similar", "category"];
/** The weights that the server has for the lists of a context, unless its settings say otherwise. */
const WEIGHTS = {
  feed: { long_term: 0.6, session: 0.4, query: 0, product: 0, collaborative: 0.95 }, similar: { long_term: 0.2, session: 0, query: 0, product: 0.8, collaborative: 0.9 },
  category: { long_term: 1, session: 0, query: 0, product: 0, collaborative: 0.95 },
};
const NAMES = { long_term: "Long-term interests", session: "This session", query: "Query", product: "Product", collaborative: "Co-visits (0 to 1)" };
const CANNOT_TELL = {
  coverage: "The served lists could not have shown enough of what the other ranking would choose: run an experiment that varies them.", sample_size: "Too few slots or users count.",
  weights: "The served lists showed some choices of the other ranking too rarely.", rewards: "Too few products were clicked or bought.",
};

export class WhatIf {
  constructor(panel) {
    Object.assign(this, { panel, id: null, isShown: false });
  }

  /** Shows the question, and the run with this id; `null` hides the page. */
  show(params) {
    this.isShown = params !== null;
    this.id = params?.id ?? null;
    if (params === null) return;
    if (!this.form) this.build();
    this.result.replaceChildren();
    setText(this.notice, "");
    this.loadPools();
    if (this.id) this.follow(this.id);
  }

  build() {
    this.notice = el("p", { class: "notice", role: "alert" });
    this.fields = el("div", { class: "fields" });
    this.pools = el("datalist", { id: "pool-keys" });
    this.kind = select("Of", "kind", KINDS, () => this.showFields());
    this.button = el("button", { class: "primary" }, "Compare");
    this.form = el("form", { class: "question", "aria-label": "What if", onsubmit: (event) => this.ask(event) },
      el("div", { class: "fields" }, this.kind, select("History", "range", RANGES)), this.fields, this.pools, el("div", {}, this.button));
    this.result = el("div", { class: "result", "aria-live": "polite" });
    this.panel.replaceChildren(el("h1", { id: "what-if-title", tabindex: "-1" }, "What if"),
      el("p", { class: "subtle" }, "The log contains what happened, so another configuration can be tried on it. Nothing is changed."), this.form, this.notice, this.result);
    this.showFields();
  }

  showFields() {
    const kind = this.form.elements.kind.value;
    const parts = { pool: () => this.poolFields(), retry: retryFields, ranking: () => this.rankingFields() };
    this.fields.replaceChildren(...parts[kind]());
    if (kind === "pool") this.fillPool();
    if (kind === "ranking") this.fillWeights();
  }

  poolFields() {
    return [field("Pool", "pool_key", { type: "text", list: "pool-keys", required: true, maxlength: 64, autocomplete: "off", onchange: () => this.fillPool() }),
      ...Object.entries(SETTINGS).map(([name, label]) => field(label, name, { min: 0, step: 1, required: true })), select("Windows", "window_policy", POLICIES)];
  }

  rankingFields() {
    const contexts = Object.fromEntries(CONTEXTS.map((name) => [name, title(name)]));
    return [select("Lists", "context", contexts, () => this.fillWeights()), ...Object.entries(NAMES).map(([name, label]) => field(label, name, { min: 0, step: "any", required: true }))];
  }

  fillWeights() {
    const { elements } = this.form;
    for (const [name, value] of Object.entries(WEIGHTS[elements.context.value])) elements[name].value = value;
  }

  async loadPools() {
    try {
      const { pools } = await get("/internal/queues/summary");
      this.pools.replaceChildren(...pools.map(({ pool_key: key }) => el("option", { value: key })));
      const input = this.form.elements.pool_key;
      if (input && !input.value && pools.length > 0) {
        input.value = pools[0].pool_key;
        await this.fillPool();
      }
    } catch (error) {
      if (this.isShown) setText(this.notice, refusal(error, "what-if runs", ROLES));
    }
  }

  /** The settings that are in force, which the question then changes. */
  async fillPool() {
    const { elements } = this.form;
    const key = elements.pool_key?.value.trim();
    if (!key) return;
    try {
      const { settings } = await get(`/internal/pools/${encodeURIComponent(key)}`);
      this.settings = settings;
      for (const name of [...Object.keys(SETTINGS), "window_policy"]) if (elements[name]) elements[name].value = settings[name];
    } catch (error) {
      setText(this.notice, refusal(error, "the settings of pools", ROLES));
    }
  }

  configuration() {
    const form = new FormData(this.form);
    const number = (name) => Number(form.get(name));
    const kind = form.get("kind");
    if (kind === "pool") {
      const all = { ...Object.fromEntries(Object.keys(SETTINGS).map((name) => [name, number(name)])), window_policy: form.get("window_policy") };
      const changed = Object.entries(all).filter(([name, value]) => value !== this.settings?.[name]);
      return { pool_key: form.get("pool_key").trim(), settings: Object.fromEntries(changed) };
    }
    if (kind === "retry") {
      const policy = { retries: number("retries"), base_seconds: number("base_seconds"), cap_seconds: number("cap_seconds"), backoff: form.get("backoff") };
      return { [form.get("category")]: policy };
    }
    return { context: form.get("context"), weights: Object.fromEntries(Object.keys(NAMES).map((name) => [name, number(name)])) };
  }

  async ask(event) {
    event.preventDefault();
    const form = new FormData(this.form);
    const question = { kind: form.get("kind"), configuration: this.configuration() };
    if (form.get("range")) question.from = new Date(Date.now() - Number(form.get("range")) * 1000).toISOString();
    this.button.disabled = true;
    try {
      const run = await post("/internal/what-if", question);
      setText(this.notice, "");
      location.hash = `#/what-if/${run.id}`;
    } catch (error) {
      setText(this.notice, refusal(error, "what-if runs", ROLES));
    } finally {
      this.button.disabled = false;
    }
  }

  /** Shows the progress of a run until its end, and then the result. */
  async follow(id) {
    const isOpen = () => this.isShown && this.id === id;
    while (isOpen()) {
      try {
        const run = await get(`/internal/what-if/${encodeURIComponent(id)}`);
        if (!isOpen()) return;
        setText(this.notice, "");
        if (run.status !== "running") return this.showRun(run);
        this.showProgress(run);
      } catch (error) {
        if (!isOpen()) return;
        setText(this.notice, refusal(error, "what-if runs", ROLES));
        if (error.status && error.status < 500) return;
      }
      await new Promise((wake) => setTimeout(wake, POLL_MS));
    }
  }

  showProgress({ progress, kind }) {
    if (!this.meter?.isConnected) {
      this.meter = el("progress", { max: 1, "aria-label": "Progress of the run", data: { status: "running" } });
      this.meterText = el("span", { class: "num" });
      this.result.replaceChildren(el("h2", {}, KINDS[kind]), el("div", { class: "meter big" }, this.meter, this.meterText));
    }
    this.meter.value = progress.fraction;
    const left = progress.eta_seconds === null ? "" : `, about ${duration(progress.eta_seconds)} left`;
    setText(this.meterText, `${Math.floor(progress.fraction * 100)} %${left}`);
  }

  showRun(run) {
    const { kind } = this.form.elements;
    if (kind.value !== run.kind) {
      // An address was opened: the form asks for the same kind.
      kind.value = run.kind;
      this.showFields();
    }
    const head = el("div", { class: "panel-head" }, el("h2", {}, KINDS[run.kind]), chip(STATUS[run.status]));
    if (run.error) return this.result.replaceChildren(head, el("p", { class: "notice" }, `${run.error}.`));
    const answer = run[run.kind];
    const parts = { pool: poolResult, retry: retryResult, ranking: rankingResult };
    this.result.replaceChildren(head, el("p", {}, changesOf(run)),
      el("p", { class: "subtle" }, `Of the events from position ${count(run.from)} to ${count(run.to)}. What is assumed: ${answer.assumption}.`), ...parts[run.kind](answer));
  }
}

function field(label, name, props) {
  return el("label", {}, el("span", {}, label), el("input", { type: "number", inputmode: "decimal", name, ...props }));
}

function select(label, name, options, onchange = null) {
  const pairs = Array.isArray(options) ? options : Object.entries(options);
  const entries = pairs.map(([value, text]) => el("option", { value }, text));
  return el("label", {}, el("span", {}, label), el("select", { name, onchange: onchange ?? (() => {}) }, entries));
}

function retryFields() {
  const named = (values) => Object.fromEntries(values.map((value) => [value, title(value)]));
  return [select("Errors", "category", named(CATEGORIES)), field("Retries", "retries", { min: 0, step: 1, value: 5, required: true }),
    field("First delay (seconds)", "base_seconds", { min: 0, step: 1, value: 2, required: true }), field("Longest delay (seconds)", "cap_seconds", { min: 0, step: 1, value: 60, required: true }),
    select("Delays", "backoff", named(BACKOFFS))];
}

/** What the other configuration changes, in words. */
function changesOf({ kind, configuration, pool, retry }) {
  const changed = (now, then) => Object.keys(now).filter((name) => now[name] !== then?.[name]).map((name) => `${words(name)} ${then?.[name] ?? "–"} → ${now[name]}`);
  if (kind === "pool") {
    const changes = changed(pool.other_settings, pool.recorded_settings);
    return `Pool ${configuration.pool_key}: ${changes.length > 0 ? changes.join(", ") : "the settings that are in force"}.`;
  }
  if (kind === "retry") {
    return Object.entries(configuration).map(([name, policy]) => `Errors of the category ${words(name)}: ${changed(policy, retry.recorded_policies[name]).join(", ") || "the policy in force"}.`).join(" ");
  }
  return `Lists of the context ${configuration.context}: ${Object.entries(configuration.weights).filter(([, weight]) => weight > 0).map(([name, weight]) => `${NAMES[name].toLowerCase()} ${weight}`).join(", ") || "popularity only"}.`;
}

const whole = (value) => count(value < 10 ? Math.round(value * 100) / 100 : Math.round(value));
const BOTH = ["As recorded", "With the other configuration"];

/** Both outcomes in one table; `rows` are a name and the function of an outcome. */
function sideBySide({ recorded, other }, rows) {
  const head = ["", ...BOTH].map((text) => (text ? el("th", { scope: "col" }, text) : el("td", {})));
  const lines = rows.map(([name, of]) => el("tr", {}, el("th", { scope: "row" }, name), [recorded, other].map((one) => el("td", { class: "num" }, of(one)))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Both results" }, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, lines)));
}

const curves = (heading, { recorded, other }, name, format) => new Curves(heading, [recorded, other].map((one, index) => ({ name: BOTH[index], spread: one[name] })), format).part;
const of = (name, part, format) => (one) => (one[name] ? format(one[name][part]) : "–");

function poolResult(answer) {
  return [
    el("p", {}, `${count(answer.joined)} entries joined.`),
    el("div", { class: "charts" }, curves("Waiting time of matched entries", answer, "wait_seconds", duration), curves("Rating distance of matches", answer, "rating_distance", whole)),
    sideBySide(answer, [["Matches", (one) => count(one.matches)], ["Left without a match", (one) => count(one.left)], ["Expired", (one) => count(one.expired)], ["Still waiting", (one) => count(one.waiting)],
      ["Median wait", of("wait_seconds", "p50", duration)], ["95 % wait at most", of("wait_seconds", "p95", duration)], ["Median distance", of("rating_distance", "p50", whole)], ["95 % are at most apart", of("rating_distance", "p95", whole)]]),
  ];
}

function retryResult(answer) {
  return [
    el("p", {}, `${count(answer.failures)} failures of ${count(answer.jobs)} jobs. Lost completions: ${count(answer.lost_completions)}. Saved attempts: ${count(answer.saved_attempts)}.`),
    el("div", { class: "charts" }, curves("Delay before a retry", answer, "delay_seconds", duration)),
    sideBySide(answer, [["Retries", (one) => count(one.retries)], ["Completed after a retry", (one) => count(one.completed)], ["Failed for good", (one) => count(one.stopped)], ["Cancelled", (one) => count(one.cancelled)],
      ["Open", (one) => count(one.open)], ["Cannot be told", (one) => count(one.cannot_tell)], ["Median delay", of("delay_seconds", "p50", duration)]]),
  ];
}

function rankingResult(answer) {
  const percent = (value) => `${Math.round(value * 10000) / 100} %`;
  const part = (heading, evaluation) => {
    const { served, estimates, cannot_tell: reason } = evaluation;
    const rows = [{ name: "As served", estimate: served, tone: 0 }];
    if (estimates) rows.push(...[["Other: doubly robust", "doubly_robust"], ["Other: SNIPS", "snips"], ["Other: IPS", "ips"]].map(([name, key]) => ({ name, estimate: estimates[key], tone: 1 })));
    const node = intervals(heading, rows, percent);
    if (reason) node.append(el("p", { class: "subtle" }, `Cannot be told. ${CANNOT_TELL[reason] ?? title(reason)}`));
    node.append(el("p", { class: "subtle" }, `${count(evaluation.slots)} slots of ${count(evaluation.users)} users; coverage ${percent(evaluation.coverage)}, effective sample size ${whole(evaluation.effective_sample_size)}.`));
    return node;
  };
  return [
    el("p", {}, `${count(answer.lists)} lists. Both rankings have the same product in ${percent(answer.same_products)} of their slots.`),
    el("div", { class: "charts" }, part("Slots clicked", answer.clicks), part("Slots bought", answer.purchases)),
  ];
}
