// Proxies as they stand before servers and do what they should not, on a free port each.

import { once } from "node:events";
import http from "node:http";
import { constants, createGzip } from "node:zlib";

/** Gives an answer on when it has all of it, as some proxies and virus scanners do. */
export function buffering(target) {
  return listening(target, async (answer, response) => {
    const parts = [];
    for await (const part of answer) parts.push(part);
    const { "transfer-encoding": _, ...headers } = answer.headers;
    response.writeHead(answer.statusCode, headers);
    response.end(Buffer.concat(parts));
  });
}

/** Compresses whatever it is, and passes it on at once. */
export function compressing(target) {
  return listening(target, async (answer, response) => {
    const { "content-length": _, "transfer-encoding": __, ...headers } = answer.headers;
    response.writeHead(answer.statusCode, { ...headers, "content-encoding": "gzip" });
    answer.pipe(createGzip({ flush: constants.Z_SYNC_FLUSH })).pipe(response);
  });
}

/** Cuts streams after a time, as idle timeouts do. */
export function cutting(target, ms) {
  return listening(target, async (answer, response) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
    if (isStream(answer)) setTimeout(() => response.destroy(), ms).unref();
  });
}

/** Gives the beginning of streams on, and then nothing more. */
export function freezing(target, ms) {
  return listening(target, async (answer, response) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response, { end: false });
    answer.on("end", () => response.end());
    if (isStream(answer)) setTimeout(() => answer.unpipe(response), ms).unref();
  });
}

/** Caches streams, or says so. */
export function caching(target) {
  return listening(target, async (answer, response) => {
    response.writeHead(answer.statusCode, { ...answer.headers, ...(isStream(answer) && { "cache-control": "max-age=60", age: "1" }) });
    answer.pipe(response);
  });
}

const isStream = ({ headers }) => headers["content-type"] === "text/event-stream";

async function listening(target, pass) {
  const proxy = http.createServer((request, response) => {
    const onwards = http.request(new URL(request.url, target), { method: request.method, headers: { ...request.headers, via: "1.1 test" } });
    onwards.on("response", (answer) => { pass(answer, response).catch(() => response.destroy()); });
    onwards.on("error", () => response.destroy());
    response.on("close", () => onwards.destroy());
    request.pipe(onwards);
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    async close() {
      proxy.closeAllConnections();
      proxy.close();
      await once(proxy, "close");
    },
  };
}
