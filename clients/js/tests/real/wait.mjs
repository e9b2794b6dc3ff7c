// Waiting for what another process does.

import { setInterval } from "node:timers/promises";

/** Asks again and again until the answer is true, and fails with what was last found. */
export async function eventually(what, found, is, ms = 20_000) {
  let last;
  for await (const began of setInterval(25, Date.now())) {
    last = await found();
    if (is(last)) return last;
    if (Date.now() - began > ms) break;
  }
  throw new Error(`${what}: waited ${ms} ms, found ${JSON.stringify(last)?.slice(-700)}`);
}

/** Numbers from 1, each once and in order. */
export function upTo(count) {
  return Array.from({ length: count }, (_, index) => index + 1);
}

/** Publishes numbered events for a user, with or without a server. */
export class Counter {
  #server;
  #nats;
  #n = 0;

  constructor(server, nats) {
    this.#server = server;
    this.#nats = nats;
  }

  get last() {
    return this.#n;
  }

  async publish(count = 1) {
    for (let sent = 0; sent < count; sent++) {
      this.#n += 1;
      const event = { type: "test.count", channel: "user:2", data: { n: this.#n } };
      await this.#server.run("publish", "fechatter.realtime.test", JSON.stringify(event), "--nats", this.#nats.url);
    }
  }
}

/** How many streams and polls a server has open. */
export async function connections(server) {
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  // One line for each way in which streams are transported.
  const lines = [...metrics.matchAll(/^notify_connections\{[^}]*\} (\d+)/gm)];
  return lines.reduce((sum, line) => sum + Number(line[1]), 0);
}
