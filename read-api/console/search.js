// Search over the products: results with pictures and reasons, filters with counts, and the plan of the search in words.

import { get, post } from "./api.js";
import { count, el, plural, refill, refusal, setText, title } from "./dom.js";
import { productItem } from "./product.js";

const PAGE = 24;
const POLL_MS = 5000;
const FACET_VALUES = 8;
const MODES = { hybrid: "Words and meaning", lexical: "Words", semantic: "Meaning" };
/** The parameters of the address, which are those of the form and of the facets. */
const TEXTS = ["q", "like", "mode", "category_id", "brand"];
const NUMBERS = ["min_price", "max_price", "min_score"];

export class Search {
  constructor(panel) {
    Object.assign(this, { panel, asked: 0, params: null, answer: null, rest: [], shown: null });
    setInterval(() => this.params && !document.hidden && this.rest.length === 0 && this.load(), POLL_MS);
  }

  /** Shows the search that the address contains; `null` hides it. */
  show(params) {
    this.params = params;
    this.asked += 1;
    if (params === null) return;
    if (!this.form) this.build();
    for (const input of this.form.elements) {
      if (!input.name) continue;
      if (input.type === "checkbox") input.checked = params.get(input.name) === "true";
      else input.value = params.get(input.name) ?? (input.name === "mode" ? "hybrid" : "");
    }
    Object.assign(this, { rest: [], shown: null });
    this.load();
  }

