// Evidence images: thumbnails of the best matches, and a dialog with the whole image.

import { image } from "./api.js";
import { el } from "./dom.js";

const THUMBNAILS = 6;

const pathOf = (job, match) => `/jobs/${job}/matches/${encodeURIComponent(match.id)}/evidence`;
const caption = (match) => `${match.img_id} in frame ${match.frame_id} of ${match.video_id}, score ${match.score.toFixed(3)}`;

/** The evidence of one job. Images are loaded with the caller's token, which an `<img>` cannot send, and kept until it is closed. */
export class Evidence {
  constructor(job) {
    Object.assign(this, { job, urls: new Map(), closed: false });
    this.gallery = el("ul", { class: "gallery", "aria-label": "Evidence images of the best matches", hidden: true });
    this.picture = el("img", { alt: "" });
    this.text = el("p", { id: "evidence-title" });
    this.file = el("code", { class: "subtle" });
    this.dialog = el("dialog", { class: "evidence", "aria-labelledby": "evidence-title" },
      el("form", { method: "dialog" }, this.picture, this.text, this.file, el("div", { class: "actions" }, el("button", {}, "Close"))));
    this.shown = "";
  }

  close() {
    this.closed = true;
    for (const loading of this.urls.values()) loading.then(URL.revokeObjectURL, () => {});
  }

  load(match) {
    const key = `${match.id} ${match.evidence_path}`;
    if (!this.urls.has(key)) {
      const loading = image(pathOf(this.job, match)).then((blob) => URL.createObjectURL(blob));
      this.urls.set(key, loading);
    }
    return this.urls.get(key);
  }

  /** Shows thumbnails of the first matches with evidence. Without images that the server serves, nothing is shown. */
  async show(matches) {
    const best = matches.filter((match) => match.evidence_path).slice(0, THUMBNAILS);
    const shown = best.map((match) => match.id).join(" ");
    if (shown === this.shown) return;
    this.shown = shown;
    const loaded = await Promise.allSettled(best.map((match) => this.load(match)));
    if (this.closed || this.shown !== shown) return;
    const items = best.flatMap((match, index) => {
      const { status, value } = loaded[index];
      return status === "fulfilled" ? [el("li", {}, el("button", { type: "button", class: "thumbnail", onclick: () => this.open(match) },
        el("img", { src: value, alt: `Evidence: ${caption(match)}` })))] : [];
    });
    this.gallery.hidden = items.length === 0;
    this.gallery.replaceChildren(...items);
  }

  /** The cell of the table of matches. */
  cell(match) {
    if (!match.evidence_path) return el("span", { class: "subtle" }, "none");
    return el("button", { type: "button", class: "quiet small", "aria-label": `Show the evidence of ${caption(match)}`, title: match.evidence_path, onclick: () => this.open(match) }, "Show");
  }

  async open(match) {
    this.picture.removeAttribute("src");
    this.picture.alt = `Evidence: ${caption(match)}`;
    this.text.textContent = "Loading…";
    this.file.textContent = match.evidence_path;
    this.dialog.showModal();
    try {
      this.picture.src = await this.load(match);
      this.text.textContent = caption(match);
    } catch (error) {
      this.picture.alt = "";
      this.text.textContent = `The image cannot be shown: ${error.message}`;
    }
  }
}
