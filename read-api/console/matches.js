// The image matches of a job, best first: their evidence images, and a table that loads page by page.

import { get } from "./api.js";
import { count, el, plural, setText } from "./dom.js";
import { Evidence } from "./evidence.js";

const FIRST_PAGE = 100;
const PAGE = 500;

export class MatchList {
  constructor(id) {
    this.path = `/jobs/${id}/matches?order=score_desc`;
    this.evidence = new Evidence(id);
    /** The current first page, and the items that were loaded after it. */
    Object.assign(this, { page: null, rest: [], cursor: null, total: null, past: null });
    this.note = el("p", { class: "subtle", role: "status" });
    this.rows = el("tbody");
    const head = ["Score", "Product", "Image", "Video", "Frame", "Evidence"].map((name) => el("th", { scope: "col" }, name));
    this.table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of matches", hidden: true },
      el("table", {}, el("thead", {}, el("tr", {}, head)), this.rows));
    this.more = el("button", { type: "button", class: "quiet more", hidden: true, onclick: () => this.loadMore() }, "Show more matches");
    this.again = el("button", { type: "button", class: "quiet more", hidden: true, onclick: () => this.reload() }, "Load the new matches");
    this.part = el("section", { "aria-labelledby": "matches-title" }, el("h2", { id: "matches-title" }, "Matches"), this.note,
      this.evidence.gallery, this.table, this.more, " ", this.again, this.evidence.dialog);
  }

  close() {
    this.evidence.close();
  }

  /** Loads the first page. After further pages were loaded, the list stays as it is until it is loaded again. */
  async load() {
    if (this.rest.length > 0) return this.show();
    const page = await get(`${this.path}&limit=${FIRST_PAGE}`);
    if (page === this.page) return;
    this.page = page;
    this.cursor = page.next_cursor;
    this.show();
  }

  reload() {
    this.rest = [];
    this.page = null;
    return this.load();
  }

  async loadMore() {
    this.more.disabled = true;
    try {
      const page = await get(`${this.path}&limit=${PAGE}&cursor=${encodeURIComponent(this.cursor)}`);
      this.rest.push(...page.items);
      this.cursor = page.next_cursor;
      this.show();
    } catch (error) {
      setText(this.note, `The matches cannot be read: ${error.message}`);
    } finally {
      this.more.disabled = false;
    }
  }

  /** The number of matches by the summary, and the position up to which they are shown; null for all. */
  update(total, past) {
    Object.assign(this, { total, past });
    if (this.page) this.show();
  }

  show() {
    const known = [...this.page.items, ...this.rest];
    const then = this.past === null ? known : known.filter((match) => match.position <= this.past);
    const isAll = this.cursor === null;
    this.again.hidden = this.rest.length === 0 || this.past !== null || this.total === null || !isAll || this.total === known.length;
    this.more.hidden = isAll;
    setText(this.note, this.sentence(then.length, known.length, isAll));
    const shown = `${then.length} ${this.past} ${then.at(0)?.id} ${then.at(-1)?.id} ${then.filter((match) => match.evidence_path).length}`;
    if (shown === this.shown) return;
    this.shown = shown;
    this.table.hidden = then.length === 0;
    this.rows.replaceChildren(...then.map((match) => el("tr", {},
      el("td", { class: "num" }, match.score.toFixed(3)), el("td", {}, match.product_id), el("td", {}, match.img_id),
      el("td", {}, match.video_id), el("td", {}, match.frame_id), el("td", { class: "path" }, this.evidence.cell(match)))));
    this.evidence.show(then);
  }

  sentence(found, known, isAll) {
    const some = `${count(found)} ${plural(found, "match", "matches")}`;
    if (this.past !== null) return found === 0 ? "No match had been found by then." : `${some} found by then${isAll ? "" : `, of the current best ${count(known)}`}.`;
    if (found === 0) return "No match has been found yet.";
    return isAll ? `${found === 1 ? "The only match" : `All ${some}`}, best first.` : `The best ${some}${this.total ? ` of ${count(this.total)}` : ""}.`;
  }
}
