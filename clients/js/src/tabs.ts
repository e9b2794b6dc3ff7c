// One connection for all tabs. Whoever holds the lock of the group leads: it has the link and passes on what comes.
// The others follow, each remembering the last id, so that whichever is next goes on from there. Where nothing is
// to be shared, a tab leads for itself.

import type { Api } from "./api.js";
import { type Arrival, Link, type LinkSink, PING_MS } from "./link.js";
import type { Settings } from "./options.js";
import type { State } from "./state.js";
import { claims } from "./token.js";

/** What tabs say to each other. */
type Said =
  | "hello"
  | "nudge"
  | {
      arrivals: Arrival[];
      lastId: string | undefined;
      /** The id before these arrivals. Who never was there has missed something. */
      from: string | undefined;
      /** With it, the arrivals are only the last confirmation, for who has none yet. */
      state?: State;
    };

/** In intervals between pings: the silence after which the leader is asked whether it is there. */
const QUIET_PINGS = 1.5;
/** Reasons that are the same for all tabs. The others end with the tab's own token. */
const FOR_ALL: readonly string[] = ["disconnected", "attempts"];

export class Tabs {
  #name: string | undefined;
  #channel: BroadcastChannel | undefined;
  #queue: AbortController | undefined;
  #release: (() => void) | undefined;
  #link: Link | undefined;
  #state: State | undefined;
  #confirmed: Arrival | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #left = new AbortController();

  #settings: Settings;
  #api: Api;
  #sink: LinkSink;
  #lastId: string | undefined;

  constructor(settings: Settings, api: Api, sink: LinkSink) {
    this.#settings = settings;
    this.#api = api;
    this.#sink = sink;
    this.#lastId = settings.lastEventId;
  }

  async join(): Promise<void> {
    this.leave();
    const { signal } = (this.#left = new AbortController());
    const { events, BroadcastChannel } = this.#settings.environment;
    // A page that was frozen hears of it nowhere but at the document.
    for (const type of ["online", "resume"]) {
      events?.addEventListener(type, () => this.#link?.nudge(), { signal, capture: true });
    }
    // A page that goes into the browser's cache for "back" must not hold the lock. It is shown again or never.
    events?.addEventListener("pagehide", () => {
      this.leave();
      const { signal } = (this.#left = new AbortController());
      events.addEventListener("pageshow", () => void this.join(), { signal });
    }, { signal });
    const name = await this.#groupName();
    if (signal.aborted) return;
    this.#name = name;
    if (!name) return this.#lead();
    this.#channel = new BroadcastChannel!(name);
    this.#channel.onmessage = ({ data }) => this.#hear(data as Said);
    this.#queueUp();
    this.#say("hello");
    this.#listen();
  }

  nudge(): void {
    if (this.#link) this.#link.nudge();
    else this.#say("nudge");
  }

  /** Another tab takes over what this one leads. */
  leave(): void {
    this.#left.abort();
    clearTimeout(this.#timer);
    this.#queue?.abort();
    this.#stepDown();
    this.#channel?.close();
    this.#queue = this.#channel = undefined;
  }

  #stepDown(): void {
    this.#link?.stop();
    this.#link = undefined;
    this.#release?.();
    this.#release = undefined;
  }

  /** Tabs share where they listen to the same with the same rights; `undefined` where that can't be known. */
  async #groupName(): Promise<string | undefined> {
    const { share, environment, url, channels, lastEventId } = this.#settings;
    if (share === false || !environment.locks || !environment.BroadcastChannel || lastEventId) return;
    const who = typeof share === "string" ? share : claims(await this.#api.token().catch(() => {}));
    return who && `notify-server ${url} ${channels ?? ""} ${who}`;
  }

  // Following

  #queueUp(steal = false): void {
    const queue = new AbortController();
    this.#queue = queue;
    const held = (): Promise<void> | undefined => {
      if (this.#queue !== queue || queue.signal.aborted) return;
      const lock = new Promise<void>((release) => (this.#release = release));
      this.#lead();
      return lock;
    };
    const options = steal ? { steal } : { signal: queue.signal };
    this.#settings.environment.locks!.request(this.#name!, options, held).catch(({ name }: Error) => {
      if (this.#queue !== queue || queue.signal.aborted) return;
      // Another tab found this one asleep and has taken the lock.
      if (name === "AbortError") void this.join();
      // In a frame without an origin there are no locks.
      else this.#lead();
    });
  }

  #hear(said: Said): void {
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

  #pass(arrivals: Arrival[], lastId: string | undefined, from?: string): void {
    this.#lastId = lastId ?? this.#lastId;
    this.#confirmed = arrivals.findLast(([event]) => event.type === "connection_confirmed") ?? this.#confirmed;
    this.#sink.events(arrivals, lastId, from);
  }

  /** A leader that says nothing, not even when asked, is asleep or dead. */
  #listen(asked = false): void {
    const { timing, environment } = this.#settings;
    const pingMs = (this.#confirmed?.[0].ping_interval_ms as number) || PING_MS;
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

  #say(said: Said): void {
    this.#channel?.postMessage(said);
  }

  // Leading

  #lead(): void {
    const link: Link = new Link(
      this.#settings,
      this.#api,
      {
        events: (arrivals, lastId) => {
          this.#say({ arrivals, lastId, from: this.#lastId });
          this.#pass(arrivals, lastId);
        },
        state: (state) => this.#link === link && this.#linkState(state),
        problem: this.#sink.problem,
      },
      this.#lastId,
    );
    this.#link = link;
    void link.run();
  }

  #linkState(state: State): void {
    // Taking over is not worth a word.
    if (state.status === "connecting" && this.#state) return;
    this.#state = state;
    const closed = state.status === "closed";
    if (!closed || FOR_ALL.includes(state.reason)) this.#sayState();
    if (closed) this.leave();
    this.#sink.state(state);
    if (!closed) void this.#regroup();
  }

  #sayState(): void {
    const lastId = this.#lastId;
    this.#say({ arrivals: this.#confirmed ? [this.#confirmed] : [], lastId, from: lastId, state: this.#state! });
  }

  /** A renewed token can be one for somebody else, whose events are not for the tabs of this group. */
  async #regroup(): Promise<void> {
    if (this.#state?.status !== "open" && this.#state?.status !== "polling") return;
    const { signal } = this.#left;
    const name = await this.#groupName();
    if (signal.aborted || name === this.#name) return;
    this.leave();
    await this.join();
  }
}
