// A slider over the life of a job or a user, from the first to the last event.

import { clock, coalesce, duration, el, setText } from "./dom.js";

const WAIT_MS = 60;
/** The number of steps of the arrow keys over the whole range. */
const STEPS = 200;

export class TimeTravel {
  /** `onInstant(at)` gets the milliseconds since 1970; `onNow` is called at the end of the range. */
  constructor({ onInstant, onNow, label = "Instant to show the job at", help = "All values above, as of this instant in the life of the job." }) {
    Object.assign(this, { from: null, to: null, at: null, onInstant, onNow });
    const moved = coalesce((at) => (at >= this.to ? this.back() : this.onInstant(at)), WAIT_MS);
    this.slider = el("input", { type: "range", min: 0, max: 0, step: 1, id: "travel", "aria-describedby": "travel-help", disabled: true, oninput: () => this.moveTo(Number(this.slider.value), moved),
      onkeydown: (event) => this.key(event, moved) });
    this.when = el("output", { for: "travel", class: "num" }, "now");
    this.now = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.back() }, "Back to now");
    this.start = el("span");
    this.end = el("span");
    this.part = el("section", { "aria-labelledby": "travel-title" },
      el("h2", { id: "travel-title" }, "Time travel"),
      el("p", { class: "subtle", id: "travel-help" }, help),
      el("div", { class: "travel" },
        el("label", { for: "travel", class: "visually-hidden" }, label), this.slider, this.when, this.now),
      el("p", { class: "travel-ends subtle num" }, this.start, this.end));
  }

  /** Sets the range, in milliseconds since 1970. */
  range(from, to) {
    Object.assign(this, { from, to: Math.max(from, to) });
    this.slider.disabled = this.to === this.from;
    this.slider.min = this.from;
    this.slider.max = this.to;
    if (this.at === null) this.slider.value = this.to;
    setText(this.start, clock(this.from));
    setText(this.end, clock(this.to));
    this.show();
  }

  /** A step of a millisecond would be too small for the arrow keys. */
  key(event, moved) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!steps) return;
    event.preventDefault();
    const at = Number(this.slider.value) + steps * Math.max(1, Math.round((this.to - this.from) / STEPS));
    this.slider.value = Math.min(this.to, Math.max(this.from, at));
    this.moveTo(Number(this.slider.value), moved);
  }

  moveTo(at, moved) {
    this.at = at >= this.to ? null : at;
    this.show();
    moved(at);
  }

  back() {
    this.at = null;
    this.slider.value = this.to;
    this.show();
    this.onNow();
  }

  show() {
    const text = this.at === null ? "now" : `${clock(this.at)}, ${duration((this.at - this.from) / 1000)} after the start`;
    this.slider.setAttribute("aria-valuetext", text);
    setText(this.when, text);
    this.now.hidden = this.at === null;
  }
}
