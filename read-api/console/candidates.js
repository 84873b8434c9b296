// The cutouts that may show a product: accepted, undone or taken from another product by mouse and by keyboard.

import { ApiError, get, post, remove } from "./api.js";
import { chip, count, el, plural, refusal, setText } from "./dom.js";
import { picture } from "./product.js";

const PAGE = 24;
const USERS = "the role user, service or admin";
const STEPS = { ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1 };

export class CandidateList {
  /** `onChanged(text, position)` is called after a command, `onStep(by)` for another product, `onHidden(origin)` for a picture that may not be shown. */
  constructor({ onChanged, onStep, onHidden }) {
    Object.assign(this, { onChanged, onStep, onHidden, id: null, asked: 0, cards: new Map() });
    const button = (text, key, work) => el("button", { type: "button", class: "quiet", onclick: work, "aria-keyshortcuts": key }, `${text} `, el("kbd", { "aria-hidden": "true" }, key));
    this.status = el("p", { class: "subtle", role: "status" });
    this.notice = el("p", { class: "notice", role: "alert" });
    this.filter = el("select", { name: "matched", onchange: () => this.open(this.id) },
      el("option", { value: "" }, "All cutouts"), el("option", { value: "false" }, "Without a product"), el("option", { value: "true" }, "Of other products"));
    this.list = el("ul", { class: "candidate-list", "aria-label": "Candidates" });
    this.list.addEventListener("focusin", (event) => this.choose(event.target.closest(".candidate")));
    this.more = el("button", { type: "button", class: "quiet more", hidden: true, onclick: () => this.loadMore() }, "Show more candidates");
    this.part = el("section", { class: "candidates", "aria-labelledby": "candidates-title" },
      el("div", { class: "panel-head" }, el("h2", { id: "candidates-title" }, "Candidates"), el("label", {}, el("span", { class: "visually-hidden" }, "Which cutouts"), this.filter)),
      el("div", { class: "job-actions" }, button("Accept", "a", () => this.accept(this.current)), button("Undo", "u", () => this.undoLast()),
        button("Previous product", "p", () => this.step(-1)), button("Next product", "n", () => this.step(1)), el("button", { type: "button", class: "quiet", onclick: () => this.open(this.id) }, "Compare again")),
      el("p", { class: "subtle" }, "Keys in this section: ", el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " or arrows move, ", el("kbd", {}, "a"), " or ", el("kbd", {}, "Enter"), " accepts, ", el("kbd", {}, "u"), " undoes, ",
        el("kbd", {}, "n"), " ", el("kbd", {}, "p"), " open the next or previous product."),
      this.notice, this.status, this.list, this.more);
  }

  /** Starts again with the first page of a product. */
  open(id) {
    Object.assign(this, { id, asked: this.asked + 1, pages: [], accepted: [], current: null, shown: null });
    this.cards.clear();
    this.list.replaceChildren();
    this.more.hidden = true;
    for (const part of [this.status, this.notice]) setText(part, "");
    this.load();
  }

  /** The name of the product, for messages. */
  name(text) {
    this.product = text;
  }

  path(cursor = null) {
    const query = new URLSearchParams({ limit: PAGE, ...(this.filter.value && { matched: this.filter.value }), ...(cursor && { cursor }) });
    return `/api/v1/matching/products/${encodeURIComponent(this.id)}/candidates?${query}`;
  }

  /** Whether the list must stay as it is. Accepted cutouts change the order of the others, which would move away from under the hand. */
  isKept() {
    return this.id === null || this.pages.length > 1 || this.accepted.length > 0 || this.isSending || [...this.cards.values()].some((card) => card.isAsking);
  }

  async load() {
    if (this.isKept()) return;
    const { asked } = this;
    try {
      const page = await get(this.path());
      if (asked !== this.asked || this.isKept()) return;
      setText(this.notice, "");
      const now = JSON.stringify({ ...page, position: null, next_cursor: null });
      this.pages = [page];
      if (now === this.shown) return;
      this.shown = now;
      this.render();
    } catch (error) {
      if (asked !== this.asked) return;
      this.shown = null;
      // The product's own notice says that it does not exist.
      setText(this.notice, error.status === 404 ? "" : refusal(error, "the candidates", "a role of this tenant"));
    }
  }

