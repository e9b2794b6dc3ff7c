// The token in use: asked for once, kept until it is about to end or is refused.

import { problem } from "./state.js";

/** Thrown where `getToken` gives nothing. */
export const SIGNED_OUT = problem("token", "signed out");

export class Token {
  #get: () => unknown;
  #kept: Promise<string> | undefined;

  constructor(get: () => unknown) {
    this.#get = get;
  }

  get(): Promise<string> {
    if (!this.#kept) {
      const asked = this.#ask();
      this.#kept = asked;
      asked.catch(() => {
        if (this.#kept === asked) this.drop();
      });
    }
    return this.#kept!;
  }

  /** The next one is a new one. */
  drop(): void {
    this.#kept = undefined;
  }

  async #ask(): Promise<string> {
    let token: unknown;
    try {
      token = await this.#get();
    } catch (error) {
      throw problem("token", `getToken failed: ${error}`);
    }
    if (!token) throw SIGNED_OUT;
    return String(token);
  }
}

/** Who a token is for and what it allows: its claims but for those that change from token to token. */
export function claims(token: string): string | undefined {
  try {
    const { exp, iat, nbf, jti, ...lasting } = JSON.parse(atob(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    return JSON.stringify(lasting);
  } catch {
    return undefined;
  }
}
