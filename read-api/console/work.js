// Work on cutouts, vectors and exports that jobs do: a button that starts it, its progress, and a button that cancels it.

import { get, post } from "./api.js";
import { bar, count, el, plural, refusal, setText, words } from "./dom.js";

export const isOver = ({ status }) => ["completed", "failed", "cancelled"].includes(status);

/** An extraction in the form of a job: with its progress in percent, and in words. */
export function ofExtraction(extraction) {
  const { status, total_items: total, processed_items: done, failed_items: failed, error_message: error } = extraction;
  const tried = done + failed;
  const failures = failed > 0 ? `, ${count(failed)} failed` : "";
  const text = total === null ? (tried === 0 ? "" : `${count(tried)} ${plural(tried, "image")}`) : `${count(done)} of ${count(total)} ${plural(total, "image")}`;
  const progress = status === "completed" ? 100 : total ? (100 * Math.min(tried, total)) / total : 0;
  return { ...extraction, progress_percentage: progress, text: `${text}${failures}`, error };
}

/** A sync in the form of the others; its result is known at its end. */
export function ofSync(job) {
  const numbers = ["new", "changed", "unchanged", "failed"].filter((name) => job.result?.[name] > 0).map((name) => `${count(job.result[name])} ${name}`);
  const text = job.result ? numbers.join(", ") || "no cutout" : `${Math.floor(job.progress_percentage)} %`;
  return { ...job, text, error: job.error?.message ?? job.error?.user_message };
}

/** The newest extraction of a type, or null. */
export async function newestExtraction(type, min) {
  const { items } = await get(`/api/v1/embeddings/jobs?job_type=${type}&limit=1`, { min });
  return items.length > 0 ? ofExtraction(items[0]) : null;
}

export async function newestSync(min) {
  const { items } = await get("/jobs?kind=cutout_sync&limit=1", { min });
  if (items.length === 0) return null;
  return ofSync(items[0].status === "completed" ? await get(`/jobs/${items[0].id}`) : items[0]);
}

export const cancelExtraction = ({ id }) => post(`/api/v1/embeddings/jobs/${id}/cancel`);
export const cancelJob = ({ id }) => post(`/jobs/${id}/cancel`);

export class Work {
  /** `start` starts a job, `newest` reads the newest one or null, `cancel` cancels the given one; `roles` may start it. */
  constructor({ label, start, newest, cancel, roles }) {
    Object.assign(this, { label, newest, cancel, roles, known: undefined });
    this.button = el("button", { type: "button", class: "quiet", onclick: () => this.button.hasAttribute("aria-disabled") || this.send(start) }, label);
    this.stop = el("button", { type: "button", class: "quiet small", hidden: true, "aria-label": `Cancel: ${label}`, onclick: () => this.send(() => cancel(this.job)) }, "Cancel");
    this.meter = el("span", { class: "meter", hidden: true });
    this.state = el("span", { class: "subtle", role: "status" });
    this.note = el("p", { class: "notice", role: "alert" });
    this.part = el("div", { class: "work" }, el("div", { class: "work-line" }, this.button, this.meter, this.state, this.stop), this.note);
  }

  async load(min = null) {
    let job = null;
    try {
      job = await this.newest(min);
    } catch (error) {
      setText(this.state, refusal(error, "these jobs", "a role of this tenant"));
      this.known = undefined;
      return;
    }
    const now = JSON.stringify(job);
    if (now === this.known) return;
    Object.assign(this, { job, known: now });
    const isBusy = job !== null && !isOver(job);
    const hadFocus = document.activeElement === this.stop;
    // It stays where it is and can have the focus, so it is not disabled for the browser.
    if (isBusy) this.button.setAttribute("aria-disabled", "true");
    else this.button.removeAttribute("aria-disabled");
    this.stop.hidden = this.meter.hidden = !isBusy;
    if (hadFocus && !isBusy) this.button.focus();
    this.meter.replaceChildren(...(isBusy ? [bar(job, `Progress: ${this.label}`)] : []));
    setText(this.state, job === null ? "" : stateText(job));
  }

  async send(command) {
    if (this.isSending) return;
    this.isSending = true;
    let min = null;
    try {
      min = (await command()).position ?? null;
      setText(this.note, "");
    } catch (error) {
      setText(this.note, error.status === 401 || error.status === 403 ? refusal(error, "or start this", this.roles) : error.message);
    } finally {
      this.isSending = false;
    }
    await this.load(min);
  }
}

/** “Running: 3 of 8 images” or “Failed: the reason”. */
export function stateText({ status, text, error }) {
  const label = words(status).replace(/^./, (first) => first.toUpperCase());
  const why = status === "failed" && error ? error : text;
  return why ? `${label}: ${why}` : label;
}
