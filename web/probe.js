// A stream read by fetch, with the times at which things came; for the diagnosis. Knows nothing of the document.

/** Milliseconds since a moment, as a whole number. */
export const since = (began) => Math.round(performance.now() - began);

/** Rejects with an error named TimeoutError after a time. */
export function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(Object.assign(new Error(`${ms} ms`), { name: "TimeoutError" })), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The protocol by which the last request for a path was answered, e.g. http/1.1 or h2; empty where it is not told. */
export function protocolOf(path) {
  const entries = performance.getEntriesByType("resource").filter((entry) => new URL(entry.name).pathname === path);
  return entries.at(-1)?.nextHopProtocol ?? "";
}

/** An event stream: its events as they came, each with the milliseconds that it took. */
export class Probe {
  #waiting = [];
  #abort = new AbortController();
  events = [];
  firstByteMs = null;
  headersMs = null;
  answer = null;
  /** Settles when the stream is over: with an error, or with null at its end. */
  over = null;

  /** Asks; comes back with the headers. */
  async open(session, path, headersWithinMs) {
    this.began = performance.now();
    const asked = session.ask(path, { headers: { accept: "text/event-stream" }, signal: this.#abort.signal });
    this.answer = await within(headersWithinMs, asked);
    this.headersMs = since(this.began);
    this.over = this.answer.ok && this.answer.body ? this.#read().then(() => null, (error) => error) : Promise.resolve(null);
    this.over.then(() => this.#settle());
    return this.answer;
  }

  close() {
    this.#abort.abort();
  }

  async #read() {
    const reader = this.answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.firstByteMs ??= since(this.began);
      this.#settle();
      const blocks = (text + value).split(/\r?\n\r?\n/);
      text = blocks.pop();
      blocks.forEach((block) => this.#block(block));
    }
  }

  #block(block) {
    const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
    if (!data) return;
    try {
      this.events.push({ ms: since(this.began), event: JSON.parse(data) });
    } catch {
      return; // No event of this server.
    }
    this.#settle();
  }

  /** Waits for something to be found in this stream; undefined where it is over before. */
  find(look, ms) {
    return within(ms, new Promise((resolve) => {
      const now = look(this);
      if (now) return resolve(now);
      this.#waiting.push({ look, resolve });
      this.over.then(() => resolve(look(this)));
    }));
  }

  event(wanted, ms) {
    return this.find(({ events }) => events.find(({ event }) => wanted(event)), ms);
  }

  #settle() {
    this.#waiting = this.#waiting.filter(({ look, resolve }) => {
      const found = look(this);
      if (found) resolve(found);
      return !found;
    });
  }
}
