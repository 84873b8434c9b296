// Matching: products, their pictures, and the cutouts that may show them, to accept or not by mouse and by keyboard.

import { get, post } from "./api.js";
import { CandidateList } from "./candidates.js";
import { coalesce, count, el, loadWhileShown, plural, refill, refusal, setText } from "./dom.js";
import { picture } from "./product.js";
import { Work, cancelExtraction, cancelJob, newestExtraction, newestSync, ofExtraction } from "./work.js";

const POLL_MS = 3000;
const PAGE = 50;
const PICTURES_MAX = 12;
const ROLES = "a role of this tenant";
const USERS = "the role user, service or admin";
const address = (id) => `#/matching/${encodeURIComponent(id)}`;
const extract = (job_type, more = {}) => post("/api/v1/embeddings/extract", { job_type, ...more });

export class Matching {
  constructor(panel) {
    Object.assign(this, { panel, isShown: false, id: null, asked: 0, pages: 1, hidden: new Set() });
    loadWhileShown(this, POLL_MS);
  }

  /** Shows the product of the address, or the list alone; `null` hides the section. */
  show(params) {
    this.isShown = params !== null;
    if (!this.isShown) return;
    const isFirst = !this.list;
    if (isFirst) this.build();
    const id = params.id || null;
    const isOther = id !== this.id;
    Object.assign(this, { id, asked: this.asked + 1 });
    this.body.classList.toggle("has-product", id !== null);
    this.target.hidden = this.candidates.part.hidden = id === null;
    if (isOther) {
      Object.assign(this, { known: null, extraction: null, hidden: new Set() });
      for (const part of [this.name, this.notice, this.pictureNote]) setText(part, "");
      for (const part of [this.about, this.pictures, this.matches]) part.replaceChildren();
      this.candidates.open(id);
      this.mark();
      // Keyboards and screen readers continue at the new content.
      if (id !== null && !isFirst) this.name.focus();
    }
    this.load();
  }

  build() {
    this.sync = new Work({ label: "Sync cutouts", roles: "the role service", start: () => post("/api/v1/cutouts/sync", {}), newest: newestSync, cancel: cancelJob });
    const extraction = (label, type) => new Work({ label, roles: USERS, start: () => extract(type), newest: (min) => newestExtraction(type, min), cancel: cancelExtraction });
    this.work = [this.sync, extraction("Extract vectors of cutouts", "extract_cutouts"), extraction("Extract vectors of products", "extract_products")];
    this.error = el("p", { class: "notice", role: "alert" });
    this.form = el("form", { role: "search", "aria-label": "Filter the products" }, el("label", {}, el("span", { class: "visually-hidden" }, "Name, brand or id"),
      el("input", { type: "search", name: "q", maxlength: 200, placeholder: "Name, brand or id", autocomplete: "off" })));
    const filter = coalesce(() => {
      this.pages = 1;
      this.loadList();
    }, 200);
    this.form.addEventListener("input", filter);
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.listNote = el("p", { class: "subtle", role: "status" });
    this.list = el("ul", { class: "target-list", "aria-label": "Products for matching" });
    this.more = el("button", { type: "button", class: "quiet more", hidden: true, onclick: () => this.showMore() }, "Show more products");
    this.buildProduct();
    this.candidates = new CandidateList({ onChanged: (text, position) => this.changed(text, position), onStep: (by) => this.step(by), onHidden: (origin) => this.showHidden(origin) });
    this.body = el("div", { class: "matching-body" },
      el("section", { class: "targets", "aria-labelledby": "targets-title" }, el("h2", { id: "targets-title" }, "Products"), this.form, this.listNote, this.list, this.more), this.target, this.candidates.part);
    // Keys count while the focus is in the section, and not in a field.
    this.panel.addEventListener("keydown", (event) => this.candidates.key(event));
    this.panel.replaceChildren(el("h1", { id: "matching-title", tabindex: "-1" }, "Matching"), el("p", { class: "subtle" }, "Which cutouts show which product: the nearest ones by their vectors are proposed."),
      el("div", { class: "works" }, this.work.map((one) => one.part)), this.error, this.body);
  }

  buildProduct() {
    this.name = el("h2", { id: "target-title", tabindex: "-1" });
    this.notice = el("p", { class: "notice", role: "alert" });
    this.about = el("p", { class: "subtle" });
    this.pictureNote = el("p", { class: "subtle" });
    this.pictures = el("ul", { class: "pictures", "aria-label": "Pictures of the product" });
    this.matches = el("ul", { class: "matches", "aria-label": "Cutouts that show the product" });
    this.matchesTitle = el("h3", {}, "Cutouts that show it");
    this.noMatches = el("p", { class: "subtle" }, "None yet.");
    // The job that was started for this product here: a list of jobs does not say for which product each is.
    const newest = async (min) => (this.extraction ? ofExtraction(await get(`/api/v1/embeddings/jobs/${this.extraction}`, { min })) : null);
    const start = async () => {
      const started = await extract("extract_single_product", { product_ids: [this.id] });
      this.extraction = started.id;
      return started;
    };
    this.single = new Work({ label: "Extract vectors of this product", roles: USERS, start, newest, cancel: cancelExtraction });
    this.target = el("section", { class: "target", "aria-labelledby": "target-title" }, el("a", { class: "back", href: "#/matching" }, "← All products"),
      this.name, this.notice, this.about, this.pictures, this.pictureNote, this.single.part, this.matchesTitle, this.noMatches, this.matches);
  }

