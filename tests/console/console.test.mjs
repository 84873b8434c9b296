// The console in a browser, on a server with jobs of each kind, players, a worker, and a shop with users and an experiment.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";

import { Server } from "./server.mjs";

const require = createRequire(process.env.CONSOLE_PACKAGES);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const executablePath = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();
const WAIT_MS = 30_000;

const EXPERIMENTS = { texts: { context: "feed", variants: { control: {}, popular: { weights: { long_term: 0, session: 0, query: 0, product: 0, collaborative: 0 } } } } };

/** The system that cutouts are synced from: two of them, and something that is none. */
const upstream = createServer((request, response) => {
  const items = [1001, 1002].map((id) => ({ id, image_url: `https://cutouts.example/${id}.jpg` }));
  response.end(JSON.stringify({ items: [...items, { id: 1003 }], total: 3, has_more: false }));
});

let server, browser, jobs;
before(async () => {
  await new Promise((listening) => upstream.listen(0, "127.0.0.1", listening));
  const cutouts = `http://127.0.0.1:${upstream.address().port}/cutouts`;
  server = await Server.start(process.env.CONSOLE_PROGRAM, ["--experiments", JSON.stringify(EXPERIMENTS), "--cutouts-upstream", cutouts]);
  jobs = await fill(server);
  await fillShop(server);
  await fillCutouts(server);
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
});
after(async () => {
  await browser?.close();
  await server?.close();
  upstream.close();
});

/** A matching job with matches, one without work, a failed analysis, and two players in a pool. */
async function fill(server) {
  const { job_id: matching } = await server.post("/jobs", { name: "hedges", metadata: {} });
  await server.post(`/jobs/${matching}/products`, [{ product_id: "hedge", images: [{ img_id: "hedge-1" }] }]);
  await server.post(`/jobs/${matching}/videos`, [{ video_id: "garden", frame_count: 66 }]);
  await server.post(`/jobs/${matching}/match-requests`, [
    { request_id: "hedge:garden", product_id: "hedge", video_id: "garden", candidates: 66 },
  ]);
  await server.put(`/jobs/${matching}/phase`, { phase: "matching" });
  await match(server, matching, 1);
  const { job_id: idle } = await server.post("/jobs", { name: "<b>idle</b>" });
  const { job_id: failed } = await server.post("/api/v1/analysis", { url: "https://www.twitch.tv/videos/2039" });
  const claimed = await server.post("/internal/work/claim", { worker_id: "analyst-1", kinds: ["video_analysis"], max: 1 });
  await server.post(`/internal/work/${claimed.items[0].lease_id}/fail`, { error: "moov atom not found" });
  for (const user of ["ann", "bob"]) await server.post("/v1/matchmaking/queue", { pool_key: "blitz" }, { "X-User": user });
  return { matching, idle, failed };
}

/** Shoes and tents with pictures of this server, one with that of another, and one without; users, and lists of the experiment. */
async function fillShop(server) {
  const product = (id) => {
    const [category, picture] = id % 2 ? ["Shoes", "shoe"] : ["Tents", "tent"];
    const image = { 1: undefined, 2: "https://shop.example/2.jpg" };
    return {
      id, name: `${id % 3 ? "Red" : "Blue"} ${picture} ${id}`, price: 10 * id, currency: "EUR", category_id: picture, category_name: category, brand_name: id % 3 ? "Fell" : "Tarn", in_stock: id % 5 > 0,
      description: "Light & <i>dry</i>.", image_url: id in image ? image[id] : `/console/products.svg#${picture}-red`,
    };
  };
  await server.post("/api/v1/products/batch", Array.from({ length: 40 }, (_, index) => product(index + 1)));
  const view = (user, id) => ({ user_id: user, product_id: id, interaction_type: "view" });
  const others = Array.from({ length: 60 }, (_, index) => view(`user-${index % 7}`, 1 + ((index * (1 + (index % 7))) % 40)));
  await server.post("/api/v1/feedback/batch", others);
  for (const id of [3, 5, 7]) await server.post("/api/v1/feedback", view("ann", id));
  for (let user = 0; user < 7; user++) {
    const list = await server.post("/api/v1/recommend", { user_id: `user-${user}`, context: "feed", limit: 5 });
    await server.post("/api/v1/feedback", { ...view(`user-${user}`, list.results[0].product_id), interaction_type: "click", request_id: list.request_id, position: 0 });
  }
}

