// A user's events for as long as the page wants them, by the client library, and what the page says of the connection.

import { userOf } from "./api.js";
import { connect } from "./client.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";

const TICK_MS = 1_000;
const SOON_MS = 2_000; // a first attempt that comes sooner is not worth a banner
const UNAUTHORIZED = 401;
const IDLE = { status: "idle" };

/** Tells `onEvent(event, id)`, `onReady(whether)` and, where there is no coming back, `onEnd(why)`. */
export class Connection {
  #client;
  #session;
  #onEvent;
  #onReady;
  #onEnd;
  #state = IDLE;
  #dueAt = 0; // when the next attempt is
  #timer;
  #confirmed = false;

  constructor({ onEvent, onReady, onEnd }) {
    this.#onEvent = onEvent;
    this.#onReady = onReady;
    this.#onEnd = onEnd;
    byId("try-now").addEventListener("click", () => this.#client?.reconnect());
  }

  open(session) {
    this.close();
    this.#session = session;
    const client = connect({
      url: session.address("/"),
      getToken: () => session.newToken(),
      // What is told after it was closed is about a user who is no longer here.
      onState: (state) => this.#session === session && this.#become(state),
    });
    this.#client = client;
    client.on("*", (event, id) => {
      if (this.#client !== client) return;
      this.#confirmed ||= event.type === "connection_confirmed";
      this.#onEvent(event, id);
    });
  }

  close() {
    this.#session = null;
    this.#client?.close();
    this.#client = null;
    this.#confirmed = false;
    this.#become(IDLE);
  }

  #become(state) {
    this.#state = state;
    this.#dueAt = performance.now() + (state.retryInMs ?? 0);
    clearInterval(this.#timer);
    if (state.status === "reconnecting") this.#timer = setInterval(() => this.draw(), TICK_MS);
    this.draw();
    this.#onReady(["open", "polling"].includes(state.status));
    if (state.status === "polling" && !this.#confirmed) this.#confirm(this.#session);
    if (state.status === "closed" && state.reason !== "closed") this.#onEnd(reasonOf(state, this.#session));
  }

  /** Polls do not say who one is and in which chats; the events will. */
  async #confirm(session) {
    const user = session.demoUser ?? userOf(await session.token());
    if (session !== this.#session || this.#confirmed) return;
    this.#confirmed = true;
    this.#onEvent({ type: "connection_confirmed", user_id: user ?? "", connected_chats: null, polled: true });
  }

  /** To be called again when the language was changed. */
  draw() {
    const { status, attempt = 0, retryInMs = 0 } = this.#state;
    byId("connection").dataset.state = status;
    byId("connection-text").textContent = t(`state_${status}`) + (attempt > 1 ? ` (${attempt})` : "");
    const interrupted = status === "reconnecting" && (attempt > 1 || retryInMs > SOON_MS);
    byId("banner").hidden = !interrupted && status !== "polling";
    byId("try-now").hidden = !interrupted;
    if (byId("banner").hidden) return;
    const seconds = Math.max(0, Math.ceil((this.#dueAt - performance.now()) / 1000));
    byId("banner-text").textContent = t(`banner_${status}`);
    byId("banner-countdown").textContent = interrupted ? t(seconds ? "nextAttempt" : "attemptNow", { n: seconds, attempt }) : "";
  }
}

function reasonOf({ reason, problem }, session) {
  if (reason === "disconnected") return t("ended");
  const why = problem?.message ?? reason;
  return problem?.status === UNAUTHORIZED ? session.refused(why) : t("notOpened", { why });
}
