// A product in a list: its picture, its names and its price.

import { get } from "./api.js";
import { chip, count, el, svg } from "./dom.js";

/** A price in its currency. */
export function price({ price: amount, currency }) {
  if (amount === null || amount === undefined) return null;
  return currency ? new Intl.NumberFormat("en", { style: "currency", currency }).format(amount) : count(amount);
}

/** The origins of pictures that the settings of the server allow; no other one learns what is looked at here. */
let origins = null;

async function isAllowed(origin) {
  origins ??= get("/").then((info) => new Set(info.image_origins), () => new Set());
  return (await origins).has(origin);
}

/** The outline of a parcel, for a product without a picture. */
function placeholder() {
  return svg("svg", { class: "picture", viewBox: "0 0 96 96", "aria-hidden": "true" },
    svg("path", { d: "M48 20 76 34V64L48 78 20 64V34ZM20 34 48 48 76 34M48 48V78M34 27 62 41" }));
}

/** The name is beside it, so the picture needs no text. */
function image(address) {
  return el("img", { class: "picture", src: address, alt: "", loading: "lazy", width: 96, height: 96, onerror: (event) => event.target.replaceWith(placeholder()) });
}

/** The picture at an address, or a placeholder; `onHidden` gets the origin of one that the settings do not allow. */
export function picture({ image_url: address }, onHidden = () => {}) {
  // As the browser reads it: `/\host` is another host, too.
  const origin = address && URL.canParse(address, location.href) ? new URL(address, location.href).origin : null;
  if (origin === location.origin) return image(address);
  const node = placeholder();
  if (origin) isAllowed(origin).then((isShown) => (isShown ? node.replaceWith(image(address)) : onHidden(origin)));
  return node;
}

/** A product; `why` are the lines that say why it is there, `parts` the details behind them. */
export function productItem(product, { why = [], parts = null, actions = [] }) {
  const facts = [product.brand_name, product.category_name, product.colour].filter(Boolean).join(" · ");
  const id = String(product.product_id);
  return el("li", { class: "product" }, picture(product),
    el("div", {}, el("h3", {}, product.name), facts ? el("p", { class: "subtle" }, facts) : null,
      el("p", { class: "price num" }, price(product) ?? "No price", product.in_stock ? null : [" ", chip("cancelled", "Out of stock")]),
      product.description ? el("p", { class: "subtle description" }, product.description) : null,
      why.map((line) => el("p", { class: "why" }, line)),
      el("div", { class: "product-foot" },
        parts ? el("details", { data: { id } }, el("summary", { "aria-label": `Parts of the score of ${product.name}` }, "Parts of the score"), parts) : null, actions)));
}
