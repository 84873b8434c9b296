// Stream deletion and stream metadata, with the Node client.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import { all, batch, event, events, fresh, kurrent, revisions, unary, withServer } from "./support.mjs";

const { ANY, NO_STREAM } = kurrent;
const at = await withServer();

const written = async (count = 3) => {
  const stream = fresh();
  await at.client.appendToStream(stream, events(count));
  return stream;
};

test("a deleted stream is not found, and its revisions continue", async () => {
  for (const expectedRevision of [2n, ANY]) {
    const stream = await written();
    const { position } = await at.client.deleteStream(stream, { expectedRevision });
    assert.ok(position.commit > 0n);
    await assert.rejects(all(at.client.readStream(stream)), kurrent.StreamNotFoundError);
    await at.client.appendToStream(stream, event(), { streamState: NO_STREAM });
    assert.deepEqual(revisions(await all(at.client.readStream(stream))), [3]);
  }
});

test("deleting at a wrong revision is refused", async () => {
  const stream = await written();
  for (const action of ["deleteStream", "tombstoneStream"]) {
    await assert.rejects(at.client[action](stream, { expectedRevision: 1n }), (error) => {
      assert.ok(error instanceof kurrent.WrongExpectedVersionError, error);
      assert.deepEqual([error.streamName, error.expectedState, error.actualState], [stream, 1n, 2n]);
      return true;
    });
  }
  assert.deepEqual(revisions(await all(at.client.readStream(stream))), [0, 1, 2]);
});

test("a tombstone is permanent", async () => {
  const stream = await written();
  await at.client.tombstoneStream(stream, { expectedRevision: 2n });
  for (const options of [batch, unary]) {
    await assert.rejects(at.client.appendToStream(stream, event(), options), (error) => {
      assert.ok(error instanceof kurrent.StreamDeletedError, error);
      assert.equal(error.streamName, stream);
      return true;
    });
  }
  await assert.rejects(all(at.client.readStream(stream)), kurrent.StreamDeletedError);
  await assert.rejects(at.client.deleteStream(stream), kurrent.StreamDeletedError);
});

test("metadata is stored and its revision is checked", async () => {
  const stream = fresh();
  assert.equal((await at.client.getStreamMetadata(stream)).metadata, undefined);
  await at.client.setStreamMetadata(stream, { maxCount: 4, by: "ann" }, { streamState: NO_STREAM });
  const { metadata } = await at.client.getStreamMetadata(stream);
  assert.deepEqual([metadata.maxCount, metadata.by], [4, "ann"]);
  const stale = at.client.setStreamMetadata(stream, { by: "eve" }, { streamState: 7n });
  await assert.rejects(stale, kurrent.WrongExpectedVersionError);
});

test("stream metadata limits the visible events", async () => {
  const stream = await written(10);
  await at.client.setStreamMetadata(stream, { maxCount: 4 });
  assert.deepEqual(revisions(await all(at.client.readStream(stream))), [6, 7, 8, 9]);
  await at.client.setStreamMetadata(stream, { truncateBefore: 8 });
  assert.deepEqual(revisions(await all(at.client.readStream(stream))), [8, 9]);
  await at.client.setStreamMetadata(stream, {});
  assert.deepEqual(revisions(await all(at.client.readStream(stream))).length, 10);
});

test("clients cannot delete domain events", async () => {
  for (const stream of [`job-${randomUUID()}`, `matching-${randomUUID()}.3`, "worker-default.w1"]) {
    await assert.rejects(at.client.setStreamMetadata(stream, { maxCount: 1 }), kurrent.AccessDeniedError);
    await assert.rejects(at.client.deleteStream(stream), kurrent.AccessDeniedError);
    await assert.rejects(at.client.tombstoneStream(stream), kurrent.AccessDeniedError);
  }
});
