// The chart of a pool's queued players: rating on the x-axis, waiting time on the y-axis, each player's rating window, and
// a histogram of the ratings below.

import { duration, svg } from "./dom.js";

const [LEFT, RIGHT, TOP] = [46, 46, 26];
const [PLOT, GAP, BARS, FOOT] = [180, 14, 44, 20];
export const HEIGHT = TOP + PLOT + GAP + BARS + FOOT;
/** The marks on the waiting-time axis, in seconds; the axis ends at one of them. */
const MARKS = [0, 5, 15, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200, 14400, 43200, 86400];
const TOP_MIN = 30;
const MARK_GAP = 22;
const STEP = 200;
const SPAN_MIN = 800;

/** The rating window after a waiting time, in points to either side. */
export function windowAfter(settings, waited) {
  const steps = settings.widen_every_seconds > 0 ? Math.floor(waited / settings.widen_every_seconds) : 0;
  return Math.min(settings.window_max, settings.window + steps * settings.widen_by);
}

export class PoolChart {
  constructor() {
    this.node = svg("svg", { class: "pool-chart", role: "img", height: HEIGHT, width: "100%" });
    this.range = null;
    this.pool = null;
    // The chart is drawn at the available width, so texts and dots keep their size on every screen.
    new ResizeObserver(() => this.pool && this.show(this.pool)).observe(this.node);
  }

  show(pool) {
    this.pool = pool;
    const width = this.node.clientWidth;
    if (width === 0) return;
    const points = pool.sample.points;
    this.range = rangeOf(pool, this.range);
    const oldest = pool.oldest_wait_seconds ?? 0;
    const top = MARKS.find((seconds) => seconds >= Math.max(oldest, TOP_MIN)) ?? MARKS.at(-1);
    const [low, high] = this.range;
    const right = width - RIGHT;
    const x = (rating) => LEFT + ((Math.max(low, Math.min(high, rating)) - low) / (high - low)) * (right - LEFT);
    // A square-root scale, so that one long wait leaves room for the many short ones.
    const y = (waited) => TOP + PLOT - Math.sqrt(Math.min(top, waited) / top) * PLOT;
    this.node.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.node.setAttribute("aria-label", describe(pool, points));
    this.node.replaceChildren(
      ...grid(pool.settings, { top, x, y, right }),
      ...ratings({ low, high, x, width }),
      svg("path", { class: "funnel", d: funnel(pool.settings, points[0], { x, y }) }),
      svg("path", { class: "reach", d: points.map((point) => reachOf(pool.settings, point, { x, y })).join("") }),
      // A line of zero length with round ends is a dot; all dots are one element.
      svg("path", { class: "dots", d: points.map(({ rating, waited_seconds: waited }) => `M${x(rating).toFixed(1)} ${y(waited).toFixed(1)}h0`).join("") }),
      ...histogram(pool.rating_histogram, x),
      ...(points.length === 0 ? [svg("text", { x: (LEFT + right) / 2, y: TOP + PLOT / 2 + 4, "text-anchor": "middle" }, "The queue is empty.")] : []),
    );
  }
}

/** The rating range. It grows immediately and shrinks only when much of it is empty, so that the chart stays stable. */
function rangeOf(pool, before) {
  const ends = pool.rating_histogram.flatMap((bucket) => [bucket.from, bucket.below]);
  if (ends.length === 0) return before ?? [1000, 2000];
  let [low, high] = [Math.floor(Math.min(...ends) / STEP) * STEP, Math.ceil(Math.max(...ends) / STEP) * STEP];
  while (high - low < SPAN_MIN) [low, high] = [Math.max(0, low - STEP), high + STEP];
  if (!before || high - low < (before[1] - before[0]) * 0.6) return [low, high];
  return [Math.min(low, before[0]), Math.max(high, before[1])];
}

function grid(settings, { top, x, y, right }) {
  const lines = [svg("text", { x: right + 6, y: TOP - 12 }, "window")];
  let below = Infinity;
  for (const waited of MARKS.filter((seconds) => seconds <= top)) {
    if (below - y(waited) < MARK_GAP) continue;
    below = y(waited);
    lines.push(svg("line", { class: waited === 0 ? "axis" : "grid", x1: LEFT, x2: right, y1: below, y2: below }));
    lines.push(svg("text", { x: LEFT - 6, y: below + 4, "text-anchor": "end" }, duration(waited)));
    lines.push(svg("text", { x: right + 6, y: below + 4 }, `±${windowAfter(settings, waited)}`));
  }
  return lines;
}

function ratings({ low, high, x, width }) {
  const every = Math.ceil((high - low) / STEP / Math.max(2, Math.floor(width / 90))) * STEP;
  const foot = TOP + PLOT + GAP + BARS;
  const marks = [svg("line", { class: "axis", x1: x(low), x2: x(high), y1: foot, y2: foot })];
  for (let rating = Math.ceil(low / every) * every; rating <= high; rating += every) {
    marks.push(svg("text", { x: x(rating), y: foot + 15, "text-anchor": "middle" }, String(rating)));
  }
  return marks;
}

const clamp = (point, side, settings) => Math.max(0, point.rating + side * windowAfter(settings, point.waited_seconds));

function reachOf(settings, point, { x, y }) {
  const height = y(point.waited_seconds).toFixed(1);
  return `M${x(clamp(point, -1, settings)).toFixed(1)} ${height}H${x(clamp(point, 1, settings)).toFixed(1)}`;
}

/** The outline of the widening window of the longest waiting player. */
function funnel(settings, oldest, { x, y }) {
  if (!oldest) return "";
  const every = settings.widen_every_seconds || oldest.waited_seconds;
  const left = [];
  const right = [];
  for (let waited = 0; waited < oldest.waited_seconds; waited += every) {
    const half = windowAfter(settings, waited);
    const until = half >= settings.window_max ? oldest.waited_seconds : Math.min(oldest.waited_seconds, waited + every);
    for (const at of [waited, until]) {
      left.unshift(`${x(oldest.rating - half).toFixed(1)} ${y(at).toFixed(1)}`);
      right.push(`${x(oldest.rating + half).toFixed(1)} ${y(at).toFixed(1)}`);
    }
    if (until === oldest.waited_seconds) break;
  }
  return left.length > 0 ? `M${[...right, ...left].join("L")}Z` : "";
}

function histogram(buckets, x) {
  const most = Math.max(1, ...buckets.map((bucket) => bucket.count));
  const foot = TOP + PLOT + GAP + BARS;
  const bars = buckets.map((bucket) => {
    const height = Math.max(1, (bucket.count / most) * BARS);
    const [from, to] = [x(bucket.from), x(bucket.below)];
    return svg("rect", { class: "bar", x: from + 0.5, y: foot - height, width: Math.max(1, to - from - 1), height });
  });
  if (buckets.length > 0) bars.push(svg("text", { x: LEFT - 6, y: foot - BARS + 9, "text-anchor": "end" }, String(most)));
  return bars;
}

function describe(pool, points) {
  if (points.length === 0) return `The queue of ${pool.pool_key} is empty.`;
  const all = points.map((point) => point.rating);
  const peak = pool.rating_histogram.reduce((most, bucket) => (bucket.count > most.count ? bucket : most));
  return `${pool.sample.of} players are queued in ${pool.pool_key}, with ratings from ${Math.min(...all)} to ${Math.max(...all)}, most of ` +
    `them from ${peak.from} to ${peak.below}. The longest wait is ${duration(points[0].waited_seconds)}, with a window of ` +
    `${windowAfter(pool.settings, points[0].waited_seconds)} points to either side.`;
}
