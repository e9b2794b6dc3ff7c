// Requests to the server in a user's name. Knows nothing of the document, and never puts a token into an address.

import { t } from "./i18n.js";

const UNAUTHORIZED = 401;

/** What the server says that the pages have to know; of an `origin`, also whether its pages may read. */
export async function settings(origin) {
  const query = origin === undefined ? "" : `?${new URLSearchParams({ origin })}`;
  const answer = await fetch(`/assets/settings.json${query}`, { cache: "no-store" }).catch(() => null);
  return answer?.ok ? answer.json() : { sign_in: "", development: false, version: "" };
}

/** The demo users, and chats where their names are told; of development mode. */
export async function demoData() {
  const answer = await fetch("/api/dev/users").catch(() => null);
  return answer?.ok ? answer.json() : null;
}

/** A short-lived token for a demo user; development mode only. */
async function demoToken(userId, admin) {
  const answer = await post("/api/dev/token", { user_id: wireId(userId), admin });
  return (await answer.json()).access_token;
}

async function post(address, body) {
  const answer = await fetch(address, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  }).catch(() => { throw new Error(t("unreachable")); });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** Decimal ids travel as numbers, all others as strings. */
export function wireId(id) {
  const number = Number(id);
  return Number.isSafeInteger(number) && String(number) === String(id) ? number : id;
}

/** The claims of a token, which are not verified; null for what is no token. */
export function claimsOf(token) {
  const part = (index) => {
    const text = token.split(".")[index].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))));
  };
  try {
    const parts = { header: part(0), claims: part(1) };
    return parts.header && parts.claims && typeof parts.claims === "object" && token.split(".").length === 3 ? parts : null;
  } catch {
    return null;
  }
}

/** Whom a token speaks for, by the claims that servers look at where nothing else is configured. */
export function userOf(token) {
  const claims = claimsOf(token)?.claims ?? {};
  return [claims.user?.id, claims.user_id, claims.id, claims.sub].find((id) => ["string", "number"].includes(typeof id));
}

/** A signed-in user. */
export class Session {
  #token;
  #fetchToken;
  #issuer;

  /** With a token that was given, by `issuer` where that is a host, or as a demo user, who can have a new one at any time. */
  constructor({ token = null, issuer = null, demoUser = null, admin = false }) {
    this.#token = token && Promise.resolve(token);
    this.#issuer = issuer;
    this.demoUser = demoUser;
    // What administrators ask may be about users, by the same parameter.
    this.claims = demoUser && !admin ? { user_id: demoUser } : {};
    this.#fetchToken = demoUser ? () => demoToken(demoUser, admin) : null;
  }

  get canRenew() {
    return Boolean(this.#fetchToken);
  }

  /** What to say where the server refuses the token. */
  refused(why) {
    return this.#issuer ? t("refusedFrom", { where: this.#issuer, why }) : t("refused", { why });
  }

  token() {
    return this.#token ?? this.newToken();
  }

  /** A new one where there can be one, for all requests from now on; else the one that was given. */
  newToken() {
    if (!this.#fetchToken) return this.#token;
    const asked = this.#fetchToken();
    this.#token = asked;
    // A failure is for who asked, not for whoever asks next.
    asked.catch(() => { if (this.#token === asked) this.#token = null; });
    return asked;
  }

  /** Who the user claims to be: all there is to go by where authentication is off, and ignored where it is on. */
  address(path, query = {}) {
    const all = new URLSearchParams({ ...this.claims, ...query });
    return all.size ? `${path}?${all}` : path;
  }

  /** The answer to a request, whatever it is; rejects where there is none. A token that was refused is renewed once. */
  async ask(path, { method = "GET", query, body, headers = {}, signal } = {}) {
    const json = body === undefined ? {} : { "content-type": "application/json" };
    for (let token = await this.token(), renewed = false; ; token = await this.newToken(), renewed = true) {
      const answer = await fetch(this.address(path, query), {
        method, signal, cache: "no-store", headers: { authorization: `Bearer ${token}`, ...json, ...headers },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      if (answer.status !== UNAUTHORIZED || renewed || !this.canRenew) return answer;
    }
  }

  /** The answer as JSON; a refusal is an error with words to show. */
  async json(path, options) {
    const answer = await this.ask(path, options);
    if (!answer.ok) throw await refusal(answer);
    return answer.status === 204 ? null : answer.json();
  }
}

/** A problem+json answer as an Error whose message can be shown. */
export async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  const error = new Error(problem.detail || problem.title || t("answered", { status: answer.status }));
  error.status = answer.status;
  error.why = challengeOf(answer);
  return error;
}

/** What a refusal says of itself in its challenge (RFC 6750). */
export function challengeOf(answer) {
  return /error_description="([^"]+)"/.exec(answer.headers.get("www-authenticate") ?? "")?.[1] ?? "";
}