  async loadMore() {
    const { asked } = this;
    const first = this.list.children.length;
    try {
      const page = await get(this.path(this.pages.at(-1).next_cursor));
      if (asked !== this.asked) return;
      this.pages.push(page);
      this.render();
      this.list.children[first]?.querySelector(".candidate").focus();
    } catch (error) {
      if (asked === this.asked) setText(this.notice, error.message);
    }
  }

  render() {
    const hadFocus = this.list.contains(document.activeElement);
    const items = new Map(this.pages.flatMap((page) => page.items).map((item) => [item.id, item]));
    for (const [id, card] of this.cards) {
      if (items.has(id)) continue;
      card.item.remove();
      this.cards.delete(id);
    }
    [...items.values()].forEach((candidate, index) => {
      const card = this.cards.get(candidate.id) ?? this.add(candidate.id);
      card.show(candidate);
      // Moving a node drops its focus, so only nodes at another place are moved.
      if (this.list.children[index] !== card.item) this.list.insertBefore(card.item, this.list.children[index] ?? null);
    });
    const first = this.pages[0];
    this.more.hidden = this.pages.at(-1).next_cursor === null;
    if (!this.current?.item.isConnected) this.choose(this.list.querySelector(".candidate"));
    if (this.current && (this.isFollowed || (hadFocus && !this.list.contains(document.activeElement)))) this.current.node.focus();
    this.isFollowed = false;
    const vectors = `${count(first.vector_count)} ${plural(first.vector_count, "vector")} of ${first.model_id}`;
    setText(this.status, first.vector_count === 0 ? `There is nothing to compare: the product and its images have no vector of ${first.model_id} yet.`
      : items.size === 0 ? `No cutout with a vector of ${first.model_id}: sync cutouts and extract their vectors.` : `The nearest to ${vectors} come first.`);
  }

  add(id) {
    const card = new Card(id, this);
    this.cards.set(id, card);
    return card;
  }

  /** One candidate is the current one: the keys act on it, and Tab reaches it. */
  choose(node) {
    if (!node) return;
    for (const card of this.cards.values()) {
      const isCurrent = card.node === node;
      if (isCurrent) this.current = card;
      card.node.tabIndex = isCurrent ? 0 : -1;
      card.node.classList.toggle("current", isCurrent);
    }
  }

  /** Keys with a modifier are the browser's, and keys in a field are text. */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.id === null || event.target.closest("input, select, textarea")) return;
    const isInList = this.list.contains(event.target);
    const by = STEPS[event.key];
    const isHere = event.target.closest(".target, .candidates") !== null;
    if (event.key === "n" || event.key === "p") event.repeat || this.step(event.key === "n" ? 1 : -1);
    else if (!isHere) return;
    else if (by && (isInList || event.key.length === 1)) this.move(by, isInList);
    else if (event.key === "a" || (event.key === "Enter" && event.target.matches(".candidate"))) event.repeat || this.accept(this.current);
    else if (event.key === "u") event.repeat || this.undoLast();
    else if (event.key === "Escape" && this.current?.isAsking) this.current.leave();
    else return;
    event.preventDefault();
  }

  /** If the focus is at a candidate, it moves to the first one of the other product. */
  step(by) {
    this.isFollowed = this.list.contains(document.activeElement);
    this.onStep(by);
  }

  move(by, isInList) {
    const nodes = [...this.list.querySelectorAll(".candidate")];
    const at = nodes.indexOf(this.current?.node);
    nodes[isInList ? Math.max(0, Math.min(nodes.length - 1, at + by)) : Math.max(0, at)]?.focus();
  }

  async accept(card, reassign = false) {
    if (!card || card.isAccepted || this.isSending) return;
    const { id, matched_product_id: other, similarity } = card.candidate;
    if (other !== null && !reassign) return card.ask(`It shows product ${other}.`);
    const cutouts = [{ cutout_id: id, similarity: Math.max(-1, Math.min(1, similarity)) }];
    const { asked } = this;
    await this.send(card, async () => {
      const outcome = await post(`/api/v1/matching/products/${encodeURIComponent(this.id)}/matches`, { cutouts, ...(reassign && { reassign }) });
      // Another caller was faster: a conflict that the check before the batch did not see.
      if (outcome.rejected > 0) throw new ApiError(409, { detail: outcome.results[0].errors.map((error) => error.reason).join("; ") });
      if (asked === this.asked) this.accepted.push(id);
      card.settle(true);
      return [outcome.position, `Cutout ${id} shows ${this.product ?? "the product"}.`];
    }, reassign);
  }

  async undo(id) {
    const card = this.cards.get(id);
    await this.send(card, async () => {
      const undone = await remove(`/api/v1/matching/products/${encodeURIComponent(this.id)}/matches?cutout_id=${id}`);
      this.accepted = this.accepted.filter((other) => other !== id);
      card?.settle(false);
      return [undone.position, `Cutout ${id} does not show ${this.product ?? "the product"} any more.`];
    });
  }

  /** Undoes the current one, or else the last one that was accepted. */
  undoLast() {
    const last = this.current?.isAccepted ? this.current.candidate.id : this.accepted.at(-1);
    if (last !== undefined && !this.isSending) this.undo(last);
  }

  async send(card, command, isFinal = true) {
    this.isSending = true;
    const { asked } = this;
    try {
      const [position, text] = await command();
      setText(this.notice, "");
      await this.onChanged(text, position);
    } catch (error) {
      if (asked !== this.asked) return;
      if (error.status === 409 && !isFinal) card.ask(`${error.message.replace(/^./, (first) => first.toUpperCase())}.`);
      else setText(this.notice, error.status === 401 || error.status === 403 ? refusal(error, "or change matches", USERS) : error.message);
    } finally {
      this.isSending = false;
    }
  }
}

