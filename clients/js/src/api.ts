// Requests beside the stream, in the name of the same user.

import type { NotifyEvent } from "./events.js";
import { address, type Parameters, type Settings } from "./options.js";
import { refusal } from "./state.js";
import type { Token } from "./token.js";

/** What `/events/poll` answers. */
export interface Polled {
  events: NotifyEvent[];
  last_id: string | null;
  gap: boolean;
}

export class Api {
  readonly token: Token | undefined;
  #settings: Settings;

  constructor(settings: Settings, token: Token | undefined) {
    this.#settings = settings;
    this.token = token;
  }

  /** `fetch` with the token; a refused one is renewed once. */
  async fetch(path: string, init: RequestInit = {}, parameters: Parameters = {}): Promise<Response> {
    const { environment, url, withCredentials } = this.#settings;
    for (let renewed = false; ; renewed = true) {
      const headers = new Headers(init.headers);
      // Without a token the cookie counts.
      if (this.token) headers.set("authorization", `Bearer ${await this.token.get()}`);
      const answer = await environment.fetch(address(url, path, parameters), {
        credentials: withCredentials ? "include" : "same-origin",
        ...init,
        headers,
      });
      if (answer.status !== 401 || !this.token || renewed) return answer;
      this.token.drop();
    }
  }

  /** The same, as JSON; throws a Problem. */
  async json<T>(path: string, init?: RequestInit, parameters?: Parameters): Promise<T> {
    const answer = await this.fetch(path, init, parameters);
    if (!answer.ok) throw await refusal(answer);
    return (await answer.json()) as T;
  }
}