/** Cutouts with vectors of an active model, of which the first ones are nearest to the first products; one shows another product. */
async function fillCutouts(server) {
  const model = { model_type: "test", purpose: "image", embedding_dim: 2 };
  for (const id of ["angles", "other"]) await server.post("/api/v1/embeddings/models", { ...model, id, name: `<i>${id}</i>` });
  await server.post("/api/v1/embeddings/models/angles/activate");
  const angle = (degrees) => ({ model_id: "angles", vector: [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)] });
  const ids = Array.from({ length: 30 }, (_, index) => index + 1);
  await server.post("/api/v1/cutouts", ids.map((id) => ({ external_id: id, image_url: `${server.url}/console/products.svg#shoe-blue`, predicted_upc: id === 2 ? "40012345" : undefined })));
  await server.post("/api/v1/cutouts/embeddings/batch", ids.map((cutout_id) => ({ cutout_id, ...angle(cutout_id) })));
  await server.post("/api/v1/products/batch", [101, 102, 103].map((id) => ({ id, name: `Boot ${id}`, upc: "40012345", in_stock: false, image_url: "/console/products.svg#shoe-red" })));
  for (const id of [101, 102]) await server.post(`/api/v1/products/${id}/embeddings`, angle(0));
  await server.post("/api/v1/matching/products/103/matches", { cutouts: [{ cutout_id: 3 }] });
}

function match(server, job, frame) {
  const found = { match_id: `f${frame}`, img_id: "hedge-1", product_id: "hedge", video_id: "garden", frame_id: `f${frame}`, score: 0.9 };
  return server.post(`/jobs/${job}/matches`, [found]);
}

/** Opens a page of the console, and fails at the end of the test if the browser reported an error that was not expected. */
async function open(t, hash, options = {}, expected = null) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  const errors = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("response", (response) => response.status() >= 400 && errors.push(`${response.status()} ${response.url()}`));
  page.on("request", (request) => request.url().startsWith(server.url) || errors.push(`asks another host: ${request.url()}`));
  t.after(async () => {
    await context.close();
    assert.deepEqual(errors.filter((error) => !expected?.test(error)), []);
  });
  await page.goto(`${server.url}/${hash}`);
  await page.getByText("ready", { exact: true }).waitFor();
  return page;
}

/** The problems that axe finds on the page as it is. */
async function problems(page) {
  // An evaluated script is not subject to the page's Content-Security-Policy.
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => axe.run());
  assert.ok(passes.length > 0, "axe checked nothing");
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}`));
}

test("all files together have at most 90 KB, compressed one by one", () => {
  const folder = new URL("../../read-api/console/", import.meta.url);
  const bytes = readdirSync(folder).map((name) => gzipSync(readFileSync(new URL(name, folder))).length);
  assert.ok(bytes.reduce((sum, one) => sum + one, 0) < 90_000, `${bytes}`);
});

const link = (page, name) => page.getByRole("list", { name: "Jobs", exact: true }).getByRole("link", { name, exact: true });

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 800 }]) {
    test(`axe finds nothing on any page, ${colorScheme}, ${viewport.width} pixels wide`, async (t) => {
      const page = await open(t, "", { colorScheme, viewport });
      const shown = {
        "#/": () => page.getByText("blitz").first().waitFor(),
        "#/jobs": () => link(page, "hedges").waitFor(),
        "#/pools": () => page.getByText("blitz").first().waitFor(),
        "#/search?q=red+shoe": () => page.getByText(/were compared one by one/).waitFor(),
        "#/matching": () => page.getByRole("link", { name: /^Boot 101/ }).waitFor(),
        "#/matching/101": () => page.getByRole("group", { name: /^Cutout 4,/ }).waitFor(),
        "#/models": () => page.getByRole("button", { name: "Activate dinov2-base" }).waitFor(),
        "#/users/ann": () => page.getByText("Parts of the score").first().waitFor(),
        "#/experiments": () => page.getByText("Products clicked").waitFor(),
        "#/what-if": () => page.getByRole("button", { name: "Compare" }).waitFor(),
        "#/operations": () => page.getByRole("cell", { name: "matching_summary", exact: true }).waitFor(),
        [`#/jobs/${jobs.matching}`]: () => page.locator("#detail").getByText("f1").first().waitFor(),
        [`#/jobs/${jobs.failed}`]: () => page.getByRole("button", { name: "Retry" }).waitFor(),
      };
      for (const [hash, isShown] of Object.entries(shown)) {
        await page.evaluate((to) => (location.hash = to), hash);
        await isShown();
        assert.deepEqual(await problems(page), [], hash);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(wide, 0, `${hash} scrolls sideways`);
      }
      await page.getByRole("button", { name: "Token" }).click();
      assert.deepEqual(await problems(page), [], "the dialog");
    });
  }
}

