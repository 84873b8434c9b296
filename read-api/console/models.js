// Embedding models, the extractions that make their vectors, and the exports of them.

import { blob, get, post, remove, token } from "./api.js";
import { bar, bytes, chip, count, el, instant, loadWhileShown, percent, plural, refill, refusal, row, setText, split, title } from "./dom.js";
import { cancelExtraction, cancelJob, isOver, ofExtraction } from "./work.js";

const POLL_MS = 3000;
const LIST = 20;
/** A larger file is not loaded into the memory of the page. */
const BLOB_BYTES_MAX = 200_000_000;
const ROLES = "the role user, service or admin";
const TYPES = { extract_cutouts: "Cutouts", extract_products: "Products", extract_single_product: "One product" };
const FORMATS = { json: "Lines of JSON", numpy: "NumPy", faiss: "FAISS", qdrant: "Qdrant" };
const TARGETS = { all: "Products and cutouts", products: "Products", cutouts: "Cutouts" };
const DAYS = { 86400: "1 day", 604800: "7 days", 2592000: "30 days" };

const options = (names) => Object.entries(names).map(([value, text]) => el("option", { value }, text));
const field = (label, input) => el("label", {}, el("span", {}, label), input);
const small = (text, label, onclick) => el("button", { type: "button", class: "quiet small", "aria-label": label, onclick }, text);

/** A heading, a table with these columns that scrolls, and what is said about it. */
function table(id, heading, columns) {
  const rows = el("tbody", {});
  const note = el("p", { class: "subtle" });
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": id, hidden: true },
    el("table", {}, el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))), rows));
  const fill = (items) => {
    refill(rows, items);
    scroll.hidden = items.length === 0;
  };
  return { title: el("h2", { id }, heading), note, scroll, fill };
}

export class Models {
  constructor(panel) {
    Object.assign(this, { panel, isShown: false, shown: new Map(), failures: new Map() });
    loadWhileShown(this, POLL_MS);
  }

  show(isShown) {
    this.isShown = isShown;
    if (!isShown) return;
    if (!this.models) this.build();
    this.load();
  }

  build() {
    this.notice = el("p", { class: "notice", role: "alert" });
    this.done = el("p", { class: "subtle", role: "status" });
    this.tiles = el("dl", { class: "tiles" });
    this.models = table("models-list-title", "Embedding models", ["Model", "Type", "Purpose", "Dimension", "Distance", "Vectors of products", "Vectors of cutouts", "State", "Actions"]);
    this.extractions = table("extractions-title", "Extractions", ["Images of", "Model", "State", "Progress", "Failed", "Created", "Actions"]);
    this.exports = table("exports-title", "Exports", ["Model", "Format", "Vectors of", "State", "Vectors", "Size", "Expires", "Actions"]);
    this.extractionForm = this.form("Start an extraction", "Extract vectors", (form) => this.extract(form),
      field("Images of", el("select", { name: "job_type" }, options({ extract_cutouts: TYPES.extract_cutouts, extract_products: TYPES.extract_products }))), field("Model", el("select", { name: "model_id" })));
    this.exportForm = this.form("Start an export", "Export", (form) => this.export(form),
      field("Model", el("select", { name: "model_id", required: true })), field("Format", el("select", { name: "format" }, options(FORMATS))),
      field("Vectors of", el("select", { name: "target" }, options(TARGETS))), field("Cutouts", el("select", { name: "matched" }, options({ "": "All", true: "That show a product", false: "That show none" }))),
      field("Category id", el("input", { name: "category_id", maxlength: 128, autocomplete: "off" })), field("Product ids, with commas", el("input", { name: "product_ids", maxlength: 4000, autocomplete: "off" })),
      field("Kept for", el("select", { name: "expires_in" }, options(DAYS))));
    this.exportForm.elements.expires_in.value = "604800";
    const { models, extractions, exports } = this;
    this.panel.replaceChildren(el("h1", { id: "models-title", tabindex: "-1" }, "Models"), this.notice, this.done, this.tiles,
      models.title, models.note, models.scroll, extractions.title, extractions.note, this.extractionForm, extractions.scroll, exports.title, exports.note, this.exportForm, exports.scroll);
  }

