// A nats-server of the tests' own, with JetStream, so that what was missed can be had after a restart.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { freePort } from "../../../../tests/browser/server.mjs";

export class Nats {
  #folder;
  #port;
  #process;

  static async start() {
    const nats = new Nats();
    nats.#folder = await mkdtemp(path.join(tmpdir(), "notify-client-nats-"));
    nats.#port = await freePort();
    nats.url = `nats://127.0.0.1:${nats.#port}`;
    await nats.#run();
    return nats;
  }

  async #run() {
    this.#process = spawn("nats-server", ["-js", "-sd", this.#folder, "-a", "127.0.0.1", "-p", String(this.#port)]);
    const failed = once(this.#process, "error").then(([error]) => {
      throw new Error(`nats-server can't be started (scripts/install-test-tools has it): ${error.message}`);
    });
    failed.catch(() => {});
    await Promise.race([failed, ready(this.#process.stderr)]);
    this.#process.stderr.resume();
  }

  /** Loses all that it has stored, and starts again. */
  async loseAll() {
    await this.remove();
    await mkdir(this.#folder);
    await this.#run();
  }

  async remove() {
    const exited = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await exited;
    await rm(this.#folder, { recursive: true, force: true });
  }
}

async function ready(output) {
  for await (const line of readline.createInterface({ input: output })) {
    if (line.includes("Server is ready")) return;
  }
  throw new Error("nats-server has ended");
}
