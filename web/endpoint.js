// A sign-in endpoint, here or at another origin, and what is wrong where it gives no token. Knows nothing of the document.

import { claimsOf } from "./api.js";
import { t } from "./i18n.js";

const ANSWER_MS = 15_000;

/** Asks for a token; rejects with an error whose message can be shown. */
export async function signInAt(address, name, password) {
  const url = new URL(address, location.origin);
  const answer = await post(url, { username: name, email: name, password });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(refused(url, answer.status, saidBy(body)));
  if (!body || typeof body !== "object") throw new Error(t("endpointNoJson", { where: url.host, type: answer.headers.get("content-type") ?? "–" }));
  const token = [body, body.data ?? {}].flatMap((part) => [part.access_token, part.token, part.jwt]).find((text) => typeof text === "string");
  if (!token) throw new Error(t("endpointNoToken", { where: url.host }));
  if (!claimsOf(token)) throw new Error(t("endpointOddToken", { where: url.host }));
  return token;
}

async function post(url, body) {
  try {
    return await fetch(url, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal: AbortSignal.timeout(ANSWER_MS),
    });
  } catch (error) {
    if (error.name === "TimeoutError") throw new Error(t("endpointSilent", { where: url.host, s: ANSWER_MS / 1000 }));
    const hidden = url.origin !== location.origin && (await isThere(url));
    throw new Error(t(hidden ? "endpointCors" : "endpointGone", { where: url.host, origin: location.origin }));
  }
}

/** A browser tells a page nothing of an answer that is not for it, but that there was one. */
async function isThere(url) {
  return fetch(url, { mode: "no-cors", credentials: "omit", signal: AbortSignal.timeout(ANSWER_MS) }).then(() => true, () => false);
}

function refused(url, status, said) {
  const why = said ?? t("answered", { status });
  if ([401, 403].includes(status)) return t("endpointRefused", { why });
  if ([404, 405].includes(status)) return t("endpointMissing", { address: url.href, status });
  return t("endpointFailed", { where: url.host, status, why });
}

/** What an error says of itself, in one of the usual places. */
function saidBy(body) {
  const places = [body?.detail, body?.message, body?.error_description, body?.error?.message, body?.error, body?.title];
  return places.find((text) => typeof text === "string" && text)?.slice(0, 300);
}
