// The steps of the diagnosis that are about streams: whether they come through, in time and whole.

import { refusal } from "./api.js";
import { ANSWER_MS, adviceFor, fail, ok, seconds, skip, viaOf, warn } from "./finding.js";
import { Probe, since, within } from "./probe.js";

const EVENT_MS = 10_000;
const LATE_MS = 3_000; // for what is sent at once
const TEST_EVENTS = 5;
const TEST_SPREAD_MS = 2_500; // five events that are sent a second apart arrive over at least so long

/** Opens the stream that the next steps look at. */
export async function headers(found) {
  const probe = new Probe();
  found.stream = probe;
  let answer;
  try {
    answer = await probe.open(found.session, "/events", ANSWER_MS);
  } catch (error) {
    if (error.name === "TimeoutError") return fail("headers_none", { s: seconds(ANSWER_MS) }, { advice: "held_do" });
    return fail("broken", { why: error.message }, { advice: "health_gone_do" });
  }
  const [type, cache] = ["content-type", "cache-control"].map((name) => answer.headers.get(name) ?? "–");
  const facts = [["fact_headers", { key: "headersOf", values: { type, cache } }], ["fact_via", viaOf(answer)]];
  if (!answer.ok) {
    const { message } = await refusal(answer);
    return fail("headers_status", { status: answer.status, why: message }, { facts, advice: adviceFor(answer.status) });
  }
  if (type.split(";")[0] !== "text/event-stream") return fail("headers_type", { type }, { facts });
  const isCached = !/no-cache|no-store/.test(cache) || answer.headers.has("age") || answer.headers.has("content-length");
  if (isCached) return fail("headers_cached", { cache }, { facts });
  if (!cache.includes("no-transform")) return warn("headers_transform", { cache }, { facts });
  return ok("headers_ok", { type, ms: probe.headersMs }, { facts });
}

export async function firstByte({ stream }) {
  const ms = await stream.find(({ firstByteMs }) => firstByteMs, ANSWER_MS).catch(() => null);
  if (!ms) return fail("first_byte_none", { headers: stream.headersMs, s: seconds(ANSWER_MS) }, { advice: "held_do" });
  return ms > LATE_MS ? fail("first_byte_late", { ms }, { advice: "held_do" }) : ok("first_byte_ok", { ms });
}

export async function confirmation(found) {
  const first = await found.stream.event((event) => event.type === "connection_confirmed", ANSWER_MS).catch(() => null);
  if (!first) return fail("confirmation_none", { s: seconds(ANSWER_MS) }, { advice: "held_do" });
  const { user_id: user, connected_chats: chats = [], connection_id: connection, ping_interval_ms: every } = first.event;
  Object.assign(found, { user, pingMs: every ?? 30_000 });
  const facts = [["fact_connection", connection], ["fact_chats", chats.slice(0, 20).join(", ") + (chats.length > 20 ? ", …" : "")]];
  if (chats.length === 0) return warn("confirmation_noChats", { user }, { facts });
  return ok("confirmation_ok", { user, n: chats.length, every: { seconds: found.pingMs / 1000 } }, { facts });
}

export async function buffering({ session }) {
  const probe = new Probe();
  try {
    const answer = await probe.open(session, "/api/sse/test", ANSWER_MS);
    if (!answer.ok) return fail("headers_status", { status: answer.status, why: (await refusal(answer)).message }, { advice: adviceFor(answer.status) });
    await within(ANSWER_MS, probe.over);
  } catch (error) {
    if (error.name !== "TimeoutError") return fail("broken", { why: error.message }, { advice: "held_do" });
  } finally {
    probe.close();
  }
  const times = probe.events.map(({ ms }) => ms);
  const facts = [["fact_arrived", times.map((ms) => `${ms} ms`).join(", ")]];
  const more = { facts, advice: "held_do" };
  if (times.length < TEST_EVENTS) return fail("buffering_partial", { n: times.length }, more);
  if (times.at(-1) - times[0] < TEST_SPREAD_MS) return fail("buffering_together", { ms: times.at(-1) }, more);
  if (times[0] > LATE_MS) return warn("buffering_late", { ms: times[0] }, more);
  const gaps = times.slice(1).map((ms, index) => ((ms - times[index]) / 1000).toFixed(1)).join(", ");
  return ok("buffering_ok", { gaps }, { facts });
}

