// The steps of somebody who sees no data. Each takes what the ones before have found, and gives what it has found:
// `{state, key, values, facts, advice, note, command, later}`, in keys of words. Knows nothing of the document.

import { challengeOf, claimsOf, refusal, userOf } from "./api.js";
import { Probe, protocolOf, since, within } from "./probe.js";

const ANSWER_MS = 15_000;
const EVENT_MS = 10_000;
const LATE_MS = 3_000; // for what is sent at once
const LEEWAY_S = 60; // the server's, by which a token may be too old
const SOON_S = 300;
const SKEW_MS = 5_000;
const TEST_EVENTS = 5;

const ok = (key, values, more) => ({ state: "ok", key, values, ...more });
const warn = (key, values, more) => ({ state: "warn", key, values, advice: `${key}_do`, ...more });
const fail = (key, values, more) => ({ state: "fail", key, values, advice: `${key}_do`, ...more });
const seconds = (ms) => Math.round(ms / 1000);

async function server(found) {
  const began = performance.now();
  let answer;
  try {
    answer = await within(ANSWER_MS, fetch("/health", { cache: "no-store" }));
  } catch {
    return fail("server_gone", { host: location.host });
  }
  const ms = since(began);
  const health = await answer.json().catch(() => null);
  if (!health?.components || !health.version) return fail("server_other", { path: "/health", status: answer.status });
  found.version = health.version;
  found.skewMs = await clockDifference();
  const facts = [
    ["fact_address", location.origin], ["fact_version", `notify-server ${health.version}`],
    ["fact_protocol", protocolOf("/health")], ["fact_via", viaOf(answer)],
    found.skewMs !== null && ["fact_clock", `${(found.skewMs / 1000).toFixed(1)} s`],
  ];
  if (!answer.ok) return warn("server_unready", { problems: (health.problems ?? []).join("; ") || health.status }, { facts });
  const isPlain = location.protocol === "http:" && !["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  return ok("server_ok", { name: location.host, ms }, { facts, note: isPlain ? "plain_note" : null });
}

/** How far the server's clock is ahead of this one, in milliseconds; null where it does not say. */
async function clockDifference() {
  const asked = Date.now();
  const answer = await within(ANSWER_MS, fetch("/api/sse/test", { cache: "no-store" })).then((got) => got.json()).catch(() => null);
  const time = Date.parse(answer?.data?.timestamp ?? "");
  return Number.isNaN(time) ? null : Math.round(time - (asked + Date.now()) / 2);
}

const viaOf = ({ headers }) => [headers.get("server"), headers.get("via")].filter(Boolean).join("; ");

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
  if (Math.abs(found.skewMs ?? 0) > SKEW_MS) return warn("token_skew", { skew: { seconds: Math.abs(found.skewMs) / 1000 } }, more);
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

function adviceFor(status) {
  const known = { 401: 401, 404: 404, 429: 429, 502: 502, 503: 503, 504: 502 }[status];
  return `status_${known ?? "other"}_do`;
}

async function opened(found) {
  const probe = new Probe();
  found.stream = probe;
  let answer;
  try {
    answer = await probe.open(found.session, "/events", ANSWER_MS);
  } catch (error) {
    if (error.name === "TimeoutError") return fail("fetch_noHeaders", { s: seconds(ANSWER_MS) }, { advice: "held_do" });
    return fail("fetch_broken", { why: error.message }, { advice: "server_gone_do" });
  }
  const { headers } = answer;
  const [type, cache, encoding] = ["content-type", "cache-control", "content-encoding"].map((name) => headers.get(name) ?? "–");
  const facts = [["fact_headers", { key: "headersOf", values: { type, cache, encoding } }], ["fact_via", viaOf(answer)], ["fact_protocol", protocolOf("/health")]];
  if (!answer.ok) {
    const { message } = await refusal(answer);
    return fail("fetch_status", { status: answer.status, why: message }, { facts, advice: adviceFor(answer.status) });
  }
  if (!type.startsWith("text/event-stream")) return fail("fetch_type", { type }, { facts });
  const first = await probe.find(({ firstByteMs }) => firstByteMs, ANSWER_MS).catch(() => null);
  const values = { headers: probe.headersMs, first, s: seconds(ANSWER_MS) };
  if (first === null) return fail("fetch_silent", values, { facts, advice: "held_do" });
  if (!["–", "identity"].includes(encoding)) return warn("fetch_encoded", { encoding }, { facts });
  const note = protocolOf("/health").startsWith("http/1") ? "http1_note" : null;
  return ok("fetch_ok", values, { facts, note });
}

async function confirmed(found) {
  const first = await found.stream.event((event) => event.type === "connection_confirmed", ANSWER_MS).catch(() => null);
  if (!first) return fail("confirmed_none", { s: seconds(ANSWER_MS) }, { advice: "held_do" });
  const { user_id: user, connected_chats: chats = [], connection_id: connection, ping_interval_ms: every } = first.event;
  Object.assign(found, { user, pingMs: every ?? 30_000 });
  const facts = [["fact_connection", connection], ["fact_chats", chats.slice(0, 20).join(", ") + (chats.length > 20 ? ", …" : "")]];
  if (chats.length === 0) return warn("confirmed_noChats", { user }, { facts });
  return ok("confirmed_ok", { user, n: chats.length }, { facts });
}

async function spaced({ session }) {
  const probe = new Probe();
  try {
    const answer = await probe.open(session, "/api/sse/test", ANSWER_MS);
    if (!answer.ok) return fail("fetch_status", { status: answer.status, why: (await refusal(answer)).message }, { advice: adviceFor(answer.status) });
    await within(ANSWER_MS, probe.over);
  } catch (error) {
    if (error.name !== "TimeoutError") return fail("fetch_broken", { why: error.message }, { advice: "held_do" });
  } finally {
    probe.close();
  }
  const times = probe.events.map(({ ms }) => ms);
  const facts = [["fact_arrived", times.map((ms) => `${ms} ms`).join(", ")]];
  const more = { facts, advice: "held_do" };
  if (times.length < TEST_EVENTS) return fail("spaced_partial", { n: times.length }, more);
  if (times.at(-1) - times[0] < 2_500) return fail("spaced_together", { ms: times.at(-1) }, more);
  if (times[0] > LATE_MS) return warn("spaced_late", { ms: times[0] }, more);
  const gaps = times.slice(1).map((ms, index) => ((ms - times[index]) / 1000).toFixed(1)).join(", ");
  return ok("spaced_ok", { gaps }, { facts });
}

async function native(found) {
  let ticket;
  try {
    ticket = (await within(ANSWER_MS, found.session.json("/events/ticket", { method: "POST" }))).ticket;
  } catch (error) {
    return fail("native_ticket", { why: error.message });
  }
  const began = performance.now();
  const source = new EventSource(found.session.address("/events", { ticket }));
  found.source = source;
  found.seenNatively = new Map(); // probe → when
  const first = new Promise((resolve) => {
    source.onerror = () => {
      source.close(); // It would come back with a ticket that is used up.
      resolve("error");
    };
    source.onmessage = (message) => {
      resolve("message");
      const probe = probeOf(JSON.parse(message.data));
      if (probe) found.seenNatively.set(probe, performance.now());
    };
  });
  const outcome = await within(ANSWER_MS, first).catch(() => "silent");
  if (outcome === "error") return fail("native_error", { ms: since(began) });
  if (outcome === "silent") return warn("native_silent", { s: seconds(ANSWER_MS) });
  return ok("native_ok", { ms: since(began) });
}

/** Where a published event has the mark of this diagnosis: within its data, wherever the format puts that. */
const probeOf = (event) => (event.type === "diagnostic" ? event.data?.probe ?? event.probe : null);

async function event(found) {
  const { session, stream, user } = found;
  const probe = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const message = { type: "diagnostic", channel: `user:${user}`, data: { probe } };
  const began = performance.now();
  // Listened for before it is published.
  const arrival = (ms) => stream.event((candidate) => probeOf(candidate) === probe, ms).then((seen) => seen && performance.now(), () => null);
  const seen = (at) => {
    const natively = found.seenNatively?.get(probe);
    const also = natively === undefined ? "" : { key: "event_alsoNative", values: { ms: Math.round(natively - began) } };
    return ok("event_ok", { ms: Math.max(1, Math.round(at - began)), native: also });
  };
  const arrived = arrival(EVENT_MS);
  const answer = await within(ANSWER_MS, session.ask("/api/v1/messages/send", { method: "POST", body: message })).catch(() => null);
  if (answer?.status === 403) {
    const command = `notify-server publish 'fechatter.realtime.user.${user}' '${JSON.stringify(message).replaceAll("'", "'\\''")}'`;
    // Whoever runs the command does so in their own time.
    const later = arrival(600_000).then((at) => (at ? ok("event_ok", { ms: Math.round(at - began), native: "" }) : null));
    return { state: "skip", key: "event_forbidden", command, later };
  }
  if (!answer?.ok) return fail("event_refused", { status: answer?.status ?? "–", why: answer ? (await refusal(answer)).message : "" });
  const at = await arrived;
  if (!at) return fail("event_lost", { s: seconds(EVENT_MS) });
  // EventSource gets it in the same moment; a little later than fetch is as good.
  const waitUntil = performance.now() + 1_000;
  while (found.source?.readyState === EventSource.OPEN && !found.seenNatively.has(probe) && performance.now() < waitUntil) {
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  return seen(at);
}

async function poll({ session }) {
  const began = performance.now();
  const answer = await within(ANSWER_MS, session.ask("/events/poll")).catch(() => null);
  const body = answer?.ok ? await answer.json().catch(() => null) : null;
  if (Array.isArray(body?.events)) return ok("poll_ok", { ms: since(began) });
  return warn("poll_failed", { status: answer?.status ?? "–", why: answer && !answer.ok ? (await refusal(answer)).message : "" });
}

async function ping(found, tell) {
  const { stream, pingMs } = found;
  const every = pingMs / 1000;
  const patience = pingMs * 1.2 + 2_000;
  const began = performance.now();
  tell({ state: "running", key: "ping_waiting", values: { every, until: { time: Date.now() + patience } } });
  const came = stream.event((candidate) => candidate.type === "ping", patience).then((seen) => seen ?? "over", () => "late");
  const outcome = await came;
  if (outcome === "late") return fail("ping_none", { s: seconds(patience) });
  if (outcome === "over") {
    const error = await stream.over;
    return fail("ping_cut", { s: seconds(stream.began ? performance.now() - stream.began : since(began)), why: error?.message ?? "–" });
  }
  return ok("ping_ok", { s: Math.round(outcome.ms / 100) / 10, every });
}

/** In order; `needs` names steps without which one makes no sense. */
export const STEPS = [
  { id: "server", run: server },
  { id: "token", run: token, needs: ["server"] },
  { id: "accepted", run: accepted, needs: ["server"] },
  { id: "fetch", run: opened, needs: ["accepted"] },
  { id: "confirmed", run: confirmed, needs: ["fetch"] },
  { id: "spaced", run: spaced, needs: ["accepted"] },
  { id: "native", run: native, needs: ["accepted"] },
  { id: "event", run: event, needs: ["confirmed"] },
  { id: "poll", run: poll, needs: ["accepted"] },
  { id: "ping", run: ping, needs: ["confirmed"] },
];
