// Authentication and certificates, with the Node client.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";

import { Server } from "./server.mjs";
import { all, event, events, ids, kurrent, take } from "./support.mjs";

const tls = process.env.MATCHBOOK_TEST_TLS;
const server = await Server.start(
  `--esdb-tls-cert=${join(tls, "server.pem")}`,
  `--esdb-tls-key=${join(tls, "server.key")}`,
  "--esdb-users=ann:secret",
);
after(() => server.close());

const connect = (t, user, options = `tls=true&tlsCAFile=${join(tls, "ca.pem")}`) => {
  const url = `kurrentdb://${user}localhost:${server.port}?${options}`;
  const client = kurrent.KurrentDBClient.connectionString(url);
  t.after(() => client.dispose());
  return client;
};

test("a user with the right password appends, reads and subscribes", async (t) => {
  const [client, given] = [connect(t, "ann:secret@"), events(3)];
  await client.appendToStream("order-1", given.slice(0, 2));
  // With credentials of its own, an append uses the unary call.
  await client.appendToStream("order-1", given[2], { credentials: { username: "ann", password: "secret" } });
  assert.deepEqual(ids(await all(client.readStream("order-1"))), ids(given));
  const subscription = client.subscribeToStream("order-1");
  assert.deepEqual(ids(await take(subscription, 3)), ids(given));
  await subscription.unsubscribe();
});

test("wrong or missing credentials are refused", async (t) => {
  for (const user of ["", "ann:wrong@", "eve:secret@"]) {
    const client = connect(t, user);
    await assert.rejects(client.appendToStream("order-2", event()), kurrent.AccessDeniedError);
    await assert.rejects(all(client.readStream("order-2")), kurrent.AccessDeniedError);
    await assert.rejects(client.deleteStream("order-2"), kurrent.AccessDeniedError);
    await assert.rejects(take(client.subscribeToAll(), 1), kurrent.AccessDeniedError);
  }
  const wrong = { credentials: { username: "ann", password: "wrong" } };
  await assert.rejects(connect(t, "ann:secret@").appendToStream("order-2", event(), wrong), kurrent.AccessDeniedError);
});

test("a certificate of an unknown authority is refused", async (t) => {
  await assert.rejects(connect(t, "ann:secret@", "tls=true&defaultDeadline=2000").appendToStream("order-3", event()));
});
