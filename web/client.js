// Made by scripts/bundle-client from clients/js/src, where it is to be changed and where its comments are.

// clients/js/src/options.ts
var TIMING = {
  firstData: 15e3,
  probe: 3e4,
  backoff: 1e3,
  backoffMax: 3e4,
  poll: 25e3,
  leaderAnswer: 5e3
};
function settings(options) {
  const host = globalThis;
  const page = host.document ? host : void 0;
  return {
    ...options,
    maxAttempts: options.maxAttempts ?? Infinity,
    timing: { ...TIMING, ...options.timing },
    environment: {
      fetch: (...request) => fetch(...request),
      EventSource: host.EventSource,
      BroadcastChannel: page?.BroadcastChannel,
      locks: page?.navigator.locks,
      events: page,
      random: Math.random,
      ...options.environment
    }
  };
}
function address(base, path, parameters) {
  const url = new URL(base, globalThis.location?.href);
  const [place, query] = path.split("?");
  url.pathname = url.pathname.replace(/\/*$/, "/") + place.replace(/^\/+/, "");
  for (const [name, value] of [...new URLSearchParams(query), ...Object.entries(parameters)]) {
    if (value !== void 0) url.searchParams.set(name, value);
  }
  return url.href;
}

// clients/js/src/state.ts
function describe(state) {
  if (state.status === "closed") return `closed: ${state.problem?.message ?? state.reason}`;
  if (state.status !== "reconnecting") return state.status;
  return `reconnecting ${state.attempt}${state.maxAttempts < Infinity ? `/${state.maxAttempts}` : ""}`;
}
function problem(code, message) {
  return { code, message };
}
function asProblem(thrown) {
  return thrown instanceof Error ? problem("network", thrown.message) : thrown;
}
async function refusal(answer) {
  const { status, headers } = answer;
  const said = await answer.json().catch(() => ({}));
  const seconds = Number(headers.get("retry-after"));
  const own = headers.get("content-type")?.includes("problem+json");
  return {
    code: "http",
    status,
    message: said.detail || `HTTP ${status}`,
    ...seconds > 0 && { retryAfterMs: seconds * 1e3 },
    ...own && status < 500 && status !== 429 && { final: true }
  };
}

// clients/js/src/token.ts
var SIGNED_OUT = problem("token", "signed out");
function claims(token) {
  try {
    const { exp, iat, nbf, jti, ...lasting } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return JSON.stringify(lasting);
  } catch {
    return void 0;
  }
}

// clients/js/src/api.ts
var Api = class {
  #settings;
  #kept;
  constructor(settings2) {
    this.#settings = settings2;
  }
  /** `undefined` where the cookie counts; rejects with a Problem. */
  token() {
    if (!this.#kept) {
      const asked = this.#kept = this.#ask();
      asked.catch(() => this.#drop(asked));
    }
    return this.#kept;
  }
  /** Unless there is a newer one. */
  #drop(kept) {
    if (this.#kept === kept) this.dropToken();
  }
  /** The next one is a new one. */
  dropToken() {
    this.#kept = void 0;
  }
  async #ask() {
    const { getToken } = this.#settings;
    if (!getToken) return void 0;
    let token;
    try {
      token = await getToken();
    } catch (error) {
      throw problem("token", `getToken failed: ${error}`);
    }
    if (!token) throw SIGNED_OUT;
    return token;
  }
  /** `fetch` with the token; a refused one is renewed once. */
  async fetch(path, init = {}, parameters = {}) {
    const { environment, url, withCredentials } = this.#settings;
    for (let renewed = false; ; renewed = true) {
      const headers = new Headers(init.headers);
      const kept = this.token();
      const token = await kept;
      if (token) headers.set("authorization", `Bearer ${token}`);
      const answer = await environment.fetch(address(url, path, parameters), {
        credentials: withCredentials ? "include" : "same-origin",
        ...init,
        headers
      });
      if (answer.status !== 401 || !token || renewed) return answer;
      this.#drop(kept);
    }
  }
  /** The same, as JSON; throws a Problem. */
  async json(path, init, parameters) {
    const answer = await this.fetch(path, init, parameters);
    if (!answer.ok) throw await refusal(answer);
    return await answer.json();
  }
};

// clients/js/src/parse.ts
var MAX_EVENT = 8 * 1024 * 1024;
function parser(sink) {
  let rest = "";
  let data = [];
  let size = 0;
  let lastId = "";
  function line(text) {
    if (!text) {
      if (data.length) sink.event(data.join("\n"), lastId);
      data = [];
      size = 0;
      return;
    }
    const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(text);
    if (name === "data") {
      data.push(value);
      size += value.length;
    } else if (name === "id" && !value.includes("\0")) lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) sink.retry(+value);
  }
  return (text) => {
    rest += text;
    const whole = rest.endsWith("\r") ? rest.length - 1 : rest.length;
    const lines = rest.slice(0, whole).split(/\r\n|\n|\r/);
    rest = lines.pop() + rest.slice(whole);
    lines.forEach(line);
    if (size + rest.length > MAX_EVENT) throw new Error("event too long");
  };
}

