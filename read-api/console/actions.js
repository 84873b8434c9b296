// The commands for a job: cancel and retry.

import { post } from "./api.js";
import { el, setText } from "./dom.js";

const ENDS = ["completed", "failed", "cancelled"];

export class JobActions {
  /** `onDone` is called after a command was accepted. */
  constructor(path, onDone) {
    Object.assign(this, { path, onDone });
    this.cancel = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.confirmCancel() }, "Cancel the job");
    this.retry = el("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.send("retry") }, "Retry");
    this.note = el("p", { class: "notice", role: "alert" });
    this.part = el("div", {}, el("div", { class: "job-actions" }, this.retry, this.cancel), this.note);
  }

  /** Offers what is possible in the phase. A failed job with a scheduled retry can be cancelled, and retried at once. */
  show({ phase, retry = null, blocker_details: blockers = [] }) {
    const isParked = blockers.some((blocker) => blocker.code === "requests_parked");
    this.cancel.hidden = ENDS.includes(phase) && retry === null;
    this.retry.hidden = phase !== "failed" && retry === null && !isParked;
    setText(this.retry, isParked ? "Retry the failed requests" : retry ? "Retry now" : "Retry");
  }

  confirmCancel() {
    if (confirm("Cancel this job? Its results so far are kept, and it accepts no further ones.")) this.send("cancel");
  }

  async send(command) {
    try {
      await post(`${this.path}/${command}`);
      setText(this.note, "");
      this.onDone();
    } catch (error) {
      setText(this.note, error.message);
    }
  }
}
