// Catch-up subscriptions, with the Node client.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { Server } from "./server.mjs";
import { all, event, events, fresh, ids, kurrent, range, revisions, take, withServer } from "./support.mjs";

const { END, START, streamNameFilter } = kurrent;
const at = await withServer();

test("history comes first, then caughtUp, then new events", async () => {
  const [stream, old, fresher] = [fresh(), events(300), events(3)];
  await at.client.appendToStream(stream, old);
  const subscription = at.client.subscribeToStream(stream, { fromRevision: START });
  const caughtUp = once(subscription, "caughtUp");
  assert.deepEqual(ids(await take(subscription, 300)), ids(old));
  const [{ revision, date }] = await caughtUp;
  assert.equal(revision, 299n);
  assert.ok(Math.abs(Date.now() - date) < 60_000);
  assert.ok(subscription.id);
  await at.client.appendToStream(stream, fresher);
  assert.deepEqual(ids(await take(subscription, 3)), ids(fresher));
  await subscription.unsubscribe();
});

test("the revision to resume from is excluded", async () => {
  const stream = fresh();
  await at.client.appendToStream(stream, events(10));
  const subscription = at.client.subscribeToStream(stream, { fromRevision: 6n });
  assert.deepEqual(revisions(await take(subscription, 3)), [7, 8, 9]);
  await subscription.unsubscribe();
});

test("a subscription can start at the end, also of a missing stream", async () => {
  for (const before of [events(5), []]) {
    const [stream, fresher] = [fresh(), events(2)];
    if (before.length > 0) await at.client.appendToStream(stream, before);
    const subscription = at.client.subscribeToStream(stream, { fromRevision: END });
    await once(subscription, "confirmation");
    await at.client.appendToStream(stream, fresher);
    assert.deepEqual(ids(await take(subscription, 2)), ids(fresher));
    await subscription.unsubscribe();
  }
});

test("no event is missed or duplicated between history and new events", async () => {
  const [stream, total] = [fresh(), 400];
  const writing = (async () => {
    for (const number of range(0, total)) await at.client.appendToStream(stream, event(number));
  })();
  const subscriptions = range(0, 4).map(() => at.client.subscribeToStream(stream));
  for (const subscription of subscriptions) {
    assert.deepEqual(revisions(await take(subscription, total)), range(0, total));
    await subscription.unsubscribe();
  }
  await writing;
});

test("a filtered subscription resumes from its checkpoints", async () => {
  const [marked, other] = [fresh("marked"), fresh("other")];
  for (const number of range(0, 300)) await at.client.appendToStream(number % 100 === 99 ? marked : other, event(number));
  const wanted = await all(at.client.readStream(marked));
  const checkpoints = [];
  const options = { prefixes: [marked], maxSearchWindow: 10, checkpointInterval: 2 };
  const checkpointReached = (_, { commit }) => checkpoints.push(commit);
  const subscription = at.client.subscribeToAll({ filter: streamNameFilter({ ...options, checkpointReached }) });
  assert.deepEqual(ids(await take(subscription, 3)), ids(wanted));
  await subscription.unsubscribe();
  assert.ok(checkpoints.length >= 3, `${checkpoints.length} checkpoints`);
  assert.deepEqual(checkpoints, checkpoints.toSorted((a, b) => Number(a - b)));
  for (const checkpoint of checkpoints) {
    const last = event(-1);
    const rest = (await all(at.client.readStream(marked))).filter(({ position }) => position.commit > checkpoint);
    await at.client.appendToStream(marked, last);
    const fromPosition = { commit: checkpoint, prepare: checkpoint };
    const resumed = at.client.subscribeToAll({ fromPosition, filter: streamNameFilter(options) });
    assert.deepEqual(ids(await take(resumed, rest.length + 1)), [...ids(rest), last.id]);
    await resumed.unsubscribe();
  }
});

test("existing and new events arrive in order", async () => {
  const subscription = at.client.subscribeToAll();
  const before = await all(at.client.readAll());
  for (const number of range(0, 30)) await at.client.appendToStream(`late-${number % 3}`, event(number));
  const seen = await take(subscription, before.length + 30);
  assert.deepEqual(ids(seen), ids(await all(at.client.readAll())));
  await subscription.unsubscribe();
});

test("after a kill a client resumes and misses nothing", async () => {
  const server = await Server.start();
  try {
    const client = kurrent.KurrentDBClient.connectionString(server.url);
    const given = events(20);
    for (const each of given.slice(0, 10)) await client.appendToStream("order-1", each);
    let subscription = client.subscribeToAll({ filter: kurrent.excludeSystemEvents() });
    const seen = await take(subscription, 6);
    const failed = once(subscription, "error").catch((error) => [error]);
    const reading = take(subscription, 100).catch((error) => error);
    await server.stop();
    assert.ok((await failed)[0] instanceof Error);
    assert.ok((await reading) instanceof Error);
    await server.restart();
    const again = kurrent.KurrentDBClient.connectionString(server.url);
    // The last event is sent again, as after a lost response.
    for (const each of given.slice(9)) await again.appendToStream("order-1", each);
    subscription = again.subscribeToAll({ fromPosition: seen.at(-1).position, filter: kurrent.excludeSystemEvents() });
    seen.push(...(await take(subscription, 14)));
    assert.deepEqual(ids(seen), ids(given));
    await subscription.unsubscribe();
    await Promise.all([client.dispose(), again.dispose()]);
  } finally {
    await server.close();
  }
});
