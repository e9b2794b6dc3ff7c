// Requests in the name of the user, and the token for them: asked for once, kept until it is about to end or is refused.

import type { NotifyEvent } from "./events.js";
import { address, type Parameters, type Settings } from "./options.js";
import { problem, refusal } from "./state.js";
import { SIGNED_OUT } from "./token.js";

/** What `/events/poll` answers. */
export interface Polled {
  events: NotifyEvent[];
  /** Of each event; older servers do not say. */
  ids?: (string | null)[];
  last_id: string | null;
  gap: boolean;
}

export class Api {
  #settings: Settings;
  #kept: Promise<string | undefined> | undefined;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** `undefined` where the cookie counts; rejects with a Problem. */
  token(): Promise<string | undefined> {
    if (!this.#kept) {
      const asked = (this.#kept = this.#ask());
      asked.catch(() => this.#drop(asked));
    }
    return this.#kept;
  }

  /** Unless there is a newer one. */
  #drop(kept: Promise<unknown>): void {
    if (this.#kept === kept) this.dropToken();
  }

  /** The next one is a new one. */
  dropToken(): void {
    this.#kept = undefined;
  }

  async #ask(): Promise<string | undefined> {
    const { getToken } = this.#settings;
    if (!getToken) return undefined;
    let token: string | null | undefined;
    try {
      token = await getToken();
    } catch (error) {
      throw problem("token", `getToken failed: ${error}`);
    }
    if (!token) throw SIGNED_OUT;
    return token;
  }

  /** `fetch` with the token; a refused one is renewed once. */
  async fetch(path: string, init: RequestInit = {}, parameters: Parameters = {}): Promise<Response> {
    const { environment, url, withCredentials } = this.#settings;
    for (let renewed = false; ; renewed = true) {
      const headers = new Headers(init.headers);
      const kept = this.token();
      const token = await kept;
      if (token) headers.set("authorization", `Bearer ${token}`);
      const answer = await environment.fetch(address(url, path, parameters), {
        credentials: withCredentials ? "include" : "same-origin",
        ...init,
        headers,
      });
      if (answer.status !== 401 || !token || renewed) return answer;
      // Another request may have been refused as well, and asked for a new one already.
      this.#drop(kept);
    }
  }

  /** The same, as JSON; throws a Problem. */
  async json<T>(path: string, init?: RequestInit, parameters?: Parameters): Promise<T> {
    const answer = await this.fetch(path, init, parameters);
    if (!answer.ok) throw await refusal(answer);
    return (await answer.json()) as T;
  }
}
