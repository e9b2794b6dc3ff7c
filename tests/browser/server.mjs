// A notify-server of the tests' own: the real binary, in development mode or as in production, in a new folder, on a free
// port.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { setInterval } from "node:timers/promises";
import { promisify } from "node:util";

/** Where pictures of pages are kept. */
export const SCREENSHOTS = process.env.SCREENSHOTS ?? path.join(import.meta.dirname, "../../target/screenshots");

const BINARY = path.resolve(
  process.env.NOTIFY_SERVER_BIN ?? path.join(import.meta.dirname, "../../target/debug/notify-server"),
);
// What a test that fails leaves behind must not outlive the tests.
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

const READY_MS = 20_000;
const POLL_MS = 20;

// A short retry, so that a page finds its way back soon after a restart, and pings that come soon.
const CONFIG = `
mode: development
data_dir: data
`;
// Without demo users: tokens are others' business.
const PRODUCTION = `
mode: production
data_dir: data
database: { url: "sqlite://data/chats.db?mode=rwc" }
auth: { keys: [{ secret: "known to nobody but these tests" }], issuer: ["https://id.example"] }
`;
const STREAM = "retry: 200ms";
const PINGS = "ping_interval: 3s";

export class Server {
  #folder;
  #port;
  #flags = [];
  #process = null;
  #output = [];

  /** `nats` is an address; `stream` and `more` are lines of the configuration, which must not name a host. */
  static async start({ nats, stream = PINGS, more = "", production = false } = {}) {
    const server = new Server();
    server.#flags = [...(nats ? ["--nats", nats] : []), ...(production ? ["--host", "127.0.0.1"] : [])];
    server.#folder = await mkdtemp(path.join(tmpdir(), "notify-server-browser-"));
    const config = production ? PRODUCTION : CONFIG;
    await writeFile(path.join(server.#folder, "config.yml"), `${config}stream: { ${[STREAM, stream].filter(Boolean).join(", ")} }\n${more}`);
    server.#port = await freePort();
    if (production) {
      await mkdir(path.join(server.#folder, "data"));
      await server.run("migrate");
    }
    await server.startAgain();
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Starts on the same port and with the same data, and waits until it is ready. */
  async startAgain() {
    this.#process = spawn(BINARY, ["--port", String(this.#port), "--log-format", "json", ...this.#flags], this.#surroundings());
    running.add(this.#process);
    const exited = once(this.#process, "exit").then(([code]) => {
      throw new Error(`notify-server ended with ${code}:\n${this.#output.join("\n")}`);
    });
    exited.catch(() => {});
    const lines = readline.createInterface({ input: this.#process.stderr });
    lines.on("line", (line) => this.#output.push(line));
    this.#process.stdout.resume();
    await Promise.race([exited, listening(lines)]);
    await Promise.race([exited, this.#ready()]);
  }

  stop() {
    return this.#end("SIGTERM");
  }

  /** Without a word to anybody. */
  kill() {
    return this.#end("SIGKILL");
  }

  async #end(signal) {
    const process = this.#process;
    if (!process || process.exitCode !== null || process.signalCode !== null) return;
    const exited = once(process, "exit");
    process.kill(signal);
    await exited;
    running.delete(process);
  }

  async remove() {
    await this.stop();
    await rm(this.#folder, { recursive: true, force: true });
  }

  /** Runs a command of the binary beside the server, and returns what it printed. */
  async run(...args) {
    const { stdout } = await promisify(execFile)(BINARY, args, this.#surroundings());
    return stdout.trim();
  }

  /** A token as the issuer of production makes it, or as `claims` change it. */
  issue(user, ...claims) {
    return this.run("token", "--user", String(user), ...["iss=https://id.example", ...claims].flatMap((claim) => ["--claim", claim]));
  }

  /** Publishes as a backend would, on the command line. */
  publish(subject, payload) {
    return this.run("publish", subject, JSON.stringify(payload), "--server", this.url);
  }

  /** Publishes many, one after the other, over HTTP. */
  async publishAll(subject, payloads) {
    const json = { "content-type": "application/json" };
    const asked = await fetch(`${this.url}/api/dev/token`, { method: "POST", headers: json, body: JSON.stringify({ user_id: 1 }) });
    const headers = { ...json, authorization: `Bearer ${(await asked.json()).access_token}` };
    for (const payload of payloads) {
      const answer = await fetch(`${this.url}/api/v1/bus/${subject}`, { method: "POST", headers, body: JSON.stringify(payload) });
      if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
    }
  }

  // Nothing of the developer's own settings may reach the tests.
  #surroundings() {
    return { cwd: this.#folder, env: { PATH: process.env.PATH, HOME: this.#folder, RUST_BACKTRACE: "1" } };
  }

  async #ready() {
    const deadline = Date.now() + READY_MS;
    for await (const now of setInterval(POLL_MS, Date.now)) {
      const ready = await fetch(`${this.url}/ready`).catch(() => null);
      if (ready?.ok) return;
      if (now() > deadline) break;
    }
    throw new Error(`notify-server does not become ready:\n${this.#output.join("\n")}`);
  }
}

function listening(lines) {
  return new Promise((resolve) => {
    lines.on("line", (line) => {
      if (line.includes('"listening"')) resolve();
    });
  });
}

/**
 * Below the range from which systems take the local ports of outgoing connections: a browser that reconnects
 * again and again would else sooner or later be given the very port that it connects to.
 */
export async function freePort() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    const probe = net.createServer().listen(port, "127.0.0.1");
    const free = await Promise.race([once(probe, "listening").then(() => true), once(probe, "error").then(() => false)]);
    if (!free) continue;
    probe.close();
    await once(probe, "close");
    return port;
  }
}
