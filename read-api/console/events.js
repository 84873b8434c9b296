// The events of a job, oldest first, each with its data.

import { get } from "./api.js";
import { count, el, instant, plural, setText } from "./dom.js";

const PAGE = 50;

export class EventList {
  constructor(path) {
    Object.assign(this, { path, cursor: null, loaded: 0, lastPage: 0, isLoading: false });
    this.note = el("p", { class: "subtle" });
    this.list = el("ol", { class: "events", "aria-label": "Events" });
    this.more = el("button", { type: "button", class: "quiet", onclick: () => this.load() }, "Show events");
    this.part = el("section", { "aria-labelledby": "events-title" }, el("h2", { id: "events-title" }, "Events"), this.note, this.list, this.more);
    setText(this.note, "Every change of this job, as it was recorded in the log.");
  }

  /** Loads the next page; after the last one, what has been recorded since. */
  async load() {
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      const query = this.cursor ? `&cursor=${encodeURIComponent(this.cursor)}` : "";
      const page = await get(`${this.path}/events?limit=${PAGE}${query}`);
      // The last page was not full, so it is read again.
      while (this.lastPage > 0) {
        this.list.lastElementChild?.remove();
        this.lastPage -= 1;
        this.loaded -= 1;
      }
      this.list.append(...page.items.map(eventLine));
      this.loaded += page.items.length;
      if (page.next_cursor === null) this.lastPage = page.items.length;
      else this.cursor = page.next_cursor;
      const isAll = page.next_cursor === null;
      setText(this.note, `${isAll ? "All" : "The first"} ${count(this.loaded)} ${plural(this.loaded, "event")}, oldest first.`);
      setText(this.more, isAll ? "Look for newer events" : "Show more events");
    } catch (error) {
      setText(this.note, `The events cannot be read: ${error.message}`);
    } finally {
      this.isLoading = false;
    }
  }
}

function eventLine(event) {
  const data = el("pre", { tabindex: "0", "aria-label": `Data of ${event.type}` }, JSON.stringify(event, null, 2));
  return el("li", {}, el("details", {},
    el("summary", {}, el("span", { class: "num subtle" }, count(event.position)), " ", el("span", { class: "phase" }, event.type), " ",
      el("span", { class: "subtle" }, instant(event.recorded_at), ` by ${event.actor}`)), data));
}
