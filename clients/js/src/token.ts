// What can be known of a token.

import { problem } from "./state.js";

/** Thrown where `getToken` gives nothing. */
export const SIGNED_OUT = problem("token", "signed out");

/** Who a token is for and what it allows: its claims but for those that change from token to token. */
export function claims(token: string | undefined | void): string | undefined {
  try {
    const { exp, iat, nbf, jti, ...lasting } = JSON.parse(atob(token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    return JSON.stringify(lasting);
  } catch {
    return undefined;
  }
}