  form(label, button, send, ...fields) {
    const form = el("form", { class: "fields", "aria-label": label }, fields, el("button", { class: "quiet" }, button));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(new FormData(form));
    });
    return form;
  }

  async load(min = null) {
    await Promise.all([
      this.part("models", this.models, "the models", async () => {
        const [{ items }, vectors, cutouts] = await Promise.all([get("/api/v1/embeddings/models?limit=500", { min }), get("/api/v1/embeddings/stats", { min }), get("/api/v1/cutouts/stats", { min })]);
        return { items, vectors, cutouts };
      }, (found) => this.showModels(found)),
      this.part("extractions", this.extractions, "the extractions", () => get(`/api/v1/embeddings/jobs?limit=${LIST}`, { min }), (found) => this.showExtractions(found)),
      this.part("exports", this.exports, "the exports", () => get(`/api/v1/export?limit=${LIST}`, { min }), (found) => this.showExports(found)),
    ]);
  }

  /** Reads one part of the page, and shows it if it is another than before; each says for itself why it cannot be shown. */
  async part(name, table, what, read, show) {
    try {
      const found = await read();
      const now = JSON.stringify(found);
      if (now === this.shown.get(name)) return;
      show(found);
      this.shown.set(name, now);
    } catch (error) {
      this.shown.delete(name);
      table.fill([]);
      setText(table.note, refusal(error, what, ROLES));
    }
  }

  showModels({ items, vectors, cutouts }) {
    const tile = (name, value, note = null) => el("div", {}, el("dt", {}, name), el("dd", {}, el("span", { class: "value num" }, value), note ? el("span", { class: "subtle" }, note) : null));
    this.tiles.replaceChildren(
      tile("Models", count(vectors.model_count), `Images: ${vectors.active_image_model_id ?? "none active"}`),
      tile("Vectors", count(vectors.vector_count), `${count(vectors.product_vector_count)} of products, ${count(vectors.cutout_vector_count)} of cutouts`),
      tile("Cutouts", count(cutouts.total), `${count(cutouts.with_embedding)} with a vector, ${count(cutouts.without_embedding)} without`),
      tile("Matched", count(cutouts.matched), `${count(cutouts.unmatched)} without a product`),
      tile("Last change", ...split(cutouts.last_synced_at)),
    );
    setText(this.models.note, "One model of texts and one of images are active. Another one is registered by POST /api/v1/embeddings/models, or by its worker.");
    this.models.fill(items.map((model) => {
      const { id, is_matching_active: isActive, purpose } = model;
      const activate = isActive || !purpose ? null : small("Activate", `Activate ${id}`, () => this.activate(model));
      const drop = isActive ? null : small("Delete", `Delete ${id}`, () => this.drop(model));
      return row([el("strong", {}, model.name), ...(model.name === id ? [] : [` ${id}`])], model.model_type ?? "–", purpose ? title(purpose) : "–", count(model.embedding_dim), title(model.distance),
        count(model.product_vector_count), count(model.cutout_vector_count), isActive ? chip("completed", "Active") : chip("cancelled", "Not active"), el("span", { class: "buttons" }, activate, drop));
    }));
    this.choices(this.extractionForm.elements.model_id, items.filter(({ purpose }) => purpose === "image"), "The active one");
    this.choices(this.exportForm.elements.model_id, items.filter(({ id }) => id !== "lexical"), null);
  }

  /** Fills a choice of models; what was chosen stays chosen. */
  choices(select, models, none) {
    const chosen = select.value || (none === null ? models.find((model) => model.is_matching_active)?.id : "");
    select.replaceChildren(...(none === null ? [] : [el("option", { value: "" }, none)]), ...models.map(({ id, name }) => el("option", { value: id }, name)));
    if ([...select.options].some((option) => option.value === chosen)) select.value = chosen;
  }

  /** Sends a command, and says how it ended. */
  async command(send, text) {
    try {
      const { position } = await send();
      setText(this.notice, "");
      setText(this.done, text);
      await this.load(position ?? null);
    } catch (error) {
      setText(this.done, "");
      setText(this.notice, error.status === 401 || error.status === 403 ? refusal(error, "or change this", ROLES) : error.message);
    }
  }

  async activate({ id, purpose }) {
    await this.command(() => post(`/api/v1/embeddings/models/${encodeURIComponent(id)}/activate`), `${id} is the active model of ${purpose}s.`);
    this.models.title.scrollIntoView({ block: "nearest" });
    this.focus(`Delete ${id}`);
  }

  async drop({ id, vector_count: vectors }) {
    if (!confirm(`Delete the model ${id} with its ${count(vectors)} ${plural(vectors, "vector")}? Its id cannot be used again.`)) return;
    await this.command(() => remove(`/api/v1/embeddings/models/${encodeURIComponent(id)}`), `${id} is deleted.`);
    this.focus(`Delete ${id}`);
  }

  /** The pressed button may be gone; then the keyboard continues at the list. */
  focus(label) {
    if (document.activeElement !== document.body) return;
    const same = [...this.panel.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === label);
    (same ?? this.models.scroll).focus();
  }

  extract(form) {
    const model = form.get("model_id");
    return this.command(() => post("/api/v1/embeddings/extract", { job_type: form.get("job_type"), ...(model && { model_id: model }) }), "The extraction is created; a worker claims it.");
  }

  showExtractions({ items }) {
    setText(this.extractions.note, items.length === 0 ? "None yet. A worker makes vectors of the images of products, or of cutouts." : items.length === LIST ? `The newest ${LIST}.` : "");
    this.extractions.fill(items.map((extraction) => {
      const job = ofExtraction(extraction);
      const cancel = isOver(job) ? null : small("Cancel", `Cancel extraction ${job.id}`, () => this.command(() => cancelExtraction(job), "The extraction is cancelled."));
      return row(el("a", { href: `#/jobs/${job.id}` }, TYPES[job.job_type] ?? title(job.job_type)), job.model_id ?? "–", chip(job.status),
        el("span", { class: "meter" }, bar(job, `Progress of extraction ${job.id}`), el("span", { class: "num" }, job.text || "–")), this.failed(job), instant(job.created_at), cancel ?? "–");
    }));
  }

  /** The number of failed items, which opens to the first of them with the reasons. */
  failed({ id, failed_items: failed, error }) {
    if (failed === 0) return error ?? "–";
    const list = el("ul", {}, this.failures.get(id) ?? []);
    const open = async (event) => {
      if (!event.target.open) return;
      try {
        const { failures } = await get(`/api/v1/embeddings/jobs/${id}`);
        this.failures.set(id, failures.map((one) => `${one.item_id}: ${one.reason}`));
      } catch (reason) {
        this.failures.set(id, [reason.message]);
      }
      list.replaceChildren(...this.failures.get(id).map((text) => el("li", {}, text)));
    };
    return el("details", { data: { id }, ontoggle: open }, el("summary", { "aria-label": `${count(failed)} failed items of extraction ${id}` }, count(failed)), list);
  }

  export(form) {
    const ids = form.get("product_ids").split(",").map((id) => id.trim()).filter(Boolean);
    const category = form.get("category_id").trim();
    const filters = { target: form.get("target"), ...(form.get("matched") && { matched: form.get("matched") === "true" }), ...(ids.length > 0 && { product_ids: ids }), ...(category && { category_id: category }) };
    return this.command(() => post("/api/v1/export", { model_id: form.get("model_id"), format: form.get("format"), filters, expires_in: Number(form.get("expires_in")) }), "The export is created; the server writes its file.");
  }

  showExports({ items }) {
    setText(this.exports.note, items.length === 0 ? "None yet. An export writes the vectors of a model to a file." : items.length === LIST ? `The newest ${LIST}.` : "");
    this.exports.fill(items.map((one) => {
      const job = { ...one, progress_percentage: one.progress };
      const state = isOver(job) ? chip(job.status) : el("span", { class: "meter" }, bar(job, `Progress of export ${job.id}`), el("span", { class: "num" }, percent(job)));
      const why = job.error ? ` ${job.error.message ?? job.error.user_message}` : "";
      return row(job.model_id, FORMATS[job.format] ?? title(job.format), filterText(job.filters), [state, why], count(job.vector_count), bytes(job.file_size_bytes), instant(job.expires_at), this.exportAction(job));
    }));
  }

  exportAction(job) {
    const label = `Download export ${job.id}`;
    if (!isOver(job)) return small("Cancel", `Cancel export ${job.id}`, () => this.command(() => cancelJob(job), "The export is cancelled."));
    if (!job.download_url) return job.status === "completed" ? "Expired" : "–";
    // A link cannot send a token. Without one, the browser writes the file to the disk as it arrives.
    if (!token()) return el("a", { href: job.download_url, download: "", "aria-label": label }, "Download");
    return small("Download", label, () => this.download(job));
  }

  async download({ id, download_url: url, file_size_bytes: size }) {
    if (size > BLOB_BYTES_MAX) {
      setText(this.notice, `This file of ${bytes(size)} is too large for the page; use: curl -OJ -H "Authorization: Bearer TOKEN" ${location.origin}${url}`);
      return;
    }
    setText(this.done, "Downloading…");
    try {
      const { file, name } = await blob(url);
      const address = URL.createObjectURL(file);
      el("a", { href: address, download: name ?? `export-${id}` }).click();
      setTimeout(() => URL.revokeObjectURL(address));
      setText(this.done, "The file is downloaded.");
    } catch (error) {
      setText(this.done, "");
      setText(this.notice, error.message);
    }
  }
}

/** Which vectors an export contains. */
function filterText({ target, matched = null, product_ids: products = [], category_id: category = null }) {
  const parts = [];
  if (matched === null || target !== "cutouts") parts.push(TARGETS[target] ?? title(target));
  if (matched !== null) parts.push(matched ? "cutouts that show a product" : "cutouts that show none");
  if (category !== null) parts.push(`category ${category}`);
  if (products.length > 0) parts.push(`${count(products.length)} ${plural(products.length, "product")}`);
  return parts.join(", ").replace(/^./, (first) => first.toUpperCase());
}
