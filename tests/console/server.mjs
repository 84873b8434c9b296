// A server of this test, on a free port and in a folder of its own.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const READY_MS = 60_000;

export class Server {
  static async start(program, settings = []) {
    const folder = mkdtempSync(join(tmpdir(), "console-"));
    const child = spawn(program, ["serve", "--listen", "127.0.0.1:0", "--data", join(folder, "data"), ...settings], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const url = await served(child);
    return Object.assign(new Server(), { folder, child, url, position: 0 });
  }

  async close() {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill();
    await ended;
    rmSync(this.folder, { recursive: true });
  }

  get = (path) => this.call("GET", path);
  post = (path, body, headers) => this.call("POST", path, body, headers);
  put = (path, body) => this.call("PUT", path, body);

  /** Later reads see what was written before. */
  async call(method, path, body, headers = {}) {
    const response = await fetch(this.url + path, {
      method,
      body: body && JSON.stringify(body),
      headers: { "Content-Type": "application/json", "X-Min-Position": String(this.position), ...headers },
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    this.position = Math.max(this.position, answer.position ?? 0);
    return answer;
  }
}

/** The address in the server's log, as soon as it serves. */
function served(child) {
  return new Promise((resolve, reject) => {
    const lines = [];
    const late = setTimeout(() => reject(new Error(`not ready in time:\n${lines.join("\n")}`)), READY_MS);
    child.once("exit", () => reject(new Error(`the server ended:\n${lines.join("\n")}`)));
    createInterface({ input: child.stderr }).on("line", (line) => {
      lines.push(line);
      const url = line.match(/the console is at (http:\S+?)\/?(\s|$)/)?.[1];
      if (!url) return;
      clearTimeout(late);
      resolve(url);
    });
  });
}