// clients/js/src/transports.ts
var ENDED = problem("network", "stream ended");
var EVENT_STREAM = "text/event-stream";
async function fetchStream(api, path, parameters, signal, sink) {
  const answer = await api.fetch(path, { headers: { accept: EVENT_STREAM }, cache: "no-store", signal }, parameters);
  if (!answer.ok) throw await refusal(answer);
  if (!answer.headers.get("content-type")?.startsWith(EVENT_STREAM)) throw problem("answer", "no event stream");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const take = parser(sink);
  for (; ; ) {
    const { done, value } = await reader.read();
    if (done) throw ENDED;
    take(value);
  }
}
function nativeStream({ environment, withCredentials }, url, signal, sink) {
  return new Promise((_, reject) => {
    const source = new environment.EventSource(url, { withCredentials: !!withCredentials });
    source.onmessage = ({ data, lastEventId }) => sink.event(data, lastEventId);
    source.onerror = () => reject(ENDED);
    signal.addEventListener("abort", () => source.close());
  });
}

// clients/js/src/link.ts
function unknown(from = null, to) {
  const gap = { type: "gap", reason: "unknown", from, to };
  return [gap, void 0];
}
var PING_MS = 3e4;
var SILENT_PINGS = 2.5;
var BACKOFF_MIN_MS = 100;
var GOOD_MS = 5e3;
var SHORT_POLL_MS = 1e3;
var APART_MS = 500;
var PROBE_MAX_MS = 6e5;
var Link = class {
  #active;
  /** The one that takes over once it is confirmed. */
  #next;
  #stopped = false;
  #failures = 0;
  #silences = 0;
  /** It is not to stream. */
  #never;
  #polls;
  /** Polling has worked where streams did not. */
  #proven = false;
  #backoff;
  #pingMs = PING_MS;
  #pauses = /* @__PURE__ */ new Set();
  #settings;
  #api;
  #sink;
  #random;
  #lastId;
  constructor(settings2, api, sink, lastId) {
    this.#settings = settings2;
    this.#api = api;
    this.#sink = sink;
    this.#lastId = lastId;
    this.#random = settings2.environment.random;
    this.#never = settings2.transport === "poll";
    this.#polls = this.#never;
    this.#backoff = settings2.timing.backoff;
  }
  async run() {
    this.#sink.state({ status: "connecting" });
    while (!this.#stopped) {
      const ended = await this.#follow();
      this.#next?.abort.abort();
      if (this.#stopped) return;
      const wait = this.#judge(this.#active, ended);
      if (wait) await this.#pause(wait);
    }
  }
  stop() {
    this.#stopped = true;
    this.#active?.abort.abort();
    this.#next?.abort.abort();
    this.nudge();
  }
  /** Ends all waiting; what looks open is replaced, since it may be dead. */
  nudge() {
    for (const end of this.#pauses) end();
    if (!this.#stopped && this.#active?.confirmedAt) void this.#replace(this.#active);
  }
  /** A poll until it fails or streaming works again; or a stream, and those that take over, until the last of them ends. */
  async #follow() {
    const polls = this.#polls;
    let attempt = this.#active = this.#attempt(polls ? "poll" : "stream");
    if (polls && !this.#never) void this.#probe(attempt);
    for (; ; ) {
      const ended = await attempt.ended;
      if (polls) this.nudge();
      if (this.#active === attempt) return ended;
      attempt = this.#active;
    }
  }
  #attempt(kind) {
    const abort = new AbortController();
    const attempt = { abort, kind };
    attempt.ended = new Promise((resolve) => {
      const over = (error) => {
        clearTimeout(attempt.timer);
        const { aborted, reason } = abort.signal;
        const wanted = reason instanceof Error ? void 0 : reason;
        resolve(aborted ? wanted : asProblem(error));
        abort.abort();
      };
      abort.signal.onabort = over;
      (kind === "poll" ? this.#poll(attempt) : this.#stream(attempt)).then(over, over);
    });
    return attempt;
  }
  // Streams
  async #stream(attempt) {
    const api = this.#api;
    const settings2 = this.#settings;
    const { signal } = attempt.abort;
    const token = await api.token();
    if (signal.aborted) return;
    this.#expect(attempt, settings2.timing.firstData);
    const probe = attempt.kind === "probe";
    const native = settings2.transport === "eventsource" && settings2.environment.EventSource && !(this.#failures % 2) && !probe;
    attempt.transport = native ? "eventsource" : "fetch";
    const parameters = { named: "false", last_event_id: this.#lastId };
    if (native && token) {
      parameters.ticket = (await api.json("events/ticket", { method: "POST", signal })).ticket;
      if (signal.aborted) return;
    }
    const { channels } = settings2;
    const path = probe ? "api/sse/test" : channels ? `sse/stream/${channels.map(encodeURIComponent)}` : "events";
    const sink = {
      event: (data, id) => this.#take(attempt, data, id),
      retry: (ms) => this.#backoff = Math.max(ms, BACKOFF_MIN_MS)
    };
    await (native ? nativeStream(settings2, address(settings2.url, path, parameters), signal, sink) : fetchStream(api, path, parameters, signal, sink));
  }
  #take(attempt, data, id) {
    if (attempt.abort.signal.aborted) return;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return this.#sink.problem(problem("answer", "no JSON"));
    }
    const { type } = event;
    const now = Date.now();
    if (attempt.kind === "probe") {
      if (!attempt.firstAt) return void (attempt.firstAt = now);
      if (now - attempt.firstAt > APART_MS) attempt.confirmedAt = now;
      return attempt.abort.abort();
    }
    if (attempt.confirmedAt) this.#silences = 0;
    if (type === "connection_confirmed") {
      this.#pingMs = event.ping_interval_ms || PING_MS;
      attempt.confirmedAt = now;
      const before = this.#active;
      this.#active = attempt;
      if (before !== attempt) before?.abort.abort();
      this.#sink.state({ status: "open", transport: attempt.transport });
    }
    this.#expect(attempt, this.#pingMs * SILENT_PINGS);
    const own = id && id !== attempt.lastId ? id : void 0;
    if (id) this.#lastId = attempt.lastId = id;
    this.#sink.events([[event, own]], this.#lastId);
    if (type === "token_expiring" && this.#settings.getToken) void this.#renew(attempt, event.expires_in_ms);
    if (type === "closing") {
      attempt.closing = event;
      attempt.abort.abort();
    }
  }
  /** The attempt is over if nothing comes within the time. */
  #expect(attempt, ms) {
    clearTimeout(attempt.timer);
    attempt.timer = setTimeout(() => {
      attempt.abort.abort(problem("silent", "no data for too long"));
    }, ms);
  }
  /** In the middle of what is left of the token, not all clients at once. */
  async #renew(attempt, leftMs) {
    await this.#pause(leftMs * (0.25 + this.#random() / 2));
    if (this.#active !== attempt) return;
    const old = this.#api.token();
    this.#api.dropToken();
    if (await old !== await this.#api.token().catch(() => {
    })) await this.#replace(attempt);
  }
  /** The old stream goes on until the new one is confirmed; what both bring has the same ids. */
  async #replace(old) {
    while (this.#active === old && !old.abort.signal.aborted && !this.#polls) {
      this.#next?.abort.abort();
      const next = this.#attempt("stream");
      this.#next = next;
      const ended = await next.ended;
      if (next.confirmedAt || !ended) return;
      if (ended === SIGNED_OUT) return old.abort.abort(ended);
      this.#sink.problem(ended);
      if (ended.final) return;
      await this.#pause(this.#delay(ended, this.#backoff));
    }
  }
  // Long poll
  async #poll(attempt) {
    const api = this.#api;
    const settings2 = this.#settings;
    const { signal } = attempt.abort;
    const { poll, firstData } = settings2.timing;
    this.#polls = this.#proven || this.#never;
    await api.token();
    for (let first = true; !signal.aborted; first = false) {
      const began = Date.now();
      const after = this.#lastId;
      const wait = first ? 0 : poll;
      this.#expect(attempt, wait + firstData);
      const polled = await api.json("events/poll", { signal, cache: "no-store" }, {
        after,
        wait: wait / 1e3,
        channels: settings2.channels
      });
      clearTimeout(attempt.timer);
      if (signal.aborted) return;
      if (first) {
        this.#polls = this.#proven = true;
        attempt.confirmedAt = began;
        this.#sink.state({ status: "polling" });
      }
      this.#lastId = polled.last_id ?? this.#lastId;
      const arrivals = polled.events.map((event, n) => [event, polled.ids?.[n] ?? void 0]);
      if (polled.gap) arrivals.unshift(unknown(after, polled.last_id));
      if (arrivals.length || after !== this.#lastId) this.#sink.events(arrivals, this.#lastId);
      else if (!first && Date.now() - began < SHORT_POLL_MS) await this.#pause(settings2.timing.backoff);
    }
  }
  /**
   * Tries now and then whether streams get through, and ends the polling if they do. It asks for a test stream: one of the
   * user's own would take with it what waits for the user.
   */
  async #probe(polling) {
    const { signal } = polling.abort;
    for (let ms = this.#settings.timing.probe; !signal.aborted; ms = Math.min(ms * 2, PROBE_MAX_MS)) {
      await this.#pause(ms * (0.75 + this.#random() / 2));
      if (signal.aborted) return;
      const probe = this.#attempt("probe");
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
  #judge({ closing, confirmedAt, kind }, ended) {
    if (ended?.code === "silent" && kind === "stream" && (!confirmedAt || ++this.#silences > 1)) {
      this.#sink.problem(ended);
      this.#silences = 0;
      this.#polls = true;
      return 0;
    }
    if (!closing && !ended) return 0;
    const failed = closing ? void 0 : ended;
    if (failed) this.#sink.problem(failed);
    let reason;
    if (closing) reason = closing.reconnect ? void 0 : closing.reason;
    else if (failed === SIGNED_OUT) reason = "signed_out";
    else if (failed.status === 401) reason = "unauthorized";
    else if (failed.final) reason = "refused";
    const good = confirmedAt && Date.now() - confirmedAt >= GOOD_MS;
    if (good) this.#failures = 0;
    const { getToken, maxAttempts, timing } = this.#settings;
    if (getToken && /^(token|key)_/.test(reason)) {
      this.#api.dropToken();
      reason = void 0;
      if (good) return 0;
    }
    const attempt = ++this.#failures;
    if (!reason && attempt > maxAttempts) reason = "attempts";
    if (reason) {
      this.stop();
      this.#sink.state({ status: "closed", reason, problem: failed });
      return 0;
    }
    const most = Math.min(timing.backoffMax, this.#backoff * 2 ** (attempt - 1));
    const retryInMs = closing?.reconnect ? closing.retry_ms : this.#delay(failed, most);
    this.#sink.state({ status: "reconnecting", attempt, maxAttempts, retryInMs, problem: failed });
    return retryInMs;
  }
  /** Full jitter, beyond what the server asks for. */
  #delay(failed, most) {
    return (failed?.retryAfterMs ?? 0) + this.#random() * most;
  }
  /** Until the time is over, or somebody is impatient. */
  #pause(ms) {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#pauses.delete(end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#pauses.add(end);
    });
  }
};

