// What the page says to the server: sign-in for the demo, one event stream, publishing.
// Knows nothing of the document; the page hands it functions to call.

const SILENT_PINGS = 2.5; // pings missed before a stream that still looks open is taken for dead
const DEFAULT_PING_MS = 30_000;
const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 30_000;
const TOO_MANY = 429;

/** The demo users, and chats where their names are told; null outside development mode. */
export async function demoData() {
  const answer = await fetch("/api/dev/users").catch(() => null);
  return answer?.ok ? answer.json() : null;
}

/** A short-lived token for a demo user; development mode only. */
export async function demoToken(userId) {
  const answer = await fetch("/api/dev/token", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user_id: wireId(userId) }),
  });
  if (!answer.ok) throw await refusal(answer);
  return (await answer.json()).access_token;
}

/** Who is online of those with whom the user of `stream` shares a chat, as texts; null where that can't be told. */
export async function onlineUsers(stream) {
  const answer = await fetch(`/online-users?${stream.claimed}`, {
    headers: { authorization: `Bearer ${stream.token}` },
  }).catch(() => null);
  if (!answer?.ok) return null;
  return new Set((await answer.json()).users.map((user) => String(user.user_id)));
}

/** Decimal ids travel as numbers, all others as strings. */
export function wireId(id) {
  const number = Number(id);
  return Number.isSafeInteger(number) && String(number) === String(id) ? number : id;
}

/** Publishes one after the other, so that a "stopped typing" never overtakes its "started". */
export class Publisher {
  #stream;
  #forbidden = null;
  #last = Promise.resolve();

  /** Publishes as the user of `stream`. */
  constructor(stream) {
    this.#stream = stream;
  }

  publish(subject, payload) {
    const sent = this.#last.then(() => this.#send(subject, payload));
    this.#last = sent.catch(() => {});
    return sent;
  }

  async #send(subject, payload) {
    // What a token may not do now it may not do later.
    if (this.#forbidden) throw this.#forbidden;
    const answer = await fetch(`/api/v1/bus/${subject}?${this.#stream.claimed}`, {
      method: "POST",
      headers: { authorization: `Bearer ${this.#stream.token}`, "content-type": "application/json" },
      body: JSON.stringify(payload),
    });
    if (answer.ok) return;
    const error = await refusal(answer);
    if (answer.status === 403) this.#forbidden = error;
    throw error;
  }
}

/**
 * One user's event stream for as long as the page wants it. The browser's EventSource reconnects by itself
 * after a broken connection, but gives up when the server answers with an error, and doesn't notice a peer
 * that went silent; those two cases are handled here.
 *
 * States told to `onState`: connecting, live, reconnecting, stopped (with a reason for the user).
 */
export class LiveStream {
  #fetchToken;
  #demoUser;
  #onEvent;
  #onState;
  #wanted = false;
  #source = null;
  #timer = null;
  #token = "";
  #lastId = "";
  #pingMs = DEFAULT_PING_MS;
  #failures = 0;

  /** `fetchToken` returns a promise of a token; for a demo user, asking again gives a new one. */
  constructor({ fetchToken, demoUser, onEvent, onState }) {
    this.#fetchToken = fetchToken;
    this.#demoUser = demoUser;
    this.#onEvent = onEvent;
    this.#onState = onState;
  }

  get token() {
    return this.#token;
  }

  /** Who the user claims to be: all there is to go by where authentication is off, and ignored where it is on. */
  get claimed() {
    return new URLSearchParams(this.#demoUser ? { user_id: this.#demoUser } : {});
  }

  async open() {
    this.#wanted = true;
    this.#onState("connecting");
    await this.#renewAndConnect();
  }

  close() {
    this.#wanted = false;
    this.#drop();
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  async #renewAndConnect() {
    try {
      this.#token = await this.#fetchToken();
    } catch (error) {
      if (!this.#wanted) return;
      if (error.status) this.#stop(error.message);
      else this.#retryLater();
      return;
    }
    if (this.#wanted) this.#connect();
  }

  #connect() {
    this.#drop();
    const query = this.claimed;
    query.set("access_token", this.#token);
    if (this.#lastId) query.set("last_event_id", this.#lastId);
    const source = new EventSource(`/events?${query}`);
    this.#source = source;
    source.onmessage = (message) => this.#receive(message);
    source.onerror = () => {
      clearTimeout(this.#timer);
      this.#onState("reconnecting");
      if (source.readyState === EventSource.CLOSED) this.#refused();
    };
  }

  #receive(message) {
    this.#expectMore();
    if (message.lastEventId) this.#lastId = message.lastEventId;
    const event = JSON.parse(message.data);
    if (event.type === "connection_confirmed") {
      this.#failures = 0;
      this.#pingMs = event.ping_interval_ms || DEFAULT_PING_MS;
      this.#onState("live");
    }
    this.#onEvent(event, message.lastEventId);
    if (event.type === "closing") this.#closing(event);
  }

  #closing(event) {
    const expired = event.reason === "token_expired";
    if (expired && this.#demoUser) this.#renewAndConnect();
    else if (expired) this.#stop("The token has expired.");
    else if (event.reconnect === false) this.#stop("The server ended this stream.");
  }

  /** A connection can die without a sign; the server's pings are what tells. */
  #expectMore() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#onState("reconnecting");
      this.#connect();
    }, this.#pingMs * SILENT_PINGS);
  }

  /** EventSource hides why it was refused, so the same question is asked once more without a body. */
  async #refused() {
    const source = this.#source;
    const answer = await fetch(`/events?${this.claimed}`, {
      method: "HEAD",
      headers: { authorization: `Bearer ${this.#token}` },
    }).catch(() => null);
    if (source !== this.#source) return;
    const final = answer?.status >= 400 && answer.status < 500 && answer.status !== TOO_MANY;
    if (answer?.status === 401 && this.#demoUser && this.#failures === 0) {
      this.#failures += 1;
      this.#renewAndConnect();
    } else if (final) {
      this.#stop(`The server refused this token${describe(answer)}.`);
    } else {
      this.#retryLater(Number(answer?.headers.get("retry-after")) * 1000);
    }
  }

  #retryLater(askedMs) {
    const backoff = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.#failures);
    this.#failures += 1;
    this.#onState("reconnecting");
    this.#timer = setTimeout(() => this.#renewAndConnect(), (askedMs || backoff) * (0.8 + 0.4 * Math.random()));
  }

  #stop(reason) {
    this.close();
    this.#onState("stopped", reason);
  }
}

/** What a refusal says of itself in its challenge (RFC 6750). */
function describe(answer) {
  const why = /error_description="([^"]+)"/.exec(answer.headers.get("www-authenticate") ?? "")?.[1];
  return why ? `: ${why.replace(/\.$/, "")}` : "";
}

/** A problem+json answer as an Error whose message can be shown. */
async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  const error = new Error(problem.detail || problem.title || `The server answered ${answer.status}.`);
  error.status = answer.status;
  return error;
}
