// One user's events for as long as a page wants them, whatever happens to connections. Knows nothing of the document.
//
// Each connection takes a new ticket, so that no token stands in an address; continues behind the last id; is given up
// when nothing came for two and a half pings; and where a stream brings nothing at all, events are polled until one does.

import { refusal, wireId } from "./api.js";
import { t } from "./i18n.js";

const SILENT_PINGS = 2.5; // pings missed before a stream that still looks open is taken for dead
const DEFAULT_PING_MS = 30_000;
const FIRST_EVENT_MS = 15_000; // the confirmation comes at once, unless something on the way holds it back
const ANSWER_MS = 15_000;
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 30_000;
const POLL_SECONDS = 25;
const LOOK_AGAIN_MS = 30_000; // whether streams get through by now; twice as long after each look
const LOOK_AGAIN_MAX_MS = 600_000;
const PROBE_MS = 4_000;
const UNAUTHORIZED = 401;
const TOO_MANY = 429;

/**
 * States told to `onState`: connecting, live, polling, reconnecting (with the number of the attempt), stopped (with a
 * reason to show).
 */
export class LiveStream {
  #session;
  #onEvent;
  #onState;
  #firstEventMs;
  #closed = new AbortController();
  #lastId = "";
  #silenceMs = DEFAULT_PING_MS * SILENT_PINGS;
  #failures = 0;
  #waitMs = null; // until the next attempt, where the server has said so
  #renewed = false;
  #streamsWork = true;
  #confirmed = null; // the last confirmation

  constructor({ session, onEvent, onState, firstEventMs = FIRST_EVENT_MS }) {
    this.#session = session;
    this.#onEvent = onEvent;
    this.#onState = onState;
    this.#firstEventMs = firstEventMs;
  }

  /** Runs until it is closed, or the server says that there is no coming back. */
  async open() {
    this.#onState("connecting");
    while (!this.#gone) {
      try {
        if (this.#streamsWork) await this.#stream();
        else await this.#poll();
      } catch (error) {
        if (this.#gone) return;
        if (this.#isFinal(error)) return this.#stop(error);
        this.#waitMs = error.retryAfterMs || null;
      }
      if (!this.#gone) await this.#rest();
    }
  }

  close() {
    this.#closed.abort();
  }

  get #gone() {
    return this.#closed.signal.aborted;
  }

  /** Any signal that ends a request: the page's wish, or the time that an answer may take. */
  #within(ms) {
    return AbortSignal.any([this.#closed.signal, AbortSignal.timeout(ms)]);
  }

  async #stream() {
    const ticket = await this.#session.ticket(this.#within(ANSWER_MS));
    const query = { ticket, ...(this.#lastId && { last_event_id: this.#lastId }) };
    const source = new EventSource(this.#session.address("/events", query));
    const ended = await this.#listen(source);
    const refused = source.readyState === EventSource.CLOSED;
    source.close();
    if (ended === "held back") this.#streamsWork = false;
    else if (ended === "broken" && refused) await this.#askWhy();
    else if (ended?.type === "closing") this.#closing(ended);
  }

  /** Until the stream is broken or silent, held back by something on the way, or says that it is closing. */
  #listen(source) {
    return new Promise((resolve) => {
      let timer = setTimeout(resolve, this.#firstEventMs, "held back");
      const end = (how) => {
        clearTimeout(timer);
        resolve(how);
      };
      this.#closed.signal.addEventListener("abort", () => end("closed"), { once: true });
      source.onerror = () => end("broken");
      source.onmessage = (message) => {
        clearTimeout(timer);
        const event = JSON.parse(message.data);
        this.#received(event, message.lastEventId);
        if (event.type === "closing") return end(event);
        timer = setTimeout(resolve, this.#silenceMs, "silent");
      };
    });
  }

  #received(event, id) {
    if (this.#gone) return;
    if (id) this.#lastId = id;
    if (event.type === "connection_confirmed") {
      this.#connected("live");
      this.#silenceMs = (event.ping_interval_ms || DEFAULT_PING_MS) * SILENT_PINGS;
      this.#confirmed = event;
    }
    this.#onEvent(event, id);
  }

  #connected(state) {
    this.#failures = 0;
    this.#renewed = false;
    this.#onState(state);
  }

  #closing(event) {
    this.#waitMs = event.retry_ms ?? null;
    if (event.reason === "token_expired" && this.#session.canRenew) {
      this.#session.forgetToken();
      this.#waitMs = 0;
    } else if (event.reason === "token_expired") {
      throw final(t("expired"));
    } else if (event.reconnect === false) {
      throw final(t("ended"));
    }
  }

  /** EventSource hides why it was refused, so the same question is asked once more without a body. */
  async #askWhy() {
    const answer = await this.#session.ask("/events", { method: "HEAD", signal: this.#within(ANSWER_MS) });
    if (!answer.ok) throw await refusal(answer);
  }

  // Where streams are held back

  async #poll() {
    let lookMs = LOOK_AGAIN_MS;
    let lookAt = performance.now() + lookMs;
    while (!this.#gone) {
      const query = this.#lastId ? { after: this.#lastId, wait: POLL_SECONDS } : {};
      const signal = this.#within(POLL_SECONDS * 1000 + ANSWER_MS);
      const { events, last_id: lastId, gap } = await this.#session.json("/events/poll", { query, signal });
      if (this.#gone) return;
      this.#connected("polling");
      if (!this.#confirmed) this.#confirmed = this.#confirmation();
      if (gap) this.#onEvent({ type: "gap" }, "");
      for (const event of events) this.#onEvent(event, "");
      if (lastId) this.#lastId = lastId;
      if (performance.now() < lookAt) continue;
      if (await this.#streamsGetThrough()) {
        this.#streamsWork = true;
        this.#waitMs = 0;
        return;
      }
      lookMs = Math.min(LOOK_AGAIN_MAX_MS, lookMs * 2);
      lookAt = performance.now() + lookMs;
    }
  }

  /** Polls do not say who one is and in which chats; the events will. */
  #confirmation() {
    const made = { type: "connection_confirmed", user_id: wireId(this.#session.user ?? ""), connected_chats: null, polled: true };
    this.#onEvent(made, "");
    return made;
  }

  async #streamsGetThrough() {
    const probe = new AbortController();
    const timer = setTimeout(() => probe.abort(), PROBE_MS);
    try {
      const answer = await this.#session.ask("/api/sse/test", { headers: { accept: "text/event-stream" }, signal: probe.signal });
      return answer.ok && !(await answer.body.getReader().read()).done;
    } catch {
      return false;
    } finally {
      clearTimeout(timer);
      probe.abort();
    }
  }

  // Coming back

  /** Before the next attempt: as long as the server has asked for, or else a random part of a growing time. */
  #rest() {
    const longest = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.#failures);
    const ms = this.#waitMs ?? longest * Math.random();
    this.#waitMs = null;
    this.#failures += 1;
    this.#onState("reconnecting", this.#failures);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#closed.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      }, { once: true });
    });
  }

  #isFinal(error) {
    if (error.final) return true;
    if (error.status === UNAUTHORIZED && this.#session.canRenew && !this.#renewed) {
      this.#renewed = true;
      this.#session.forgetToken();
      return false;
    }
    return error.status >= 400 && error.status < 500 && error.status !== TOO_MANY;
  }

  #stop(error) {
    this.close();
    this.#onState("stopped", error.final ? error.message : t("refused", { why: error.why || error.message }));
  }
}

function final(message) {
  return Object.assign(new Error(message), { final: true });
}
