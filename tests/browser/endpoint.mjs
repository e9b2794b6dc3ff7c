// Where users sign in, at an origin of its own: an endpoint as applications have one, which can be told to do otherwise.

import { once } from "node:events";
import http from "node:http";

export class Endpoint {
  #server;
  #port = 0;
  /** The origin whose pages may read. */
  allowed = "";
  /** What was sent, parsed. */
  asked = [];
  /** Answers a sign-in: `{status, json}` or `{status, text, type}`; never, where it gives nothing. */
  answer = () => ({ status: 500, json: {} });

  static async start() {
    const endpoint = new Endpoint();
    await endpoint.startAgain();
    return endpoint;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}/signin`;
  }

  get host() {
    return `127.0.0.1:${this.#port}`;
  }

  async startAgain() {
    this.#server = http.createServer((request, response) => void this.#take(request, response)).listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = this.#server.address().port;
  }

  async stop() {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  async #take(request, response) {
    if (this.allowed) {
      response.setHeader("access-control-allow-origin", this.allowed);
      response.setHeader("access-control-allow-headers", "content-type");
    }
    if (request.method === "OPTIONS") return response.writeHead(204).end();
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts).toString();
    if (request.url !== "/signin") return response.writeHead(404, { "content-type": "text/plain" }).end("nothing here");
    this.asked.push(body && JSON.parse(body));
    const answer = await this.answer();
    if (!answer) return;
    const { status, json, text = JSON.stringify(json), type = "application/json" } = answer;
    response.writeHead(status, { "content-type": type }).end(text);
  }
}
