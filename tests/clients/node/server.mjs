// The real program, started on free ports over a folder of its own.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const program = resolve(import.meta.dirname, "../../../target/debug/matchbook");

// A generous bound on what takes milliseconds on an idle machine.
const PATIENCE = 60_000;

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
    await server.again();
    return server;
  }

  /** Starts over the same folder, on the same ports. */
  async again() {
    const log = await open(join(this.folder, "server.log"), "a");
    // Tests share the disk with whatever else is on it.
    const env = { ...process.env, MATCHBOOK_RESERVE_BYTES: "1000000", MATCHBOOK_SEGMENT_BYTES: "8000000" };
    this.process = spawn(program, this.arguments, { env, stdio: ["ignore", log.fd, log.fd] });
    this.ended = once(this.process, "exit");
    await log.close();
    await until("the server is ready", async () => {
      if (this.process.exitCode !== null) throw new Error(`the server ended:\n${await this.log()}`);
      return fetch(`http://127.0.0.1:${this.http}/ready`).then((answer) => answer.ok, () => false);
    });
  }

  /** SIGKILL by default: the process has no chance to say goodbye. Answers its exit code. */
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

/** They are free now; nothing else on this machine asks for them by number. */
async function freePorts(count) {
  const listeners = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(listeners.map((listener) => once(listener, "listening")));
  const ports = listeners.map((listener) => listener.address().port);
  await Promise.all(listeners.map((listener) => once(listener.close(), "close")));
  return ports;
}

/** Waits until something is so. */
export async function until(what, isSo) {
  const end = Date.now() + PATIENCE;
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await sleep(10);
  }
}
