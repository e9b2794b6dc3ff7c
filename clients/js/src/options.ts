// What `connect` is told, and what it takes from its surroundings.

import type { Gap } from "./events.js";
import type { Problem, State, Transport } from "./state.js";

export interface Options {
  /** Where the server is: `https://notify.example.com`. A path and parameters are kept. */
  url: string | URL;
  /**
   * Gives a token. Asked again before the last one expires and when it is refused; `null` says that
   * the user is signed out. Without it the browser's cookie counts.
   */
  getToken?: (() => string | null | undefined | Promise<string | null | undefined>) | undefined;
  /** Channels to listen on instead of the user's own and all chats. */
  channels?: readonly string[] | undefined;
  /**
   * `fetch` (the default) sends the token in a header, `eventsource` opens a native `EventSource` with a
   * one-time ticket, `poll` never streams.
   */
  transport?: Transport | undefined;
  /**
   * One connection for all tabs. By default those whose tokens have the same claims share one. Give a name
   * of the user where tokens can't be read or are cookies; `false` for a connection of one's own.
   */
  share?: boolean | string | undefined;
  /** The event id to go on from. Such a connection is not shared. */
  lastEventId?: string | undefined;
  /** Failures in a row after which it is given up. Default: never. */
  maxAttempts?: number | undefined;
  /** Whether cookies are sent to another origin. */
  withCredentials?: boolean | undefined;
  onState?: ((state: State) => void) | undefined;
  onGap?: ((gap: Gap) => void) | undefined;
  /** Every failure, also those after which it is tried again. */
  onError?: ((problem: Problem) => void) | undefined;
  timing?: Partial<Timing> | undefined;
  environment?: Partial<Environment> | undefined;
}

/** All in milliseconds. */
export interface Timing {
  /** A stream that has confirmed nothing by then is held back: poll. */
  firstData: number;
  /** When it is first tried whether streams get through again; then after twice the time, up to 10 min. */
  probe: number;
  /** The first step of the backoff, where the server names none; it doubles with every failure. */
  backoff: number;
  backoffMax: number;
  /** How long the server may hold a poll. */
  poll: number;
  /** How long a tab waits for an answer of the one that has the connection. */
  leaderAnswer: number;
}

/** What a browser has. All of it can be replaced, for tests and unusual hosts. */
export interface Environment {
  fetch: typeof fetch;
  EventSource: typeof EventSource | undefined;
  BroadcastChannel: typeof BroadcastChannel | undefined;
  locks: LockManager | undefined;
  /** The window, for `online`, `pagehide` and `pageshow`. */
  events: EventTarget | undefined;
  /** 0 to 1. */
  random: () => number;
}

export interface Settings extends Options {
  timing: Timing;
  environment: Environment;
  maxAttempts: number;
}

const TIMING: Timing = {
  firstData: 15_000,
  probe: 30_000,
  backoff: 1_000,
  backoffMax: 30_000,
  poll: 25_000,
  leaderAnswer: 5_000,
};

export function settings(options: Options): Settings {
  const host = globalThis as typeof globalThis & { document?: unknown };
  // Worker threads and Node.js have no tabs.
  const page = host.document ? host : undefined;
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
      ...options.environment,
    },
  };
}

/** Of an address; those without a value are left out, and of lists the members are joined. */
export type Parameters = Record<string, string | number | readonly string[] | undefined>;

/** Where a stream or something beside it is; the server may live below a path. */
export function address(base: string | URL, path: string, parameters: Parameters): string {
  const url = new URL(base, (globalThis as { location?: { href: string } }).location?.href);
  const [place, query] = path.split("?");
  // Only the path is set, so nothing leads the token to another host.
  url.pathname = url.pathname.replace(/\/*$/, "/") + place!.replace(/^\/+/, "");
  for (const [name, value] of [...new URLSearchParams(query), ...Object.entries(parameters)]) {
    if (value !== undefined) url.searchParams.set(name, value as string);
  }
  return url.href;
}
