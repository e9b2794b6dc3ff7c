// A server with the message API: the real binary with a real PostgreSQL and a real nats-server.

import { Server } from "../../../../tests/browser/server.mjs";
import { Nats } from "./nats.mjs";
import { Postgres } from "./postgres.mjs";

export class Backend {
  postgres;
  nats;
  server;

  static async start() {
    const backend = new Backend();
    try {
      await backend.#start();
    } catch (error) {
      await backend.remove();
      throw error;
    }
    return backend;
  }

  async #start() {
    this.postgres = await Postgres.start();
    this.nats = await Nats.start();
    const more = `database: { url: "${this.postgres.url}" }\n`;
    this.server = await Server.start({ nats: this.nats.url, stream: "ping_interval: 1s", more });
    // With the tables it takes what is written to them, from its next start on.
    await this.server.run("migrate");
    await this.server.stop();
    await this.server.startAgain();
  }

  async remove() {
    await this.server?.remove();
    await this.nats?.remove();
    await this.postgres?.remove();
  }
}
