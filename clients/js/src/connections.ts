// The connections of one page: components that listen to the same have one together, for as long as one of them is there.

import { type Client, connect } from "./client.js";
import type { Options } from "./options.js";

interface Entry {
  client: Client;
  users: number;
  ending?: ReturnType<typeof setTimeout>;
}

/** In milliseconds. A component that makes way for another one that listens to the same is not worth a new connection. */
const LINGER_MS = 200;

export class Connections {
  #options: Options;
  #entries = new Map<string, Entry>();

  constructor(options: Options) {
    this.#options = options;
  }

  /** What relative addresses of media are relative to. */
  get base(): string {
    // Rendered on a server there is no page yet.
    return new URL(this.#options.url, globalThis.location?.href ?? "http://localhost/").href;
  }

  /** A connection to the channels, or the user's own. Every call is to be followed by one of `release`. */
  use(channels?: readonly string[]): Client {
    const key = channels?.join() ?? "";
    const entry = this.#entries.get(key) ?? { client: connect({ ...this.#options, channels }), users: 0 };
    clearTimeout(entry.ending);
    entry.users += 1;
    this.#entries.set(key, entry);
    return entry.client;
  }

  release(client: Client): void {
    for (const [key, entry] of this.#entries) {
      if (entry.client !== client || --entry.users > 0) continue;
      const end = (): void => {
        this.#entries.delete(key);
        client.close();
      };
      // Whoever comes after one that is closed begins anew.
      if (client.state.status === "closed") end();
      else entry.ending = setTimeout(end, LINGER_MS);
    }
  }
}

/** What a component listens to: one of these, or nothing for the user's own stream. */
export interface Target {
  sessionId?: string | undefined;
  chatId?: string | number | undefined;
  channel?: string | undefined;
}

/** The channels that a target takes; `undefined` for what the user's own stream has anyway. */
export function channelsOf({ sessionId, channel }: Target): string[] | undefined {
  if (sessionId !== undefined) return [`session:${sessionId}`];
  return channel === undefined || channel.startsWith("chat:") ? undefined : [channel];
}

/** Where a target's history is; `undefined` where it has none. */
export function placeOf({ sessionId, chatId, channel }: Target): { sessionId: string } | { chatId: string | number } | undefined {
  const [, resource, id] = /^(session|chat):(.+)$/.exec(channel ?? "") ?? [];
  if (sessionId !== undefined || resource === "session") return { sessionId: sessionId ?? id! };
  if (chatId !== undefined || resource === "chat") return { chatId: chatId ?? id! };
  return undefined;
}
