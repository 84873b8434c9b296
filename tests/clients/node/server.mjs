// The built program, started on free ports with a data folder of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const program = resolve(import.meta.dirname, "../../../target/debug/matchbook");

// A generous timeout for operations that take milliseconds on an idle machine.
const TIMEOUT = 60_000;

/** A running `matchbook serve`. */
export class Server {
  static async start(...flags) {
    const server = new Server();
    server.folder = await mkdtemp(join(tmpdir(), "matchbook-clients-"));
    [server.http, server.port] = await freePorts(2);
    server.url = `kurrentdb://127.0.0.1:${server.port}?tls=false`;
    server.arguments = [
      "serve",
      `--listen=127.0.0.1:${server.http}`,
      `--esdb-listen=127.0.0.1:${server.port}`,
      `--data=${join(server.folder, "data")}`,
      ...flags,
    ];
    await server.restart();
    return server;
  }

  /** Starts again with the same folder and ports. */
  async restart() {
    const log = await open(join(this.folder, "server.log"), "a");
    // The tests share the disk with other programs.
    const env = { ...process.env, MATCHBOOK_RESERVE_BYTES: "1000000", MATCHBOOK_SEGMENT_BYTES: "8000000" };
    this.process = spawn(program, this.arguments, { env, stdio: ["ignore", log.fd, log.fd] });
    this.ended = once(this.process, "exit");
    await log.close();
    await until("the server is ready", async () => {
      if (this.process.exitCode !== null) throw new Error(`the server ended:\n${await this.log()}`);
      return fetch(`http://127.0.0.1:${this.http}/ready`).then((answer) => answer.ok, () => false);
    });
  }

  /** Sends a signal, by default SIGKILL, and returns the exit code. */
  async stop(signal = "SIGKILL") {
    this.process.kill(signal);
    const [code] = await this.ended;
    return code;
  }

  async log() {
    return readFile(join(this.folder, "server.log"), "utf8");
  }

  async close() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.stop();
    await rm(this.folder, { recursive: true });
  }
}

/** Finds free ports. No other program on this machine requests them by number. */
async function freePorts(count) {
  const listeners = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(listeners.map((listener) => once(listener, "listening")));
  const ports = listeners.map((listener) => listener.address().port);
  await Promise.all(listeners.map((listener) => once(listener.close(), "close")));
  return ports;
}

/** Waits until a condition holds. */
export async function until(what, condition) {
  const end = Date.now() + TIMEOUT;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`timeout waiting until ${what}`);
    await sleep(10);
  }
}