test("the lists show jobs, players, workers and read models", async (t) => {
  const page = await open(t, "");
  await link(page, "hedges").waitFor();
  // A name is text, whatever it contains.
  await link(page, "<b>idle</b>").waitFor();
  await page.getByRole("list", { name: "Pools" }).getByText("blitz").first().waitFor();
  await page.getByRole("link", { name: "Operations" }).click();
  await page.getByRole("cell", { name: "analyst-1" }).waitFor();
  await page.getByRole("row", { name: /^matching_summary Live/ }).waitFor();
  await page.getByRole("row", { name: /Corrupt media/i }).waitFor();
});

test("a found match appears in an open job without a reload", async (t) => {
  const page = await open(t, `#/jobs/${jobs.matching}`);
  await page.locator("#detail").getByText("Live", { exact: true }).waitFor();
  await match(server, jobs.matching, 2);
  const found = page.locator("dl.tiles div", { hasText: "Matches found" }).locator(".value");
  await found.getByText("2", { exact: true }).waitFor();
  await page.getByText("f2").first().waitFor();
});

test("a job is cancelled by a click", async (t) => {
  const page = await open(t, "#/jobs");
  await link(page, "<b>idle</b>").click();
  const cancel = page.getByRole("button", { name: "Cancel the job" });
  // Without confirmation nothing happens.
  page.once("dialog", (dialog) => dialog.dismiss());
  await cancel.click();
  assert.equal((await server.get(`/jobs/${jobs.idle}`)).status, "pending");
  page.once("dialog", (dialog) => dialog.accept());
  await cancel.click();
  await page.locator("#detail").getByText("Cancelled", { exact: true }).first().waitFor();
  await cancel.waitFor({ state: "hidden" });
  assert.equal((await server.get(`/jobs/${jobs.idle}`)).status, "cancelled");
});

test("a failed job is retried by a click", async (t) => {
  const page = await open(t, `#/jobs/${jobs.failed}`);
  const retry = page.getByRole("button", { name: "Retry", exact: true });
  await retry.click();
  await retry.waitFor({ state: "hidden" });
  const job = await server.get(`/jobs/${jobs.failed}`);
  assert.deepEqual([job.status, job.attempt], ["pending", 2]);
});

