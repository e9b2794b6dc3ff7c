// The steps of somebody who sees no data. Each takes what the ones before have found, and gives what it has found. They
// are named as the checks of `notify-server doctor`, where they are the same. Knows nothing of the document.

import { challengeOf, claimsOf, settings, userOf } from "./api.js";
import { buffering, compression, confirmation, eventsource, firstByte, headers, idle, poll, publish, ticket } from "./checks-stream.js";
import { ANSWER_MS, adviceFor, fail, ok, skip, viaOf, warn } from "./finding.js";
import { protocolOf, since, within } from "./probe.js";

const LEEWAY_S = 60; // the server's, by which a token may be too old
const SOON_S = 300;
const SKEW_MS = 2_000; // from here on clocks are worth a look
const SKEW_MAX_MS = 30_000; // from here on tokens of a minute are refused

/** Whether nobody else is on the way. */
const isLocal = () => ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

async function health(found) {
  const began = performance.now();
  let answer;
  try {
    answer = await within(ANSWER_MS, fetch("/health", { cache: "no-store" }));
  } catch {
    return fail("health_gone", { host: location.host });
  }
  const ms = since(began);
  const said = await answer.json().catch(() => null);
  if (!said?.components || !said.version) return fail("health_other", { path: "/health", status: answer.status });
  const facts = [
    ["fact_address", location.origin], ["fact_version", `notify-server ${said.version}`], ["fact_instance", said.instance], ["fact_via", viaOf(answer)],
  ];
  found.skewMs = await clockDifference();
  if (!answer.ok) return warn("health_unready", { problems: (said.problems ?? []).join("; ") || said.status }, { facts });
  if (said.status === "degraded") return warn("health_degraded", { problems: (said.problems ?? []).join("; ") }, { facts });
  return ok("health_ok", { name: location.host, ms }, { facts });
}

/** How far the server's clock is ahead of this one, in milliseconds; null where it does not say. */
async function clockDifference() {
  const asked = Date.now();
  const answer = await within(ANSWER_MS, fetch("/api/sse/test", { cache: "no-store" })).then((got) => got.json()).catch(() => null);
  const time = Date.parse(answer?.data?.timestamp ?? "");
  return Number.isNaN(time) ? null : Math.round(time - (asked + Date.now()) / 2);
}

async function protocol() {
  const version = protocolOf("/health");
  const isPlain = location.protocol === "http:";
  if (isPlain && isLocal()) return ok("protocol_local", { version: version || "http/1.1" });
  if (isPlain) return warn("protocol_plain");
  if (version.startsWith("http/1")) return warn("protocol_old");
  return version ? ok("protocol_ok", { version }) : ok("protocol_unknown");
}

async function clock({ skewMs }) {
  if (skewMs === null) return warn("clock_unknown");
  const values = { skew: { seconds: Math.max(100, Math.abs(skewMs)) / 1000 }, side: { key: skewMs > 0 ? "clock_ahead" : "clock_behind" } };
  if (Math.abs(skewMs) < SKEW_MS) return ok("clock_ok", values);
  return Math.abs(skewMs) < SKEW_MAX_MS ? warn("clock_apart", values) : fail("clock_apart", values);
}

async function token(found) {
  const text = await found.session.token();
  const parts = claimsOf(text);
  if (!parts) return fail("token_none");
  const { header, claims } = parts;
  const now = (Date.now() + (found.skewMs ?? 0)) / 1000;
  const user = userOf(text);
  const left = claims.exp - now;
  const facts = [
    ["fact_algorithm", header.alg], ["fact_kid", header.kid], ["fact_issuer", claims.iss],
    ["fact_audience", [claims.aud ?? []].flat().join(", ")], ["fact_issued", dateOf(claims.iat)], ["fact_expires", dateOf(claims.exp)],
    ["fact_rights", claims.notify && JSON.stringify(claims.notify)],
  ];
  const more = { facts };
  if (typeof claims.exp !== "number") return fail("token_noExp", {}, more);
  if (left < -LEEWAY_S) return fail("token_expired", { ago: { seconds: -left } }, more);
  if (claims.nbf - now > LEEWAY_S) return fail("token_early", { left: { seconds: claims.nbf - now } }, more);
  if (user === undefined) return warn("token_noUser", {}, more);
  if (left < SOON_S && !found.session.canRenew) return warn("token_soon", { user, left: { seconds: left } }, more);
  return ok("token_ok", { user, left: { seconds: left } }, more);
}

const dateOf = (seconds) => (typeof seconds === "number" && Math.abs(seconds) < 8e12 ? new Date(seconds * 1000).toISOString() : null);

async function accepted({ session }) {
  const began = performance.now();
  const answer = await within(ANSWER_MS, session.ask("/events", { method: "HEAD" }));
  const why = challengeOf(answer) || answer.statusText;
  if (answer.ok) return ok("accepted_ok", { ms: since(began) });
  if (answer.status === 401) return fail("accepted_401", { why });
  return fail("accepted_other", { status: answer.status, why }, { advice: adviceFor(answer.status) });
}

/** Whether the pages of an application may read; what proxies do with the headers for that only the doctor can see. */
async function cors({ origin }) {
  if (!origin) return skip("cors_unasked", { here: location.origin });
  let asked = "";
  try {
    const url = new URL(origin);
    if (["http:", "https:"].includes(url.protocol)) asked = url.origin;
  } catch { /* Then it is none. */ }
  if (!asked) return fail("cors_odd", { origin });
  if (asked === location.origin) return ok("cors_same");
  const command = `notify-server doctor ${location.origin} --origin ${asked}`;
  const { origin_allowed: allowed } = await within(ANSWER_MS, settings(asked));
  if (allowed === undefined) return fail("cors_unknown", {}, { advice: "health_gone_do" });
  return allowed ? ok("cors_ok", { origin: asked }, { command, note: "cors_note" }) : fail("cors_blocked", { origin: asked });
}

/** In order; `needs` names steps without which one makes no sense. */
export const STEPS = [
  { id: "health", run: health },
  { id: "protocol", run: protocol, needs: ["health"] },
  { id: "clock", run: clock, needs: ["health"] },
  { id: "token", run: token, needs: ["health"] },
  { id: "accepted", run: accepted, needs: ["health"] },
  { id: "headers", run: headers, needs: ["accepted"] },
  { id: "first_byte", run: firstByte, needs: ["headers"] },
  { id: "confirmation", run: confirmation, needs: ["first_byte"] },
  { id: "buffering", run: buffering, needs: ["accepted"] },
  { id: "compression", run: compression, needs: ["headers"] },
  { id: "ticket", run: ticket, needs: ["accepted"] },
  { id: "eventsource", run: eventsource, needs: ["ticket"] },
  { id: "publish", run: publish, needs: ["confirmation"] },
  { id: "poll", run: poll, needs: ["accepted"] },
  { id: "cors", run: cors, needs: ["health"] },
  { id: "idle", run: idle, needs: ["confirmation"] },
];