  build() {
    const input = (name, label, props) => el("label", {}, el("span", {}, label), el("input", { name, type: "number", min: 0, step: "any", inputmode: "decimal", ...props }));
    const modes = Object.entries(MODES).map(([value, text]) => el("option", { value }, text));
    this.form = el("form", { class: "search-form", role: "search", "aria-label": "Search the products" },
      el("div", { class: "search-line" },
        el("label", { class: "grow" }, el("span", { class: "visually-hidden" }, "Search"), el("input", { type: "search", name: "q", maxlength: 1000, placeholder: "Search the products", autocomplete: "off" })),
        el("label", {}, el("span", { class: "visually-hidden" }, "Compare by"), el("select", { name: "mode" }, modes)),
        el("button", { class: "primary" }, "Search")),
      el("div", { class: "search-line" },
        input("min_price", "Price from"), input("max_price", "to"), input("min_score", "Least score"),
        el("label", { class: "check" }, el("input", { type: "checkbox", name: "in_stock" }), " In stock")));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go({});
    });
    // A filter counts at once; a text when it is sent.
    this.form.addEventListener("change", (event) => event.target.name !== "q" && this.go({}));
    this.notice = el("p", { class: "notice", role: "alert" });
    this.chosen = el("ul", { class: "chosen", "aria-label": "Chosen filters" });
    this.facets = el("div", { class: "facets" });
    this.status = el("p", { class: "subtle", role: "status" });
    this.plan = el("p", { class: "subtle" });
    this.list = el("ol", { class: "product-list", "aria-label": "Products" });
    this.more = el("button", { type: "button", class: "quiet more", hidden: true, onclick: () => this.loadMore() }, "Show more products");
    this.panel.replaceChildren(el("h1", { id: "search-title", tabindex: "-1" }, "Search"), this.form, this.notice,
      el("div", { class: "search-body" }, el("div", { class: "side" }, this.chosen, this.facets), el("div", {}, el("h2", { class: "visually-hidden" }, "Results"), this.status, this.plan, this.list, this.more)));
  }

  /** The address of this search with some parameters changed; empty ones are left out. */
  address(changes) {
    const all = { ...Object.fromEntries(this.params), ...changes };
    const given = Object.entries(all).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    return `#/search?${new URLSearchParams(given)}`;
  }

  /** Opens the search that the form describes. */
  go(changes) {
    const form = new FormData(this.form);
    const fields = Object.fromEntries(["q", ...NUMBERS].map((name) => [name, form.get(name).trim()]));
    const mode = form.get("mode");
    // Another text is not about the product any more.
    const like = fields.q ? { like: "" } : {};
    location.hash = this.address({ ...fields, ...like, mode: mode === "hybrid" ? "" : mode, in_stock: form.get("in_stock") ? "true" : "", ...changes });
  }

  body() {
    const of = Object.fromEntries([...TEXTS, "in_stock"].map((name) => [name, this.params.get(name) || undefined]));
    const number = (name) => (this.params.get(name) ? Number(this.params.get(name)) : undefined);
    return {
      query: of.q, product_id: of.q ? undefined : of.like, mode: of.q ? of.mode : undefined, limit: PAGE, facets: true, explain: true, min_score: number("min_score"),
      filters: { category_id: of.category_id, brand: of.brand, in_stock: of.in_stock ? true : undefined, min_price: number("min_price"), max_price: number("max_price") },
    };
  }

  async load() {
    const asked = ++this.asked;
    const body = this.body();
    const started = performance.now();
    try {
      const isSearch = body.query || body.product_id;
      const [answer, like] = await Promise.all([isSearch ? post("/api/v1/search", body) : this.popular(), body.product_id ? get(`/api/v1/products/${encodeURIComponent(body.product_id)}`) : null]);
      if (asked !== this.asked) return;
      this.like = like?.name;
      setText(this.notice, "");
      // The position changes with every event of the log, and the time with every request.
      const now = JSON.stringify({ ...answer, position: null, next_cursor: null });
      if (now === this.shown) return;
      Object.assign(this, { shown: now, answer, took: performance.now() - started });
      this.render();
    } catch (error) {
      if (asked !== this.asked) return;
      this.shown = null;
      setText(this.notice, refusal(error, "the products", "a role of this tenant"));
    }
  }

  /** What is shown before something is searched for. */
  async popular() {
    const list = (order) => get(`/api/v1/products?order=${order}&is_active=true&limit=${PAGE}`);
    const popular = (await list("popularity")).items;
    // Without an interaction, no product is popular.
    const results = popular.length > 0 ? popular : (await list("id")).items;
    return { results, isPopular: popular.length > 0, total: null, facets: null, plan: null, next_cursor: null };
  }

  async loadMore() {
    const asked = this.asked;
    this.more.disabled = true;
    try {
      const last = this.rest.at(-1) ?? this.answer;
      const page = await post("/api/v1/search", { ...this.body(), facets: false, cursor: last.next_cursor });
      if (asked !== this.asked) return;
      this.rest.push(page);
      const first = this.list.children.length;
      this.render();
      // The keyboard continues at the first new product.
      this.list.children[first]?.querySelector("summary, a")?.focus();
    } catch (error) {
      setText(this.notice, error.message);
    } finally {
      this.more.disabled = false;
    }
  }

  render() {
    const { answer } = this;
    const results = [answer, ...this.rest].flatMap((page) => page.results);
    refill(this.list, results.map((product) => this.item(product)));
    this.more.hidden = !(this.rest.at(-1) ?? answer).next_cursor;
    setText(this.status, this.summary(results.length));
    setText(this.plan, answer.plan ? planText(answer.plan, answer.model_id) : "");
    this.renderChosen();
    this.facets.replaceChildren(...(answer.facets ? this.facetParts(answer.facets) : []));
  }

  summary(shown) {
    const { total, isPopular } = this.answer;
    if (total === null && shown === 0) return "The catalogue is empty. Import products: matchbook products import FILE";
    if (total === null) return `${isPopular ? "The most popular products" : "The first products of the catalogue"}. Search for something, or follow “Similar”.`;
    if (total === 0) return "No product is found. Remove a filter, lower the least score, or search for other words.";
    return `${count(shown)} of ${count(total)} ${plural(total, "product")}, the best first, in ${Math.max(1, Math.round(this.took))} ms.`;
  }

  item(product) {
    const { explanation, score } = product;
    const why = explanation ? [`${reason(explanation)} Score ${score.toFixed(3)}.`] : [];
    const id = String(product.product_id);
    const similar = el("a", { href: `#/search?${new URLSearchParams({ like: id })}`, "aria-label": `Products similar to ${product.name}` }, "Similar");
    const matching = el("a", { href: `#/matching/${encodeURIComponent(id)}`, "aria-label": `Cutouts of ${product.name}` }, "Cutouts");
    return productItem(product, { why, actions: [similar, matching] });
  }

  renderChosen() {
    const names = { like: "Similar to", category_id: "Category", brand: "Brand" };
    const chosen = Object.entries(names).filter(([name]) => this.params.get(name) && !(name === "like" && this.params.get("q")));
    this.chosen.replaceChildren(...chosen.map(([name, label]) => {
      const value = this.params.get(name);
      const known = this.answer.facets?.[name]?.find((one) => one.value === value)?.name ?? (name === "like" ? this.like ?? `product ${value}` : value);
      return el("li", {}, el("a", { href: this.address({ [name]: "" }), "aria-label": `Remove ${label} ${known}` }, `${label}: ${known} ×`));
    }));
  }

  facetParts(facets) {
    const groups = { category_id: "Category", brand: "Brand" };
    const isNarrow = matchMedia("(max-width: 62rem)").matches;
    return Object.entries(groups).filter(([name]) => facets[name].length > 0 && !this.params.get(name)).map(([name, label]) => {
      const link = ({ value, name: text, count: number }) =>
        el("li", {}, el("a", { href: this.address({ [name]: value }) }, text ?? value, " ", el("span", { class: "subtle num" }, count(number))));
      const [first, others] = [facets[name].slice(0, FACET_VALUES), facets[name].slice(FACET_VALUES)];
      return el("details", { open: !isNarrow, class: "facet" }, el("summary", {}, label), el("ul", {}, first.map(link)),
        others.length > 0 ? el("details", {}, el("summary", {}, `${count(others.length)} more`), el("ul", {}, others.map(link))) : null);
    });
  }
}

function reason({ lexical, words, similarity }) {
  const parts = [];
  if (lexical !== null) parts.push(`Contains ${words} ${plural(words, "word")} of the query (${lexical.toFixed(1)})`);
  if (similarity !== null) parts.push(`${lexical === null ? "S" : "s"}imilarity ${similarity.toFixed(2)}`);
  return parts.length > 0 ? `${parts.join(", ")}.` : "";
}

/** The plan of a search, in words. */
export function planText({ strategy, candidates, products }, model) {
  const [passed, all] = [count(candidates), count(products)];
  const subject = candidates === products ? `All ${all} products` : `The ${passed} of ${all} products that pass the filters`;
  const texts = {
    empty: `None of the ${all} products passes the filters.`,
    exact_scan: `${subject} were compared one by one, so the result is exact.`,
    filtered_search: `The vector index was searched, and left out what does not pass the filters: ${passed} of ${all} products pass.`,
    search: `The vector index of all ${all} products was searched.`,
  };
  return `${texts[strategy] ?? title(strategy)} Vectors: ${model}.`;
}
