// What stands before the server: serves a page with the built client, gives tokens as an application would, and passes
// everything else on. On demand it holds streams back, as some proxies do.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";

/** Nothing from elsewhere, and no script or style written into the page. */
const POLICY = "default-src 'self'; script-src 'self'; style-src 'self'; base-uri 'none'; object-src 'none'";
const DIST = path.join(import.meta.dirname, "../../dist");
const PAGE = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>test</title>
<script type="module">
  import { connect } from "/client/src/index.js";
  globalThis.counts = [];
  globalThis.states = [];
  globalThis.gaps = [];
  globalThis.begin = (options = {}) => {
    globalThis.client = connect({
      url: location.origin,
      getToken: async () => (await fetch("/token")).text(),
      onState: (state) => states.push(state.status),
      onGap: (gap) => gaps.push(gap),
      ...options,
    });
    client.on("test.count", (event) => counts.push(event.data.n));
  };
  globalThis.loaded = true;
</script>`;

export class Front {
  #server;
  #target;
  #token;
  /** Whether answers that are streams are held back until they end. */
  holdsBack = false;
  /** More pages, by path: type and content. */
  pages = new Map();
  /** Every address that was asked for. */
  asked = [];
  tokens = 0;

  /** `token` makes a token. */
  static async start(target, token) {
    const front = new Front();
    front.#target = target;
    front.#token = token;
    front.#server = http.createServer((request, response) => void front.#answer(request, response)).listen(0, "127.0.0.1");
    await once(front.#server, "listening");
    return front;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Cuts what is open. */
  cut() {
    this.#server.closeAllConnections();
  }

  async remove() {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer(request, response) {
    this.asked.push(request.url);
    if (request.url === "/page") return response.setHeader("content-type", "text/html").end(PAGE);
    if (request.url === "/token") {
      this.tokens += 1;
      return response.end(await this.#token());
    }
    const page = this.pages.get(request.url.split("?")[0]);
    if (page) return response.setHeader("content-type", page.type).setHeader("content-security-policy", POLICY).end(page.content);
    if (request.url.startsWith("/client/")) {
      const file = await readFile(path.join(DIST, path.normalize(request.url).replace("/client/", "")));
      // Also for frames without an origin.
      return response.setHeader("content-type", "text/javascript").setHeader("access-control-allow-origin", "*").end(file);
    }
    this.#pass(request, response);
  }

  #pass(request, response) {
    const { method, headers, url } = request;
    const onward = http.request(`${this.#target}${url}`, { method, headers }, (answer) => {
      const holds = this.holdsBack && answer.headers["content-type"] === "text/event-stream";
      if (!holds) {
        response.writeHead(answer.statusCode, answer.headers);
        response.flushHeaders();
        return answer.pipe(response);
      }
      const held = [];
      answer.on("data", (piece) => held.push(piece));
      answer.on("end", () => response.writeHead(answer.statusCode, answer.headers).end(Buffer.concat(held)));
    });
    onward.on("error", () => (response.headersSent ? response.destroy() : response.writeHead(502).end("bad gateway")));
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  }
}