// clients/js/src/tabs.ts
var QUIET_PINGS = 1.5;
var FOR_ALL = ["disconnected", "attempts"];
var Tabs = class {
  #name;
  #channel;
  #queue;
  #release;
  #link;
  #state;
  #confirmed;
  #timer;
  #left = new AbortController();
  #settings;
  #api;
  #sink;
  #lastId;
  constructor(settings2, api, sink) {
    this.#settings = settings2;
    this.#api = api;
    this.#sink = sink;
    this.#lastId = settings2.lastEventId;
  }
  async join() {
    this.leave();
    const { signal } = this.#left = new AbortController();
    const { events, BroadcastChannel } = this.#settings.environment;
    for (const type of ["online", "resume"]) {
      events?.addEventListener(type, () => this.#link?.nudge(), { signal, capture: true });
    }
    events?.addEventListener("pagehide", () => {
      this.leave();
      const { signal: signal2 } = this.#left = new AbortController();
      events.addEventListener("pageshow", () => void this.join(), { signal: signal2 });
    }, { signal });
    const name = await this.#groupName();
    if (signal.aborted) return;
    this.#name = name;
    if (!name) return this.#lead();
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#queueUp();
    this.#say("hello");
    this.#listen();
  }
  nudge() {
    if (this.#link) this.#link.nudge();
    else this.#say("nudge");
  }
  /** Another tab takes over what this one leads. */
  leave() {
    this.#left.abort();
    clearTimeout(this.#timer);
    this.#queue?.abort();
    this.#stepDown();
    this.#channel?.close();
    this.#queue = this.#channel = void 0;
  }
  #stepDown() {
    this.#link?.stop();
    this.#link = void 0;
    this.#release?.();
    this.#release = void 0;
  }
  /** Tabs share where they listen to the same with the same rights; `undefined` where that can't be known. */
  async #groupName() {
    const { share, environment, url, channels, lastEventId } = this.#settings;
    if (share === false || !environment.locks || !environment.BroadcastChannel || lastEventId) return;
    const who = typeof share === "string" ? share : claims(await this.#api.token().catch(() => {
    }));
    return who && `notify-server ${url} ${channels ?? ""} ${who}`;
  }
  // Following
  #queueUp(steal = false) {
    const queue = new AbortController();
    this.#queue = queue;
    const held = () => {
      if (this.#queue !== queue || queue.signal.aborted) return;
      const lock = new Promise((release) => this.#release = release);
      this.#lead();
      return lock;
    };
    const options = steal ? { steal } : { signal: queue.signal };
    this.#settings.environment.locks.request(this.#name, options, held).catch(({ name }) => {
      if (this.#queue !== queue || queue.signal.aborted) return;
      if (name === "AbortError") void this.join();
      else this.#lead();
    });
  }
  #hear(said) {
    if (typeof said === "string") {
      if (said === "nudge") this.#link?.nudge();
      else if (this.#link) this.#sayState();
      return;
    }
    if (this.#link) return;
    const { arrivals, lastId, from, state } = said;
    this.#listen();
    this.#pass(state && this.#confirmed ? [] : arrivals, lastId, from);
    if (!state) return;
    this.#state = state;
    if (state.status === "closed") this.leave();
    this.#sink.state(state);
  }
  #pass(arrivals, lastId, from) {
    this.#lastId = lastId ?? this.#lastId;
    this.#confirmed = arrivals.findLast(([event]) => event.type === "connection_confirmed") ?? this.#confirmed;
    this.#sink.events(arrivals, lastId, from);
  }
  /** A leader that says nothing, not even when asked, is asleep or dead. */
  #listen(asked = false) {
    const { timing, environment } = this.#settings;
    const pingMs = this.#confirmed?.[0].ping_interval_ms || PING_MS;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#link) return;
      if (asked) {
        this.#queue?.abort();
        return this.#queueUp(true);
      }
      this.#say("hello");
      this.#listen(true);
    }, asked ? timing.leaderAnswer * (1 + environment.random()) : pingMs * QUIET_PINGS);
  }
  #say(said) {
    this.#channel?.postMessage(said);
  }
  // Leading
  #lead() {
    const link = new Link(
      this.#settings,
      this.#api,
      {
        events: (arrivals, lastId) => {
          this.#say({ arrivals, lastId, from: this.#lastId });
          this.#pass(arrivals, lastId);
        },
        state: (state) => this.#link === link && this.#linkState(state),
        problem: this.#sink.problem
      },
      this.#lastId
    );
    this.#link = link;
    void link.run();
  }
  #linkState(state) {
    if (state.status === "connecting" && this.#state) return;
    this.#state = state;
    const closed = state.status === "closed";
    if (!closed || FOR_ALL.includes(state.reason)) this.#sayState();
    if (closed) this.leave();
    this.#sink.state(state);
    if (!closed) void this.#regroup();
  }
  #sayState() {
    const lastId = this.#lastId;
    this.#say({ arrivals: this.#confirmed ? [this.#confirmed] : [], lastId, from: lastId, state: this.#state });
  }
  /** A renewed token can be one for somebody else, whose events are not for the tabs of this group. */
  async #regroup() {
    if (this.#state?.status !== "open" && this.#state?.status !== "polling") return;
    const { signal } = this.#left;
    const name = await this.#groupName();
    if (signal.aborted || name === this.#name) return;
    this.leave();
    await this.join();
  }
};

