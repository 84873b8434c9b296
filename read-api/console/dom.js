// Builds the page. Text from the server only becomes text nodes, so no job can inject markup.

/** An element with properties, listeners (`onclick`), data and children; `null` children are skipped. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An element of a drawing. */
export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A labelled value in a `<dl class="facts">`. */
export function fact(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "num" }, value));
}

/** Why something cannot be shown, and what to do about it. */
export function refusal(error, what, roles) {
  if (error.status === 401) return "The server requires credentials: press Token and paste one.";
  if (error.status === 403) return `These credentials may not see ${what}. Press Token and paste one with ${roles}.`;
  return error.status ? error.message : "The server does not respond. Retrying automatically.";
}

/** A row of a table. */
export function row(...cells) {
  return el("tr", {}, cells.map((cell) => el("td", {}, cell)));
}

/** Replaces the children of a list or table. What is open stays open, and the focus stays on what has the same label or address. */
export function refill(list, items) {
  const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.id));
  const keyOf = (one) => one.getAttribute("aria-label") ?? one.getAttribute("href");
  const key = list.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  list.replaceChildren(...items);
  for (const one of list.querySelectorAll("details")) one.open = open.has(one.dataset.id);
  if (key) [...list.querySelectorAll("[aria-label], a")].find((one) => keyOf(one) === key)?.focus();
}

/** 1234567 → `1.2 MB`. */
export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const power = number < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(number) / 3));
  return `${Math.round((number / 1000 ** power) * 10) / 10} ${["bytes", "KB", "MB", "GB", "TB"][power]}`;
}

/** Sets the text only if it differs, so that a screen reader does not repeat it. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const NUMBERS = new Intl.NumberFormat("en");
export const count = (value) => (value === null || value === undefined ? "–" : NUMBERS.format(value));
/** `plural(1, "match", "matches")` is "match". */
export const plural = (number, one, many = `${one}s`) => (number === 1 ? one : many);
export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
export const words = (code) => String(code).replaceAll("_", " ");
export const title = (code) => words(code).replace(/^./, (first) => first.toUpperCase());

/** 75 → `1 min 15 s`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return seconds <= 0 ? "0 s" : `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours >= 48) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  const rest = hours > 0 ? minutes : whole % 60;
  const [first, second] = hours > 0 ? [`${hours} h`, `${rest} min`] : [`${minutes} min`, `${rest} s`];
  return rest === 0 ? first : `${first} ${second}`;
}

const CLOCK_MS = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1 });

/** The time of day of milliseconds since 1970. */
export const clock = (at) => CLOCK_MS.format(new Date(at));

const CLOCK = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A `<time>` in the local time zone, with the exact instant as its title. */
export function instant(text) {
  if (!text) return el("span", {}, "–");
  return el("time", { datetime: text, title: text }, CLOCK.format(new Date(text)));
}

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const HOUR = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** An instant as a time of day and a date, for two lines. */
export function split(text) {
  return text ? [HOUR.format(new Date(text)), DAY.format(new Date(text))] : ["–", null];
}

export function chip(status, label = title(status)) {
  return el("span", { class: "chip", data: { status } }, label);
}

/** The completed share of the whole job, over all its stages, from 0 to 1. */
export function share(thing) {
  return thing.progress_percentage / 100;
}

export function bar(thing, label) {
  const part = share(thing);
  const node = el("progress", { max: 1, "aria-label": label, data: { status: thing.status } });
  node.value = part;
  return node;
}

export function percent(thing) {
  const part = share(thing);
  return `${part === 1 ? 100 : Math.floor(part * 1000) / 10} %`;
}

/** Calls `work` at most once in `wait_ms`, with the latest arguments. */
export function coalesce(work, wait_ms) {
  let timer = null;
  let newest = null;
  return (...given) => {
    newest = given;
    timer ??= setTimeout(() => {
      timer = null;
      work(...newest);
    }, wait_ms);
  };
}

/** Calls `section.load()` again and again, with a pause in between, while the section is shown in a visible page. */
export function loadWhileShown(section, pauseMs) {
  const tick = async () => {
    if (section.isShown && !document.hidden) await section.load();
    setTimeout(tick, pauseMs);
  };
  setTimeout(tick, pauseMs);
}
