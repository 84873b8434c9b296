// Reads of the whole log, with the Node client.

import assert from "node:assert/strict";
import { test } from "node:test";

import { all, event, ids, kurrent, withServer } from "./support.mjs";

const { BACKWARDS, END, START, eventTypeFilter, excludeSystemEvents, streamNameFilter } = kurrent;
const at = await withServer();
const given = [];

for (let number = 0; number < 40; number++) {
  const stream = `${["cart", "cartoon", "parcel"][number % 3]}-${number % 6}`;
  const each = event(number, ["Opened", "Closed"][number % 2]);
  const { position } = await at.client.appendToStream(stream, each);
  given.push({ id: each.id, stream, type: each.type, position });
}
await at.client.setStreamMetadata("cart-0", { maxAge: 1_000_000 });

const read = async (options) => ids(await all(at.client.readAll({ filter: excludeSystemEvents(), ...options })));

test("the log is read in the same order in both directions", async () => {
  const events = await all(at.client.readAll({ filter: excludeSystemEvents() }));
  assert.deepEqual(ids(events), ids(given));
  assert.deepEqual(events.map(({ position }) => position), given.map(({ position }) => position));
  assert.deepEqual(await read({ fromPosition: START }), ids(given));
  assert.deepEqual(await read({ fromPosition: END, direction: BACKWARDS }), ids(given).reverse());
  const [last] = await all(at.client.readAll({ fromPosition: END, direction: BACKWARDS, maxCount: 1 }));
  assert.equal(last.type, "$metadata");
});

test("a position is included forwards and excluded backwards", async () => {
  const { position } = given[20];
  assert.deepEqual(await read({ fromPosition: position, maxCount: 3 }), ids(given.slice(20, 23)));
  assert.deepEqual(await read({ fromPosition: position, maxCount: 3, direction: BACKWARDS }), ids(given.slice(17, 20)).reverse());
});

const filters = {
  "a stream prefix": [streamNameFilter({ prefixes: ["cart-"] }), ({ stream }) => stream.startsWith("cart-")],
  "several stream prefixes": [streamNameFilter({ prefixes: ["cart-", "par"] }), ({ stream }) => !stream.startsWith("cartoon")],
  "a stream pattern": [streamNameFilter({ regex: "^[a-z]+-[135]$" }), ({ stream }) => /[135]$/.test(stream)],
  "a type prefix": [eventTypeFilter({ prefixes: ["Op"] }), ({ type }) => type === "Opened"],
  "a type pattern": [eventTypeFilter({ regex: "^(?!Opened|\\$)" }), ({ type }) => type === "Closed"],
};
for (const [what, [filter, keep]] of Object.entries(filters)) {
  test(`the log is filtered by ${what}`, async () => {
    const wanted = ids(given.filter(keep));
    assert.ok(wanted.length > 0 && wanted.length < given.length);
    assert.deepEqual(await read({ filter }), wanted);
    assert.deepEqual(await read({ filter, maxCount: 5 }), wanted.slice(0, 5));
    assert.deepEqual(await read({ filter, fromPosition: END, direction: BACKWARDS }), wanted.toReversed());
  });
}
