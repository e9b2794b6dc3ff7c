// What a page holds: listeners on one side, tabs and link on the other.

import { Api } from "./api.js";
import type { EventOf, Events, Gap, NotifyEvent } from "./events.js";
import { type Arrival, unknown } from "./link.js";
import { address, type Options, settings } from "./options.js";
import { type Problem, type State } from "./state.js";
import { Tabs } from "./tabs.js";

/** How many ids are remembered, to tell what comes twice while one connection takes over from another. */
const REMEMBERED = 4_096;
/** What the server says of the connection: the ids of these are positions, not theirs. */
const NOTICES: readonly string[] = ["connection_confirmed", "caught_up", "gap"];

/** Stops listening. */
export type Off = () => void;

export class Client {
  #state: State = { status: "connecting" };
  #lastId: string | undefined;
  #seen = new Set<string>();
  #listeners = new Map<string, Set<(...said: never[]) => void>>();
  #api: Api;
  #tabs: Tabs;
  /** Whether the page has ended it. */
  #over = false;

  constructor(options: Options) {
    const all = settings(options);
    this.#lastId = options.lastEventId;
    this.#api = new Api(all);
    this.#tabs = new Tabs(
      all,
      this.#api,
      {
        events: (arrivals, lastId, from) => this.#deliver(arrivals, lastId, from),
        state: (state) => this.#become(state),
        problem: (problem) => this.#tell("=error", problem),
      },
    );
    if (options.onState) this.onState(options.onState);
    if (options.onGap) this.onGap(options.onGap);
    if (options.onError) this.onError(options.onError);
    void this.#tabs.join();
  }

  /** How the connection is doing. Another object whenever it changes. */
  get state(): State {
    return this.#state;
  }

  /** Where the next connection goes on; `undefined` before the first one. */
  get lastEventId(): string | undefined {
    return this.#lastId;
  }

  /** Calls the listener with every event of a type, or with all of them for `*`. */
  on<Type extends (keyof Events & string) | "*" | (string & {})>(
    type: Type,
    listener: (event: Type extends "*" ? NotifyEvent : EventOf<Type>, id: string | undefined) => void,
  ): Off {
    return this.#listen(type, listener as (...said: never[]) => void);
  }

  /** Calls the listener with the state, now and whenever it changes. */
  onState(listener: (state: State) => void): Off {
    listener(this.#state);
    return this.#listen("=state", listener);
  }

  /** Calls the listener where events were missed that the stream can't give: load them over your API. */
  onGap(listener: (gap: Gap) => void): Off {
    return this.#listen("gap", listener);
  }

  /** Calls the listener with every failure, also those after which it is tried again. */
  onError(listener: (problem: Problem) => void): Off {
    return this.#listen("=error", listener);
  }

  /** `fetch` on the same server with the same token, which is renewed if it is refused. */
  fetch(path: string, init?: RequestInit): Promise<Response> {
    return this.#api.fetch(path, init);
  }

  /** The same, as JSON; rejects with a `Problem` where the answer is none. */
  json<T>(path: string, init?: RequestInit): Promise<T> {
    return this.#api.json<T>(path, init);
  }

  /** Tries at once instead of waiting, also after the connection was given up. */
  reconnect(): void {
    if (this.#over) return;
    if (this.#state.status !== "closed") return this.#tabs.nudge();
    this.#api.dropToken();
    this.#become({ status: "connecting" });
    void this.#tabs.join();
  }

  /** Ends it. Another tab takes the connection over. */
  close(): void {
    this.#over = true;
    this.#tabs.leave();
    if (this.#state.status !== "closed") this.#become({ status: "closed", reason: "closed", problem: undefined });
  }

  #listen(type: string, listener: (...said: never[]) => void): Off {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  #tell(type: string, ...said: unknown[]): void {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        (listener as (...said: unknown[]) => void)(...said);
      } catch (error) {
        // A listener's fault is the page's, and must not end the stream.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }

  #become(state: State): void {
    // Tabs repeat the state for those that have just come.
    if (JSON.stringify(state) === JSON.stringify(this.#state)) return;
    this.#state = state;
    this.#tell("=state", state);
  }

  #deliver(arrivals: Arrival[], lastId: string | undefined, from: string | undefined): void {
    // A tab that stood still does not hear everything.
    const missed = from && this.#lastId && !this.#seen.has(from) ? [unknown(this.#lastId, from)] : [];
    for (const [event, id] of [...missed, ...arrivals]) {
      if (this.#over) return;
      if (id && !NOTICES.includes(event.type) && !this.#isNew(id)) continue;
      this.#tell(event.type, event, id);
      this.#tell("*", event, id);
    }
    // By where it has been it tells whether it has missed something.
    if (lastId) this.#isNew((this.#lastId = lastId));
  }

  #isNew(id: string): boolean {
    if (this.#seen.has(id)) return false;
    this.#seen.add(id);
    // The first of a set is its oldest.
    if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.values().next().value!);
    return true;
  }
}

/** Listens to a notify-server; see `Options`. */
export function connect(options: Options): Client {
  // An address that is none is told to whoever gives it.
  address(options.url, "", {});
  return new Client(options);
}