export async function compression({ stream }) {
  const encoding = stream.answer.headers.get("content-encoding") ?? "identity";
  return encoding === "identity" ? ok("compression_none") : fail("compression_found", { encoding });
}

export async function ticket(found) {
  const began = performance.now();
  try {
    const { ticket: given } = await within(ANSWER_MS, found.session.json("/events/ticket", { method: "POST" }));
    found.ticket = given;
  } catch (error) {
    return fail("ticket_refused", { why: error.message });
  }
  return ok("ticket_ok", { ms: since(began) });
}

export async function eventsource(found) {
  const began = performance.now();
  const source = new EventSource(found.session.address("/events", { ticket: found.ticket }));
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
  if (outcome === "error") return fail("eventsource_error", { ms: since(began) });
  if (outcome === "silent") return fail("eventsource_silent", { s: seconds(ANSWER_MS) });
  return ok("eventsource_ok", { ms: since(began) });
}

/** Where a published event has the mark of this diagnosis: within its data, wherever the format puts that. */
const probeOf = (event) => (event.type === "diagnostic" ? event.data?.probe ?? event.probe : null);

export async function publish(found) {
  const { session, stream, user } = found;
  const probe = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const message = { type: "diagnostic", channel: `user:${user}`, data: { probe } };
  const began = performance.now();
  // Listened for before it is published.
  const arrival = (ms) => stream.event((candidate) => probeOf(candidate) === probe, ms).then((seen) => seen && performance.now(), () => null);
  const seen = (at) => {
    const natively = found.seenNatively?.get(probe);
    const also = natively === undefined ? "" : { key: "publish_alsoNative", values: { ms: Math.round(natively - began) } };
    return ok("publish_ok", { ms: Math.max(1, Math.round(at - began)), native: also });
  };
  const arrived = arrival(EVENT_MS);
  const answer = await within(ANSWER_MS, session.ask("/api/v1/messages/send", { method: "POST", body: message })).catch(() => null);
  if (answer?.status === 403) {
    const command = `notify-server publish 'fechatter.realtime.user.${user}' '${JSON.stringify(message).replaceAll("'", "'\\''")}'`;
    // Whoever runs the command does so in their own time.
    const later = arrival(600_000).then((at) => (at ? ok("publish_ok", { ms: Math.round(at - began), native: "" }) : null));
    return skip("publish_forbidden", {}, { command, later });
  }
  if (!answer?.ok) return fail("publish_refused", { status: answer?.status ?? "–", why: answer ? (await refusal(answer)).message : "" });
  const at = await arrived;
  if (!at) return fail("publish_lost", { s: seconds(EVENT_MS) });
  // EventSource gets it in the same moment; a little later than fetch is as good.
  const waitUntil = performance.now() + 1_000;
  while (found.source?.readyState === EventSource.OPEN && !found.seenNatively.has(probe) && performance.now() < waitUntil) {
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  return seen(at);
}

export async function poll({ session }) {
  const began = performance.now();
  const answer = await within(ANSWER_MS, session.ask("/events/poll")).catch(() => null);
  const body = answer?.ok ? await answer.json().catch(() => null) : null;
  if (Array.isArray(body?.events)) return ok("poll_ok", { ms: since(began) });
  return warn("poll_failed", { status: answer?.status ?? "–", why: answer && !answer.ok ? (await refusal(answer)).message : "" });
}

export async function idle(found, tell) {
  const { stream, pingMs } = found;
  const every = pingMs / 1000;
  const patience = pingMs * 2.2 + 2_000;
  const began = performance.now();
  tell({ state: "running", key: "idle_waiting", values: { every, until: { time: Date.now() + patience } } });
  // The first ping may come at any time, and shows nothing of what happens to a stream on which nothing does.
  const came = stream.find(({ events }) => events.find(({ event, ms }) => event.type === "ping" && ms >= pingMs), patience).then((seen) => seen ?? "over", () => "late");
  const outcome = await came;
  if (outcome === "late") return fail("idle_none", { s: seconds(patience) });
  if (outcome === "over") {
    const error = await stream.over;
    return fail("idle_cut", { s: seconds(stream.began ? performance.now() - stream.began : since(began)), why: error?.message ?? "–" });
  }
  return ok("idle_ok", { s: Math.round(outcome.ms / 100) / 10, every });
}