// clients/js/src/client.ts
var REMEMBERED = 4096;
var NOTICES = ["connection_confirmed", "caught_up", "gap"];
var Client = class {
  #state = { status: "connecting" };
  #lastId;
  #seen = /* @__PURE__ */ new Set();
  #listeners = /* @__PURE__ */ new Map();
  #api;
  #tabs;
  /** Whether the page has ended it. */
  #over = false;
  constructor(options) {
    const all = settings(options);
    this.#lastId = options.lastEventId;
    this.#api = new Api(all);
    this.#tabs = new Tabs(
      all,
      this.#api,
      {
        events: (arrivals, lastId, from) => this.#deliver(arrivals, lastId, from),
        state: (state) => this.#become(state),
        problem: (problem2) => this.#tell("=error", problem2)
      }
    );
    if (options.onState) this.onState(options.onState);
    if (options.onGap) this.onGap(options.onGap);
    if (options.onError) this.onError(options.onError);
    void this.#tabs.join();
  }
  /** How the connection is doing. Another object whenever it changes. */
  get state() {
    return this.#state;
  }
  /** Where the next connection goes on; `undefined` before the first one. */
  get lastEventId() {
    return this.#lastId;
  }
  /** Calls the listener with every event of a type, or with all of them for `*`. */
  on(type, listener) {
    return this.#listen(type, listener);
  }
  /** Calls the listener with the state, now and whenever it changes. */
  onState(listener) {
    listener(this.#state);
    return this.#listen("=state", listener);
  }
  /** Calls the listener where events were missed that the stream can't give: load them over your API. */
  onGap(listener) {
    return this.#listen("gap", listener);
  }
  /** Calls the listener with every failure, also those after which it is tried again. */
  onError(listener) {
    return this.#listen("=error", listener);
  }
  /** `fetch` on the same server with the same token, which is renewed if it is refused. */
  fetch(path, init) {
    return this.#api.fetch(path, init);
  }
  /** The same, as JSON; rejects with a `Problem` where the answer is none. */
  json(path, init) {
    return this.#api.json(path, init);
  }
  /** Tries at once instead of waiting, also after the connection was given up. */
  reconnect() {
    if (this.#over) return;
    if (this.#state.status !== "closed") return this.#tabs.nudge();
    this.#api.dropToken();
    this.#become({ status: "connecting" });
    void this.#tabs.join();
  }
  /** Ends it. Another tab takes the connection over. */
  close() {
    this.#over = true;
    this.#tabs.leave();
    if (this.#state.status !== "closed") this.#become({ status: "closed", reason: "closed", problem: void 0 });
  }
  #listen(type, listener) {
    const listeners = this.#listeners.get(type) ?? /* @__PURE__ */ new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }
  #tell(type, ...said) {
    for (const listener of [...this.#listeners.get(type) ?? []]) {
      try {
        listener(...said);
      } catch (error) {
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
  #become(state) {
    if (JSON.stringify(state) === JSON.stringify(this.#state)) return;
    this.#state = state;
    this.#tell("=state", state);
  }
  #deliver(arrivals, lastId, from) {
    const missed = from && this.#lastId && !this.#seen.has(from) ? [unknown(this.#lastId, from)] : [];
    for (const [event, id] of [...missed, ...arrivals]) {
      if (this.#over) return;
      if (id && !NOTICES.includes(event.type) && !this.#isNew(id)) continue;
      this.#tell(event.type, event, id);
      this.#tell("*", event, id);
    }
    if (lastId) this.#isNew(this.#lastId = lastId);
  }
  #isNew(id) {
    if (this.#seen.has(id)) return false;
    this.#seen.add(id);
    if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.values().next().value);
    return true;
  }
};
function connect(options) {
  address(options.url, "", {});
  return new Client(options);
}
export {
  connect,
  describe
};