  async load() {
    const jobs = this.id === null ? this.work : [...this.work, this.single];
    await Promise.all([this.loadList(), this.loadProduct(), this.candidates.load(), ...jobs.map((one) => one.load())]);
  }

  /** The pages of the list that are shown; an unchanged page costs a 304. */
  async loadList() {
    const q = this.form.elements.q.value.trim();
    const asked = (this.listed = {});
    const items = [];
    let cursor = null;
    try {
      for (let page = 0; page < this.pages && (page === 0 || cursor !== null); page++) {
        const query = new URLSearchParams({ limit: PAGE, ...(q && { q }), ...(cursor && { cursor }) });
        const answer = await get(`/api/v1/matching/products?${query}`);
        items.push(...answer.items);
        cursor = answer.next_cursor;
      }
    } catch (error) {
      if (asked === this.listed) setText(this.error, refusal(error, "the products", ROLES));
      return;
    }
    if (asked !== this.listed) return;
    setText(this.error, "");
    this.more.hidden = cursor === null;
    setText(this.listNote, items.length > 0 ? "" : q ? "No product matches." : "The catalogue is empty. Import products: matchbook products import FILE");
    const now = JSON.stringify(items);
    if (now === this.items) return;
    Object.assign(this, { items: now, ids: items.map((item) => String(item.id)) });
    refill(this.list, items.map((item) => {
      const numbers = `${count(item.image_vector_count)} ${plural(item.image_vector_count, "vector")} · ${count(item.matched_count)} ${plural(item.matched_count, "cutout")}`;
      return el("li", {}, el("a", { href: address(item.id), data: { id: String(item.id) } }, el("span", {}, item.name), " ", el("span", { class: "subtle num" }, numbers)));
    }));
    this.mark();
  }

  async showMore() {
    const first = this.list.children.length;
    this.pages += 1;
    await this.loadList();
    // The keyboard continues at the first new product.
    this.list.children[first]?.querySelector("a").focus();
  }

  mark() {
    for (const link of this.list.querySelectorAll("a")) {
      if (link.dataset.id === this.id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  async loadProduct(min = null) {
    const { id, asked } = this;
    if (id === null) return;
    try {
      const product = await get(`/api/v1/matching/products/${encodeURIComponent(id)}`, { min });
      if (asked !== this.asked) return;
      setText(this.notice, "");
      const now = JSON.stringify({ ...product, position: null });
      if (now === this.known) return;
      this.known = now;
      this.showProduct(product);
    } catch (error) {
      if (asked === this.asked) setText(this.notice, error.status === 404 ? "There is no such product." : refusal(error, "this product", ROLES));
    }
  }

  showProduct(product) {
    setText(this.name, product.name);
    this.candidates.name(product.name);
    const facts = [product.brand_name, product.category_name, product.upc ? `product code ${product.upc}` : null, `${count(product.image_vector_count)} ${plural(product.image_vector_count, "vector")}`];
    setText(this.about, facts.filter(Boolean).join(" · "));
    const shown = new Set(product.matches.map((match) => match.image_url));
    const own = [...new Set([product.image_url, product.large_image, product.aw_image_url, product.merchant_image_url, ...product.images].filter((url) => url && !shown.has(url)))];
    const pictures = (own.length > 0 ? own : [null]).slice(0, PICTURES_MAX);
    this.pictures.replaceChildren(...pictures.map((image_url) => el("li", {}, picture({ image_url }, (origin) => this.showHidden(origin)))));
    this.noMatches.hidden = product.matches.length > 0;
    setText(this.matchesTitle, product.matches.length > 0 ? `Cutouts that show it: ${count(product.matched_count)}` : "Cutouts that show it");
    refill(this.matches, product.matches.map((match) => el("li", {}, picture(match, (origin) => this.showHidden(origin)), el("span", {}, `Cutout ${match.id}`),
      el("button", { type: "button", class: "quiet small", "aria-label": `Undo cutout ${match.id}`, onclick: () => this.undo(match.id) }, "Undo"))));
  }

  async undo(cutout) {
    await this.candidates.undo(cutout);
    // The button is gone with its cutout.
    if (!this.target.contains(document.activeElement)) (this.matches.querySelector("button") ?? this.name).focus();
  }

  /** After a command: what was written is read. */
  async changed(text, position) {
    setText(document.getElementById("announce"), text);
    await Promise.all([this.loadProduct(position), this.loadList()]);
  }

  showHidden(origin) {
    this.hidden.add(origin);
    setText(this.pictureNote, `Pictures of ${[...this.hidden].join(", ")} are not shown: start the server with --image-origins to allow it.`);
  }

  /** Opens the product after or before this one, as the list has them. */
  async step(by) {
    const at = this.ids?.indexOf(this.id) ?? -1;
    if (by > 0 && at === this.ids.length - 1 && !this.more.hidden) {
      this.pages += 1;
      await this.loadList();
    }
    const next = this.ids?.[at + by];
    if (at >= 0 && next !== undefined) {
      location.hash = address(next);
      return;
    }
    this.candidates.isFollowed = false;
    setText(document.getElementById("announce"), by > 0 ? "This is the last product of the list." : "This is the first product of the list.");
  }
}