/** A candidate with its picture, what speaks for it, and its buttons. */
class Card {
  constructor(id, list) {
    Object.assign(this, { list, isAccepted: false, isAsking: false });
    this.picture = el("div", {});
    this.facts = el("div", { class: "candidate-facts" });
    const button = (text, work, more = {}) => el("button", { type: "button", class: "quiet small", "aria-label": `${text} cutout ${id}`, onclick: work, ...more }, text);
    this.acceptButton = button("Accept", () => this.press(() => list.accept(this)));
    this.undoButton = button("Undo", () => this.press(() => list.undo(id)), { hidden: true });
    this.question = el("span", {});
    this.reassignButton = button("Reassign", () => this.press(() => list.accept(this, true)));
    this.dialog = el("div", { class: "reassign", role: "alert", hidden: true }, this.question, el("span", { class: "buttons" }, this.reassignButton, button("Leave", () => this.leave())));
    this.node = el("div", { class: "candidate", role: "group", tabindex: "-1" }, this.picture, el("div", {}, this.facts, this.dialog, el("div", { class: "buttons" }, this.acceptButton, this.undoButton)));
    this.item = el("li", {}, this.node);
  }

  /** The pressed button may disappear: the focus stays at the candidate. */
  async press(work) {
    this.node.focus();
    await work();
  }

  show(candidate) {
    const isOtherPicture = candidate.image_url !== this.candidate?.image_url;
    this.candidate = candidate;
    if (isOtherPicture) this.picture.replaceChildren(picture(candidate, this.list.onHidden));
    this.settle(this.isAccepted);
  }

  /** Shows whether the cutout was accepted here. */
  settle(isAccepted) {
    const { id, similarity, upc_agrees: agrees, predicted_upc: code } = this.candidate;
    const wasAccepted = this.isAccepted;
    Object.assign(this, { isAccepted, isAsking: false });
    // It was taken from another product, and shows none if that is undone.
    if (wasAccepted && !isAccepted) this.candidate = { ...this.candidate, matched_product_id: null };
    const other = this.candidate.matched_product_id;
    const upc = agrees ? "The product code agrees" : code ? `Another product code: ${code}` : "No product code";
    const state = isAccepted ? chip("completed", "Accepted") : other !== null ? chip("pending", `Shows product ${other}`) : null;
    this.node.setAttribute("aria-label", `Cutout ${id}, similarity ${similarity.toFixed(2)}, ${upc}${isAccepted ? ", accepted" : other !== null ? `, shows product ${other}` : ""}`);
    this.facts.replaceChildren(el("strong", {}, `Cutout ${id}`), el("span", { class: "num" }, `Similarity ${similarity.toFixed(2)}`), agrees ? chip("running", upc) : el("span", { class: "subtle" }, upc), ...(state ? [state] : []));
    this.node.classList.toggle("accepted", isAccepted);
    this.dialog.hidden = true;
    this.acceptButton.hidden = isAccepted;
    this.undoButton.hidden = !isAccepted;
  }

  /** Offers to take the cutout from the other product. */
  ask(text) {
    this.isAsking = true;
    setText(this.question, `${text} `);
    this.dialog.hidden = false;
    this.acceptButton.hidden = true;
    this.reassignButton.focus();
  }

  leave() {
    this.settle(false);
    this.node.focus();
  }
}
