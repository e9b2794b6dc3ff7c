// One connection to the server, for as long as it is wanted: streams, comes back, renews the token,
// polls where streams are held back. Knows nothing of tabs and listeners.

import { Api, type Polled } from "./api.js";
import type { Closing, Gap, NotifyEvent } from "./events.js";
import { address, type Parameters, type Settings } from "./options.js";
import { asProblem, type CloseReason, problem, type Problem, type State } from "./state.js";
import { SIGNED_OUT } from "./token.js";
import { fetchStream, nativeStream } from "./transports.js";

/** An event and its id, if it has one of its own. */
export type Arrival = [event: NotifyEvent, id: string | undefined];

/** Who is told. */
export interface LinkSink {
  /** All of what came at once, and where to go on from behind it. */
  events(arrivals: Arrival[], lastId: string | undefined): void;
  state(state: State): void;
  problem(problem: Problem): void;
}

interface Attempt {
  abort: AbortController;
  /** Never rejects: says what was wrong, `undefined` where it was only not wanted any more. */
  ended: Promise<Problem | undefined>;
  /** When the server confirmed it. */
  confirmedAt?: number;
  /** When a probe's first event came. */
  firstAt?: number;
  closing?: Closing;
  lastId?: string;
  timer?: ReturnType<typeof setTimeout>;
  /** A poll, a stream, or a test stream that shows whether streaming works. */
  kind: "poll" | "stream" | "probe";
  native?: boolean;
}

/** Between pings, until the server says. */
export const PING_MS = 30_000;
/** In intervals between pings: the silence after which a stream is taken for dead. */
const SILENT_PINGS = 2.5;
/** A server that wishes for less is not taken at its word. */
const BACKOFF_MIN_MS = 100;
/** A connection that lasted so long was a good one: counting failures begins anew behind it. */
const GOOD_MS = 5_000;
/** A poll that is over sooner, with nothing, was not held by the server. */
const SHORT_POLL_MS = 1_000;
/** Events of a test stream that come so far apart were not held back. */
const APART_MS = 500;
const PROBE_MAX_MS = 600_000;

export class Link {
  #active: Attempt | undefined;
  /** The one that takes over once it is confirmed. */
  #next: Attempt | undefined;
  #stopped = false;
  #failures = 0;
  #silences = 0;
  /** It is not to stream. */
  #never: boolean;
  #polls: boolean;
  /** Polling has worked where streams did not. */
  #proven = false;
  #backoff: number;
  #pingMs = PING_MS;
  #pauses = new Set<() => void>();

  #settings: Settings;
  #api: Api;
  #sink: LinkSink;
  #random: () => number;
  #lastId: string | undefined;

  constructor(settings: Settings, api: Api, sink: LinkSink, lastId: string | undefined) {
    this.#settings = settings;
    this.#api = api;
    this.#sink = sink;
    this.#lastId = lastId;
    this.#random = settings.environment.random;
    this.#never = settings.transport === "poll";
    this.#polls = this.#never;
    this.#backoff = settings.timing.backoff;
  }

