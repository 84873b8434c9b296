// Appends to streams and reads of them, with the Node client.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import { all, batch, blob, event, events, fresh, ids, kurrent, range, revisions, unary, withServer } from "./support.mjs";

const { ANY, BACKWARDS, END, NO_STREAM, START, STREAM_EXISTS } = kurrent;
const at = await withServer();

test("an event round-trips exactly", async () => {
  const [stream, given] = [fresh("Übergrößen 100 %"), event(7, "Größe", { metadata: { by: "ann" } })];
  const { position, nextExpectedRevision } = await at.client.appendToStream(stream, given, { streamState: NO_STREAM });
  assert.equal(nextExpectedRevision, 0n);
  const [read] = await all(at.client.readStream(stream));
  assert.deepEqual(
    [read.id, read.type, read.data, read.metadata, read.streamId, read.revision, read.isJson],
    [given.id, "Größe", { number: 7 }, { by: "ann" }, stream, 0n, true],
  );
  assert.deepEqual(read.position, position);
  assert.ok(Math.abs(Date.now() - read.created) < 60_000);
});

test("binary data round-trips exactly", async () => {
  const [stream, bytes] = [fresh(), range(0, 256)];
  await at.client.appendToStream(stream, [blob(bytes), blob([])]);
  const read = await all(at.client.readStream(stream));
  assert.deepEqual(read.map(({ data, isJson }) => [[...data], isJson]), [[bytes, false], [[], false]]);
});

test("a stream is read in both directions from any revision", async () => {
  const [stream, given] = [fresh(), events(10)];
  await at.client.appendToStream(stream, given);
  const read = async (options) => revisions(await all(at.client.readStream(stream, options)));
  assert.deepEqual(ids(await all(at.client.readStream(stream))), ids(given));
  assert.deepEqual(await read({ fromRevision: START }), range(0, 10));
  assert.deepEqual(await read({ fromRevision: END, direction: BACKWARDS }), range(0, 10).reverse());
  assert.deepEqual(await read({ fromRevision: 4n, maxCount: 2 }), [4, 5]);
  assert.deepEqual(await read({ fromRevision: 4n, maxCount: 2, direction: BACKWARDS }), [4, 3]);
  assert.deepEqual(await read({ fromRevision: END, maxCount: 1, direction: BACKWARDS }), [9]);
  assert.deepEqual(await read({ fromRevision: 10n }), []);
});

test("a stream without events is not found", async () => {
  const reading = all(at.client.readStream(fresh()));
  await assert.rejects(reading, kurrent.StreamNotFoundError);
});

// The client appends over one long-lived stream, or, with credentials of the call, with the unary call.
for (const [way, options] of [["batch", batch], ["unary", unary]]) {
  test(`a wrong expected revision reports the actual one (${way})`, async () => {
    const stream = fresh();
    await at.client.appendToStream(stream, events(3), { streamState: NO_STREAM, ...options });
    for (const streamState of [NO_STREAM, 0n, 1n, 3n]) {
      await assert.rejects(at.client.appendToStream(stream, event(), { streamState, ...options }), (error) => {
        assert.ok(error instanceof kurrent.WrongExpectedVersionError, error);
        assert.deepEqual([error.streamName, error.expectedState, error.actualState], [stream, streamState, 2n]);
        return true;
      });
    }
    const absent = fresh();
    for (const streamState of [STREAM_EXISTS, 0n]) {
      await assert.rejects(at.client.appendToStream(absent, event(), { streamState, ...options }), (error) => {
        assert.ok(error instanceof kurrent.WrongExpectedVersionError, error);
        assert.equal(error.actualState, NO_STREAM);
        return true;
      });
    }
    for (const [index, streamState] of [2n, ANY, STREAM_EXISTS].entries()) {
      const { nextExpectedRevision } = await at.client.appendToStream(stream, event(), { streamState, ...options });
      assert.equal(nextExpectedRevision, BigInt(3 + index));
    }
  });

  test(`a retried append is appended once with the same answer (${way})`, async () => {
    const [stream, given] = [fresh(), events(3)];
    const first = await at.client.appendToStream(stream, given, { streamState: NO_STREAM, ...options });
    for (const streamState of [NO_STREAM, ANY]) {
      assert.deepEqual(await at.client.appendToStream(stream, given, { streamState, ...options }), first);
    }
    assert.deepEqual(ids(await all(at.client.readStream(stream))), ids(given));
  });

  test(`a too large append writes nothing (${way})`, async () => {
    const stream = fresh();
    await at.client.appendToStream(stream, range(0, 90).map(() => blob(Array(10_000).fill(7))), options);
    const huge = [range(0, 20).map(() => blob(Array(110_000).fill(7))), [blob(Array(4_000_000).fill(7))]];
    for (const given of huge) {
      await assert.rejects(at.client.appendToStream(stream, given, options), (error) => {
        assert.ok(error instanceof kurrent.MaxAppendSizeExceededError, error);
        assert.ok(error.maxAppendSize > 0);
        return true;
      });
    }
    // The connection and the server still work.
    const { nextExpectedRevision } = await at.client.appendToStream(stream, event(), { streamState: 89n, ...options });
    assert.equal(nextExpectedRevision, 90n);
  });

  test(`clients cannot append domain events (${way})`, async () => {
    for (const stream of [`job-${randomUUID()}`, `matching-${randomUUID()}.3`, "worker-default.w1"]) {
      await assert.rejects(at.client.appendToStream(stream, event(0, "JobCreated"), options), kurrent.AccessDeniedError);
      await assert.rejects(all(at.client.readStream(stream)), kurrent.StreamNotFoundError);
    }
  });
}

test("concurrent appends on one connection are each answered", async () => {
  const streams = range(0, 20).map(() => fresh());
  const appends = range(0, 400).map((number) => at.client.appendToStream(streams[number % 20], event(number)));
  const positions = (await Promise.all(appends)).map(({ position }) => position.commit);
  assert.equal(new Set(positions).size, 400);
  for (const stream of streams) {
    assert.deepEqual(revisions(await all(at.client.readStream(stream))), range(0, 20));
  }
});

test("a call of newer servers is reported as unsupported", async () => {
  const appending = at.client.multiStreamAppend([{ streamName: fresh(), events: [event()], expectedState: ANY }]);
  await assert.rejects(appending, kurrent.UnsupportedError);
});
