// A nats-server of the tests' own, with JetStream, so that what was missed can be had after a restart.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { freePort } from "../../../../tests/browser/server.mjs";

export class Nats {
  #folder;
  #process;

  static async start() {
    const nats = new Nats();
    nats.#folder = await mkdtemp(path.join(tmpdir(), "notify-client-nats-"));
    const port = await freePort();
    nats.url = `nats://127.0.0.1:${port}`;
    nats.#process = spawn("nats-server", ["-js", "-sd", nats.#folder, "-a", "127.0.0.1", "-p", String(port)]);
    const failed = once(nats.#process, "error").then(([error]) => {
      throw new Error(`nats-server can't be started (scripts/install-test-tools has it): ${error.message}`);
    });
    failed.catch(() => {});
    await Promise.race([failed, ready(nats.#process.stderr)]);
    nats.#process.stderr.resume();
    return nats;
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