test("a search shows pictures and reasons, and a filter narrows it", async (t) => {
  const page = await open(t, "#/search");
  await page.getByText(/^The most popular products/).waitFor();
  await page.getByRole("searchbox", { name: "Search" }).fill("red shoe");
  await page.keyboard.press("Enter");
  await page.getByText(/^24 of 43 products/).waitFor();
  await page.getByText("All 43 products were compared one by one").waitFor();
  const products = page.getByRole("list", { name: "Products" });
  await products.getByText(/Contains 2 words of the query/).first().waitFor();
  // The pictures are those of this server; another host is never asked, and a text is never markup.
  await page.waitForFunction(() => [...document.querySelectorAll("#search-panel img")].some((image) => image.naturalWidth > 0));
  await products.getByText("Light & <i>dry</i>.").first().waitFor();
  await page.getByRole("link", { name: "Tents 20" }).click();
  await page.getByText(/^20 of 20 products/).waitFor();
  assert.match(page.url(), /#\/search\?q=red\+shoe&category_id=tent$/);
  assert.equal(await products.getByRole("heading", { name: /shoe/ }).count(), 0);
  await page.getByLabel("In stock").check();
  await page.getByText(/^16 of 16 products/).waitFor();
  await page.getByRole("link", { name: "Remove Category Tents" }).click();
  await page.getByText(/^24 of 32 products/).waitFor();
  await page.getByRole("button", { name: "Show more products" }).click();
  await page.getByText(/^32 of 32 products/).waitFor();
  await page.getByRole("link", { name: "Products similar to Red shoe 7" }).click();
  await page.getByRole("link", { name: "Remove Similar to Red shoe 7" }).waitFor();
});

const candidate = (page, id) => page.getByRole("group", { name: new RegExp(`^Cutout ${id},`) });
const focused = (page, id) => page.waitForFunction((id) => document.activeElement.ariaLabel?.startsWith(`Cutout ${id},`), id);
const shows = async (cutout) => (await server.get(`/api/v1/cutouts/${cutout}`)).matched_product_id;

/** Reads of the server wait for the event that a page has recorded. */
async function until(read, wanted) {
  for (const end = Date.now() + WAIT_MS; ; ) {
    const now = await read();
    if (now === wanted || Date.now() > end) return assert.equal(now, wanted);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

test("a candidate is accepted and undone by keyboard", async (t) => {
  const page = await open(t, "#/matching");
  await page.getByRole("searchbox", { name: "Name, brand or id" }).fill("boot");
  await page.getByRole("link", { name: "Boot 101 1 vector · 0 cutouts" }).click();
  await page.getByRole("heading", { name: "Boot 101" }).waitFor();
  // An agreeing product code counts more than a small angle, and what shows another product is last.
  await candidate(page, 2).and(page.getByRole("group", { name: /similarity 1.00, The product code agrees/ })).waitFor();
  assert.match(await page.getByRole("group", { name: /^Cutout/ }).first().getAttribute("aria-label"), /^Cutout 2,/);
  await page.waitForFunction(() => [...document.querySelectorAll(".candidate img")].some((image) => image.naturalWidth > 0));
  await page.keyboard.press("j");
  await focused(page, 2);
  await page.keyboard.press("ArrowRight");
  await focused(page, 1);
  await page.keyboard.press("k");
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Undo cutout 1" }).first().waitFor();
  await page.getByRole("heading", { name: "Cutouts that show it: 1" }).waitFor();
  await focused(page, 1);
  await until(() => shows(1), 101);
  await page.getByRole("link", { name: "Boot 101 2 vectors · 1 cutout" }).or(page.getByRole("link", { name: "Boot 101 1 vector · 1 cutout" })).waitFor();
  await page.keyboard.press("u");
  await page.getByRole("heading", { name: "Cutouts that show it", exact: true }).waitFor();
  await focused(page, 1);
  await until(() => shows(1), null);
  // The next product, and back: the focus goes on at its candidates.
  await page.keyboard.press("n");
  await page.getByRole("heading", { name: "Boot 102" }).waitFor();
  await focused(page, 2);
  await page.keyboard.press("p");
  await page.getByRole("heading", { name: "Boot 101" }).waitFor();
  assert.deepEqual(await problems(page), []);
});

test("a cutout of another product is reassigned on demand", async (t) => {
  const page = await open(t, "#/matching/101", {}, /409/);
  await candidate(page, 5).waitFor();
  // Another caller matches it in between, which this page does not know yet.
  await server.post("/api/v1/matching/products/103/matches", { cutouts: [{ cutout_id: 5 }] });
  await candidate(page, 5).getByRole("button", { name: "Accept cutout 5" }).click();
  const reassign = candidate(page, 5).getByRole("button", { name: "Reassign cutout 5" });
  await reassign.waitFor();
  assert.deepEqual(await problems(page), []);
  await candidate(page, 5).getByText(/103/).first().waitFor();
  await page.keyboard.press("Escape");
  await reassign.waitFor({ state: "hidden" });
  await focused(page, 5);
  assert.equal(await shows(5), 103);
  await page.keyboard.press("a");
  await reassign.click();
  await page.getByRole("group", { name: /^Cutout 5,.*accepted$/ }).waitFor();
  await focused(page, 5);
  await until(() => shows(5), 101);
  // Its match is undone in the product's own list, too.
  await page.getByRole("list", { name: "Cutouts that show the product" }).getByRole("button", { name: "Undo cutout 5" }).click();
  await until(() => shows(5), null);
});

test("a model is activated and another one deleted", async (t) => {
  const page = await open(t, "#/models", {}, /409/);
  const row = (id) => page.getByRole("row").filter({ has: page.getByRole("button", { name: `Delete ${id}` }) });
  await row("other").getByText("<i>other</i>").waitFor();
  await page.getByRole("button", { name: "Activate other" }).click();
  await page.getByText("other is the active model of images.").waitFor();
  await row("angles").waitFor();
  await row("other").waitFor({ state: "detached" });
  assert.equal((await server.get("/api/v1/embeddings/models/other")).is_matching_active, true);
  await page.getByRole("button", { name: "Activate angles" }).click();
  page.once("dialog", (dialog) => dialog.accept());
  await page.getByRole("button", { name: "Delete other" }).click();
  await page.getByText("other is deleted.").waitFor();
  await row("other").waitFor({ state: "detached" });
  // One that becomes active elsewhere cannot be deleted: the page says so.
  await page.route("**/api/v1/embeddings/models/dinov2-base", (route) =>
    route.fulfill({ status: 409, contentType: "application/problem+json", body: JSON.stringify({ status: 409, detail: "the model `dinov2-base` is active" }) }));
  page.once("dialog", (dialog) => dialog.accept());
  await page.getByRole("button", { name: "Delete dinov2-base" }).click();
  await page.getByText("the model `dinov2-base` is active").waitFor();
});

test("an extraction shows its progress and failures", async (t) => {
  const page = await open(t, "#/models");
  await page.getByRole("form", { name: "Start an extraction" }).getByRole("button", { name: "Extract vectors" }).click();
  await page.getByText("The extraction is created; a worker claims it.").waitFor();
  const { items } = await server.post("/internal/work/claim", { worker_id: "embedder-1", kinds: ["extract_cutouts"], max: 1 });
  const failures = [{ item_id: "9", reason: "the image is <b>truncated</b>" }];
  await server.post(`/internal/work/${items[0].lease_id}/progress`, { stage: "processing", fraction: 0.5, items_done: 3, items_total: 8, items_failed: 1, failures });
  await page.getByText("3 of 8 images, 1 failed").waitFor();
  await page.getByLabel(/^1 failed items of extraction/).click();
  await page.getByText("9: the image is <b>truncated</b>").waitFor();
  assert.deepEqual(await problems(page), []);
  await page.evaluate(() => (location.hash = "#/matching"));
  await page.locator("#matching-panel").getByText("Running: 3 of 8 images, 1 failed").waitFor();
  await page.getByRole("button", { name: "Cancel: Extract vectors of cutouts" }).click();
  await page.locator("#matching-panel").getByText("Cancelled: 3 of 8 images, 1 failed").waitFor();
  assert.equal((await server.get(`/api/v1/embeddings/jobs/${items[0].job_id}`)).status, "cancelled");
});

test("an export is made by the form and downloaded", async (t) => {
  const page = await open(t, "#/models");
  const form = page.getByRole("form", { name: "Start an export" });
  await page.waitForFunction(() => document.querySelector("[aria-label='Start an export'] [name=model_id]").value !== "");
  await form.getByLabel("Model").selectOption("angles");
  await form.getByLabel("Vectors of").selectOption("cutouts");
  await form.getByRole("button", { name: "Export" }).click();
  await page.getByText("The export is created; the server writes its file.").waitFor();
  const link = page.getByRole("link", { name: /^Download export/ });
  await link.waitFor();
  const row = page.getByRole("row").filter({ has: link });
  assert.match(await row.textContent(), /angles.*Lines of JSON.*Cutouts.*Completed.*30.* KB/);
  assert.deepEqual(await problems(page), []);
  const lines = async (download) => readFileSync(await (await download).path(), "utf8").trim().split("\n").length;
  let download = page.waitForEvent("download");
  await link.click();
  const whole = await lines(download);
  assert.ok(whole >= 30, `${whole} lines`);
  // With a token, the page itself loads the file, because a link cannot send the token.
  await page.evaluate(() => sessionStorage.setItem("matchbook.token", "any"));
  await page.reload();
  download = page.waitForEvent("download");
  await page.getByRole("button", { name: /^Download export/ }).click();
  assert.equal(await lines(download), whole);
});

test("a sync shows its result, and why there is none", async (t) => {
  const page = await open(t, "#/matching", {}, /422/);
  const panel = page.locator("#matching-panel");
  await page.getByRole("button", { name: "Sync cutouts" }).click();
  await panel.getByText("Completed: 2 new, 1 failed").waitFor();
  assert.equal((await server.get("/api/v1/cutouts/1002")).image_url, "https://cutouts.example/1002.jpg");
  const refused = { status: 422, contentType: "application/problem+json", body: JSON.stringify({ status: 422, detail: "no upstream of cutouts is configured" }) };
  await page.route("**/api/v1/cutouts/sync", (route) => route.fulfill(refused));
  await page.getByRole("button", { name: "Sync cutouts" }).click();
  await panel.getByText("no upstream of cutouts is configured").waitFor();
  assert.deepEqual(await problems(page), []);
});

test("a user's list is explained, live, and shown as of an instant", async (t) => {
  const page = await open(t, "#/users");
  await page.getByRole("searchbox", { name: "User id" }).fill("ann");
  await page.keyboard.press("Enter");
  await page.locator("#users-panel").getByText("Live", { exact: true }).waitFor();
  await page.getByText("3 views").waitFor();
  const list = page.getByRole("list", { name: "Recommended products" });
  const first = list.getByRole("heading").first();
  const bought = await first.textContent();
  await page.getByText("Parts of the score").first().click();
  await list.getByText("Probability").or(list.getByText("Place", { exact: true })).first().waitFor();
  // What the user buys leaves the list without a reload.
  const id = Number(bought.match(/\d+$/)[0]);
  await server.post("/api/v1/feedback", { user_id: "ann", product_id: id, interaction_type: "purchase" });
  await page.getByText(/Left out: .*1 bought before/).waitFor();
  await list.getByRole("heading", { name: bought, exact: true }).waitFor({ state: "detached" });
  await page.getByText("3 views, 1 purchase").waitFor();
  const slider = page.getByRole("slider", { name: "Instant to show the list at" });
  await slider.focus();
  await page.keyboard.press("Home");
  await page.locator("#users-panel").getByText("Historical", { exact: true }).waitFor();
  await page.getByText(/Nothing is known of the user yet/).waitFor();
  await page.getByRole("button", { name: "Back to now" }).click();
  await page.getByText(/Left out: .*1 bought before/).waitFor();
  // Looking at a list does not serve it.
  const { items } = await server.get("/audit/events?type=ListServed&limit=100");
  assert.equal(items.length, 7);
});

test("an experiment shows its variants with intervals", async (t) => {
  const page = await open(t, "#/experiments");
  await page.getByRole("heading", { name: "texts" }).waitFor();
  const clicked = page.getByRole("list", { name: "Products clicked" });
  await clicked.getByText("control").waitFor();
  await clicked.getByText(/^\d+(\.\d+)? % .* to .* %$/).first().waitFor();
  await page.getByText("By place in the list").click();
  await page.getByRole("region", { name: "Places of texts" }).waitFor();
});

test("a what-if run is started by a form, and shows both results", async (t) => {
  const page = await open(t, "#/what-if");
  await page.waitForFunction(() => document.querySelector("[name=window]")?.value !== "");
  await page.getByLabel("Rating window").fill("300");
  await page.getByRole("button", { name: "Compare" }).click();
  await page.locator("#what-if-panel").getByText("Completed", { exact: true }).waitFor();
  assert.match(page.url(), /#\/what-if\/[0-9a-f-]{36}$/);
  await page.getByText(/window 100 → 300/).waitFor();
  await page.getByRole("img", { name: /^Waiting time of matched entries/ }).waitFor();
  await page.getByRole("row", { name: /^Matches 1 1$/ }).waitFor();
  assert.deepEqual(await problems(page), []);
});

test("pages say what these credentials may not see", async (t) => {
  const page = await open(t, "", {}, /403/);
  const refused = { status: 403, contentType: "application/problem+json", body: JSON.stringify({ status: 403, code: "FORBIDDEN", detail: "no" }) };
  await page.route(/\/(api\/v1\/(experiments|users|recommend)|internal\/(what-if|queues|pools))/, (route) => route.fulfill(refused));
  for (const [hash, role] of [["#/experiments", "service or admin"], ["#/what-if", "admin"], ["#/users/bob", "service or admin"]]) {
    await page.evaluate((to) => (location.hash = to), hash);
    await page.getByText(new RegExp(`These credentials may not see .* the role ${role}`)).filter({ visible: true }).first().waitFor();
  }
});

test("the keyboard reaches everything in the order of the page", async (t) => {
  const page = await open(t, "#/jobs");
  await link(page, "hedges").waitFor();
  const focused = () =>
    page.evaluate(() => {
      const { id, name, textContent, ariaLabel } = document.activeElement;
      return ariaLabel || textContent.trim() || name || id;
    });
  const order = [];
  for (let at = 0; at < 16; at++) {
    await page.keyboard.press("Tab");
    order.push(await focused());
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", `the focus of ${order.at(-1)} is not visible`);
  }
  const sections = ["All", "Jobs", "Pools", "Search", "Matching", "Models", "Users", "Experiments", "What if", "Operations"];
  const expected = ["Skip to the content", "Matchbook, all sections", "API docs", "OpenAPI", "Token", ...sections, "q"];
  assert.deepEqual(order, expected);
  await link(page, "hedges").focus();
  await page.keyboard.press("Enter");
  // The focus follows to the opened job.
  await page.waitForFunction(() => document.activeElement.id === "detail-title");
  await page.getByRole("heading", { name: "hedges" }).waitFor();
  // The commands are offered when the job is loaded, after its title.
  await page.getByRole("button", { name: "Cancel the job" }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Cancel the job");
});
