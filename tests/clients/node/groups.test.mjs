// Persistent subscriptions, with the Node client.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { event, events, fresh, ids, kurrent, withServer } from "./support.mjs";

const { PARK, START, persistentSubscriptionToAllSettingsFromDefaults, persistentSubscriptionToStreamSettingsFromDefaults } = kurrent;
const at = await withServer();
const settings = (more) => persistentSubscriptionToStreamSettingsFromDefaults({ startFrom: START, ...more });

/** Receives the next events of a group, and answers each with `answer`. */
async function consume(subscription, count, answer = (each) => subscription.ack(each)) {
  const found = [];
  for await (const each of subscription) {
    await answer(each);
    found.push(each);
    if (found.length === count) break;
  }
  return found;
}

test("existing and new events are delivered in order", async () => {
  const [stream, given] = [fresh(), events(40)];
  await at.client.appendToStream(stream, given.slice(0, 30));
  await at.client.createPersistentSubscriptionToStream(stream, "g", settings());
  const subscription = at.client.subscribeToPersistentSubscriptionToStream(stream, "g");
  await once(subscription, "confirmation");
  await at.client.appendToStream(stream, given.slice(30));
  assert.deepEqual(ids((await consume(subscription, 40)).map(({ event }) => event)), ids(given));
});

test("an event is parked and replayed", async () => {
  const [stream, given] = [fresh(), event()];
  await at.client.appendToStream(stream, given);
  await at.client.createPersistentSubscriptionToStream(stream, "g", settings());
  const first = at.client.subscribeToPersistentSubscriptionToStream(stream, "g");
  await consume(first, 1, (each) => first.nack(PARK, "not now", each));
  const parked = async () => (await at.client.getPersistentSubscriptionToStreamInfo(stream, "g")).stats.parkedMessageCount;
  while ((await parked()) !== 1n && (await parked()) !== 1) await new Promise((done) => setTimeout(done, 10));
  await at.client.replayParkedMessagesToStream(stream, "g");
  const second = at.client.subscribeToPersistentSubscriptionToStream(stream, "g");
  const [replayed] = await consume(second, 1);
  assert.equal(replayed.event.id, given.id);
});

test("groups of the whole log are created once, updated, listed and deleted", async () => {
  const group = fresh("group");
  await at.client.createPersistentSubscriptionToAll(group, persistentSubscriptionToAllSettingsFromDefaults({ startFrom: START }));
  const again = at.client.createPersistentSubscriptionToAll(group, persistentSubscriptionToAllSettingsFromDefaults());
  await assert.rejects(again, kurrent.PersistentSubscriptionExistsError);
  await at.client.updatePersistentSubscriptionToAll(group, persistentSubscriptionToAllSettingsFromDefaults({ maxRetryCount: 3 }));
  const listed = await at.client.listPersistentSubscriptionsToAll();
  assert.deepEqual(listed.map(({ groupName, settings }) => [groupName, settings.maxRetryCount]), [[group, 3]]);
  await at.client.deletePersistentSubscriptionToAll(group);
  await assert.rejects(at.client.deletePersistentSubscriptionToAll(group), kurrent.PersistentSubscriptionDoesNotExistError);
});
