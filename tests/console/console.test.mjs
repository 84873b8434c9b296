// The console in a browser, on a server with jobs of each kind, players and a worker.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import { Server } from "./server.mjs";

const require = createRequire(process.env.CONSOLE_PACKAGES);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const executablePath = execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim();
const WAIT_MS = 30_000;

let server, browser, jobs;
before(async () => {
  server = await Server.start(process.env.CONSOLE_PROGRAM);
  jobs = await fill(server);
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
});
after(async () => {
  await browser?.close();
  await server?.close();
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

function match(server, job, frame) {
  const found = { match_id: `f${frame}`, img_id: "hedge-1", product_id: "hedge", video_id: "garden", frame_id: `f${frame}`, score: 0.9 };
  return server.post(`/jobs/${job}/matches`, [found]);
}

/** Opens a page of the console, and fails at the end of the test if the browser reported an error. */
async function open(t, hash, options = {}) {
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
    assert.deepEqual(errors, []);
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

const link = (page, name) => page.getByRole("list", { name: "Jobs", exact: true }).getByRole("link", { name, exact: true });

for (const colorScheme of ["light", "dark"]) {
  for (const viewport of [{ width: 1280, height: 900 }, { width: 390, height: 800 }]) {
    test(`axe finds nothing on any page, ${colorScheme}, ${viewport.width} pixels wide`, async (t) => {
      const page = await open(t, "", { colorScheme, viewport });
      const shown = {
        "#/": () => page.getByText("blitz").first().waitFor(),
        "#/jobs": () => link(page, "hedges").waitFor(),
        "#/pools": () => page.getByText("blitz").first().waitFor(),
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

test("the keyboard reaches everything in the order of the page", async (t) => {
  const page = await open(t, "#/jobs");
  await link(page, "hedges").waitFor();
  const focused = () =>
    page.evaluate(() => {
      const { id, name, textContent, ariaLabel } = document.activeElement;
      return ariaLabel || textContent.trim() || name || id;
    });
  const order = [];
  for (let at = 0; at < 10; at++) {
    await page.keyboard.press("Tab");
    order.push(await focused());
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", `the focus of ${order.at(-1)} is not visible`);
  }
  const expected = ["Skip to the content", "Matchbook, all sections", "All", "Jobs", "Pools", "Operations", "API docs", "OpenAPI", "Token", "q"];
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