  async run(): Promise<void> {
    this.#sink.state({ status: "connecting" });
    while (!this.#stopped) {
      const ended = await (this.#polls ? this.#poll() : this.#follow());
      this.#next?.abort.abort();
      if (this.#stopped) return;
      const wait = this.#judge(this.#active!, ended);
      if (wait) await this.#pause(wait);
    }
  }

  stop(): void {
    this.#stopped = true;
    this.#active?.abort.abort();
    this.#next?.abort.abort();
    this.nudge();
  }

  /** Ends all waiting; what looks open is replaced, since it may be dead. */
  nudge(): void {
    for (const end of this.#pauses) end();
    if (!this.#stopped && this.#active?.confirmedAt) void this.#replace(this.#active);
  }

  // Streams

  /** A stream, and those that take over from it, until the last of them ends. */
  async #follow(): Promise<Problem | undefined> {
    let attempt = this.#open();
    this.#active = attempt;
    for (;;) {
      const ended = await attempt.ended;
      if (this.#active === attempt) return ended;
      attempt = this.#active;
    }
  }

  #attempt(kind: Attempt["kind"], begin: (attempt: Attempt) => Promise<unknown>): Attempt {
    const abort = new AbortController();
    const attempt = { abort, kind } as Attempt;
    attempt.ended = new Promise((resolve) => {
      const over = (error: unknown): void => {
        clearTimeout(attempt.timer);
        const { aborted, reason } = abort.signal;
        // Who gives no reason is given an Error.
        const wanted = reason instanceof Error ? undefined : (reason as Problem);
        resolve(aborted ? wanted : asProblem(error));
        abort.abort();
      };
      // Not all that is aborted says so: a fetch that had just read its last bytes never does.
      abort.signal.onabort = over;
      begin(attempt).then(over, over);
    });
    return attempt;
  }

  #open(kind: "stream" | "probe" = "stream"): Attempt {
    return this.#attempt(kind, (attempt) => this.#stream(attempt));
  }

  async #stream(attempt: Attempt): Promise<void> {
    const api = this.#api;
    const settings = this.#settings;
    const { signal } = attempt.abort;
    // Getting one can take as long as a user takes to sign in.
    const token = await api.token();
    if (signal.aborted) return;
    this.#expect(attempt, settings.timing.firstData);
    // An EventSource hides why it was refused, so every second try after a failure goes by fetch.
    const probe = attempt.kind === "probe";
    const native = settings.transport === "eventsource" && settings.environment.EventSource && !(this.#failures % 2) && !probe;
    attempt.native = !!native;
    const parameters: Parameters = { named: "false", last_event_id: this.#lastId };
    if (native && token) {
      parameters.ticket = (await api.json<{ ticket: string }>("events/ticket", { method: "POST", signal })).ticket;
      if (signal.aborted) return;
    }
    const own = settings.channels ? `sse/stream/${settings.channels.map(encodeURIComponent).join()}` : "events";
    const path = probe ? "api/sse/test" : own;
    const sink = {
      event: (data: string, id: string) => this.#take(attempt, data, id),
      retry: (ms: number) => (this.#backoff = Math.max(ms, BACKOFF_MIN_MS)),
    };
    await (native
      ? nativeStream(settings, address(settings.url, path, parameters), signal, sink)
      : fetchStream(api, path, parameters, signal, sink));
  }

  #take(attempt: Attempt, data: string, id: string): void {
    if (attempt.abort.signal.aborted) return;
    let event: NotifyEvent;
    try {
      event = JSON.parse(data) as NotifyEvent;
    } catch {
      return this.#sink.problem(problem("answer", "no JSON"));
    }
    const { type } = event;
    const now = Date.now();
    if (attempt.kind === "probe") {
      // These are sent a second apart; where nothing holds them back they come so.
      if (!attempt.firstAt) {
        attempt.firstAt = now;
        return;
      }
      if (now - attempt.firstAt > APART_MS) attempt.confirmedAt = now;
      return attempt.abort.abort();
    }
    if (attempt.confirmedAt) this.#silences = 0;
    if (type === "connection_confirmed") {
      this.#pingMs = (event.ping_interval_ms as number) || PING_MS;
      attempt.confirmedAt = now;
      const before = this.#active;
      this.#active = attempt;
      if (before !== attempt) before?.abort.abort();
      this.#sink.state({ status: "open", transport: attempt.native ? "eventsource" : "fetch" });
    }
    this.#expect(attempt, this.#pingMs * SILENT_PINGS);
    // An id that is repeated is that of an earlier event.
    const own = id && id !== attempt.lastId ? id : undefined;
    if (id) this.#lastId = attempt.lastId = id;
    this.#sink.events([[event, own]], this.#lastId);
    if (type === "token_expiring" && this.#settings.getToken) void this.#renew(attempt, event.expires_in_ms as number);
    if (type === "closing") {
      attempt.closing = event as Closing;
      attempt.abort.abort();
    }
  }

  /** The attempt is over if nothing comes within the time. */
  #expect(attempt: Attempt, ms: number): void {
    clearTimeout(attempt.timer);
    attempt.timer = setTimeout(() => {
      attempt.abort.abort(problem("silent", "no data for too long"));
    }, ms);
  }

  /** In the middle of what is left of the token, not all clients at once. */
  async #renew(attempt: Attempt, leftMs: number): Promise<void> {
    await this.#pause(leftMs * (0.25 + this.#random() / 2));
    if (this.#active !== attempt) return;
    const old = this.#api.token();
    this.#api.dropToken();
    // With the same token a new stream would end when this one does.
    if ((await old) !== (await this.#api.token().catch(() => {}))) await this.#replace(attempt);
  }

  /** The old stream goes on until the new one is confirmed; what both bring has the same ids. */
  async #replace(old: Attempt): Promise<void> {
    while (this.#active === old && !old.abort.signal.aborted && !this.#polls) {
      this.#next?.abort.abort();
      const next = this.#open();
      this.#next = next;
      const ended = await next.ended;
      // It has taken over, or is not wanted any more.
      if (next.confirmedAt || !ended) return;
      this.#sink.problem(ended);
      await this.#pause(this.#settings.timing.backoff);
    }
  }

  // Long poll

  /** Polls until that fails, or streaming works again. */
  async #poll(): Promise<Problem | undefined> {
    const attempt = this.#attempt("poll", (attempt) => this.#pollOn(attempt));
    this.#active = attempt;
    if (!this.#never) void this.#probe(attempt);
    const ended = await attempt.ended;
    this.nudge();
    return ended;
  }

  async #pollOn(attempt: Attempt): Promise<void> {
    const api = this.#api;
    const settings = this.#settings;
    const { signal } = attempt.abort;
    const { poll, firstData } = settings.timing;
    // Where even the first poll fails, streams are not what is wrong.
    this.#polls = this.#proven || this.#never;
    await api.token();
    for (let first = true; !signal.aborted; first = false) {
      const began = Date.now();
      const after = this.#lastId;
      const wait = first ? 0 : poll;
      this.#expect(attempt, wait + firstData);
      const polled = await api.json<Polled>("events/poll", { signal, cache: "no-store" }, {
        after,
        wait: String(wait / 1000),
        channels: settings.channels?.join(),
      });
      clearTimeout(attempt.timer);
      if (signal.aborted) return;
      if (first) {
        this.#polls = this.#proven = true;
        attempt.confirmedAt = began;
        this.#sink.state({ status: "polling" });
      }
      this.#lastId = polled.last_id ?? this.#lastId;
      const gap: Gap = { type: "gap", reason: "unknown", from: after ?? null, to: polled.last_id };
      const arrivals = [...(polled.gap ? [gap] : []), ...polled.events].map((event): Arrival => [event, undefined]);
      if (arrivals.length || after !== this.#lastId) this.#sink.events(arrivals, this.#lastId);
      else if (!first && Date.now() - began < SHORT_POLL_MS) await this.#pause(settings.timing.backoff);
    }
  }

  /**
   * Tries now and then whether streams get through, and ends the polling if they do. It asks for a test stream: one of the
   * user's own would take with it what waits for the user.
   */
  async #probe(polling: Attempt): Promise<void> {
    const { signal } = polling.abort;
    for (let ms = this.#settings.timing.probe; !signal.aborted; ms = Math.min(ms * 2, PROBE_MAX_MS)) {
      await this.#pause(ms * (0.75 + this.#random() / 2));
      if (signal.aborted) return;
      const probe = this.#open("probe");
      this.#next = probe;
      await probe.ended;
      if (probe.confirmedAt && !signal.aborted) {
        this.#polls = this.#proven = false;
        return polling.abort.abort();
      }
    }
  }

  // What to do next

  /** How long to wait before the next try; says so, or that there is none. */
  #judge({ closing, confirmedAt, kind }: Attempt, ended: Problem | undefined): number {
    if (ended?.code === "silent" && kind === "stream" && (!confirmedAt || ++this.#silences > 1)) {
      this.#sink.problem(ended);
      this.#silences = 0;
      this.#polls = true;
      return 0;
    }
    // Polling has made way for a stream.
    if (!closing && !ended) return 0;
    const failed = closing ? undefined : ended;
    if (failed) this.#sink.problem(failed);
    let reason: CloseReason | undefined;
    if (closing) reason = closing.reconnect ? undefined : (closing.reason as CloseReason);
    else if (failed === SIGNED_OUT) reason = "signed_out";
    else if (failed!.status === 401) reason = "unauthorized";
    else if (failed!.final) reason = "refused";
    const good = confirmedAt && Date.now() - confirmedAt >= GOOD_MS;
    if (good) this.#failures = 0;
    if (this.#settings.getToken && reason === "token_expired") {
      this.#api.dropToken();
      reason = undefined;
      if (good) return 0;
    }
    const { maxAttempts } = this.#settings;
    const attempt = ++this.#failures;
    if (!reason && attempt > maxAttempts) reason = "attempts";
    if (reason) {
      this.stop();
      this.#sink.state({ status: "closed", reason, problem: failed });
      return 0;
    }
    const most = Math.min(this.#settings.timing.backoffMax, this.#backoff * 2 ** (attempt - 1));
    // What the server says in closing it has spread over its clients.
    const retryInMs = closing?.reconnect ? closing.retry_ms : (failed?.retryAfterMs ?? 0) + this.#random() * most;
    this.#sink.state({ status: "reconnecting", attempt, maxAttempts, retryInMs, problem: failed });
    return retryInMs;
  }

  /** Until the time is over, or somebody is impatient. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        this.#pauses.delete(end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#pauses.add(end);
    });
  }
}
