// Helpers for the tests of the Node client.

import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { after } from "node:test";

import { Server } from "./server.mjs";

// The packages are in the build folder, not next to the tests.
const require = createRequire(resolve(import.meta.dirname, "../../../target/clients/node/package.json"));

export const kurrent = require("@kurrent/kurrentdb-client");

let numbers = 0;

/** One server and one client for all tests of a file; each test uses streams of its own. */
export async function withServer() {
  const server = await Server.start();
  const client = kurrent.KurrentDBClient.connectionString(server.url);
  after(async () => {
    await client.dispose();
    await server.close();
  });
  return { server, client };
}

/** A stream name that no other test uses. */
export const fresh = (name = "order") => `${name}-${numbers++}`;

export const event = (number = 0, type = "OrderPlaced", more = {}) =>
  kurrent.jsonEvent({ id: randomUUID(), type, data: { number }, ...more });

export const events = (count, type) => Array.from({ length: count }, (_, number) => event(number, type));

export const blob = (bytes) => kurrent.binaryEvent({ type: "Blob", data: new Uint8Array(bytes) });

/** All events that a read returns. */
export async function all(read) {
  const found = [];
  for await (const { event } of read) found.push(event);
  return found;
}

const iterators = new WeakMap();

/** Receives the next events of a subscription, which stays open. */
export async function take(subscription, count) {
  if (!iterators.has(subscription)) iterators.set(subscription, subscription[Symbol.asyncIterator]());
  const iterator = iterators.get(subscription);
  const found = [];
  while (found.length < count) {
    const { value, done } = await iterator.next();
    if (done) throw new Error("the subscription ended");
    found.push(value.event);
  }
  return found;
}

export const ids = (some) => some.map(({ id }) => id);
export const revisions = (some) => some.map(({ revision }) => Number(revision));
export const range = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);

// Without TLS the client sends no credentials, but with them it appends with the unary call.
export const unary = { credentials: { username: "ann", password: "secret" } };
export const batch = {};
