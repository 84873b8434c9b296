// Intervals as bars with a dot, and two curves in one drawing.

import { el, svg } from "./dom.js";

const [LEFT, RIGHT, TOP, PLOT, FOOT] = [44, 16, 10, 170, 40];
const HEIGHT = TOP + PLOT + FOOT;
/** Round steps for the marks of an axis. */
const STEPS = [1, 2, 2.5, 5, 10];

/**
 * Rows of `{ name, estimate: { value, low, high } }` on one axis from 0. An estimate that is null has a dash. `line` is a value
 * that all are compared with.
 */
export function intervals(title, rows, format, { line = null } = {}) {
  const highs = rows.map(({ estimate }) => estimate?.high ?? 0);
  const end = roundUp(Math.max(...highs, line ?? 0) || 1);
  const part = (value) => Math.max(0, Math.min(1, value / end));
  const lines = rows.map(({ name, estimate, tone }) => {
    const track = el("span", { class: "interval", "aria-hidden": "true", data: { tone } });
    if (estimate) {
      const { value, low, high } = estimate;
      for (const [side, at] of Object.entries({ low, value, width: high - Math.max(0, low) })) track.style.setProperty(`--${side}`, part(at));
      track.append(el("i"), el("b"));
    }
    if (line !== null) {
      track.style.setProperty("--line", part(line));
      track.append(el("u"));
    }
    const text = estimate ? [format(estimate.value), el("span", { class: "subtle" }, ` ${format(estimate.low)} to ${format(estimate.high)}`)] : "–";
    return el("li", {}, el("span", { class: "phase" }, name), track, el("span", { class: "num" }, text));
  });
  return el("section", { class: "intervals" }, el("h3", {}, title), el("ol", { "aria-label": title }, lines),
    el("p", { class: "axis-ends subtle num", "aria-hidden": "true" }, el("span", {}, format(0)), el("span", {}, format(end))));
}

/** The least round number that is not below a value. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * STEPS.find((step) => step * power >= value * 0.9999);
}

/** Two curves over one axis: the share of all values (upwards) that are at most a value (to the right). */
export class Curves {
  /** `curves` are `{ name, spread }`, of which a spread can be null; `format` writes a value. */
  constructor(title, curves, format) {
    const shown = curves.filter(({ spread }) => spread);
    this.node = svg("svg", { class: "curves", role: "img", height: HEIGHT, width: "100%", "aria-label": describe(title, shown, format) });
    const keys = curves.map(({ name, spread }, index) => el("li", { data: { curve: index } }, name, spread ? null : " (none)"));
    this.part = el("section", { class: "curves-part" }, el("h3", {}, title), el("ul", { class: "keys", "aria-hidden": "true" }, keys), this.node);
    const end = roundUp(Math.max(...shown.map(({ spread }) => spread.deciles.at(-1)), 0) || 1);
    // Drawn at the available width, so that texts keep their size on every screen.
    new ResizeObserver(() => this.draw(curves, end, format)).observe(this.node);
  }

  draw(curves, end, format) {
    const width = this.node.clientWidth;
    if (width === 0) return;
    const x = (value) => LEFT + (value / end) * (width - LEFT - RIGHT);
    const y = (share) => TOP + PLOT * (1 - share);
    const marks = [0, 0.25, 0.5, 0.75, 1];
    this.node.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.node.replaceChildren(
      ...marks.flatMap((share) => [
        svg("line", { class: share === 0 ? "axis" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }),
        svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${share * 100} %`),
      ]),
      ...marks.filter((share) => width > 500 || share % 0.5 === 0).map((share) =>
        svg("text", { x: x(share * end), y: HEIGHT - 20, "text-anchor": share === 1 ? "end" : "middle" }, format(share * end))),
      ...curves.flatMap(({ spread }, index) => spread
        ? [svg("path", { class: "curve", "data-curve": index, d: spread.deciles.map((value, tenths) => `${tenths === 0 ? "M" : "L"}${x(value).toFixed(1)} ${y(tenths / 10).toFixed(1)}`).join("") })]
        : []),
    );
  }
}

function describe(title, shown, format) {
  const text = ({ name, spread }) => `${name}: half are at most ${format(spread.p50)}, 90 % at most ${format(spread.p90)}, the largest is ${format(spread.max)}`;
  return `${title}. ${shown.map(text).join(". ")}.`;
}
