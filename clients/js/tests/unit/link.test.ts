// One connection, its failures and its ends.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { describe as inWords } from "../../src/state.js";
import { confirmation, FakeServer, type Heard, listen, message, settle, tokens } from "../support/fake.js";

let server: FakeServer;

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
});

afterEach(() => {
  vi.useRealTimers();
});

async function opened(options: Parameters<typeof listen>[1] = {}, id?: string): Promise<Heard> {
  const heard = listen(server, { getToken: tokens(), ...options });
  await settle();
  await server.asked.confirm(id);
  return heard;
}

test("the token goes in the header and not in the address, and events arrive with their ids", async () => {
  const heard = listen(server, { getToken: () => "secret" });
  const ids: unknown[] = [];
  heard.client.on("*", (_, id) => ids.push(id));
  await settle();
  const stream = server.asked;
  expect(stream.path).toBe("/events");
  expect(stream.token).toBe("secret");
  expect(stream.url.href).not.toContain("secret");
  await stream.confirm("e-4-0");
  await stream.send(message(1), "e-5-0");
  await stream.send({ type: "ping" });
  expect(heard.messages).toEqual([1]);
  expect(ids).toEqual(["e-4-0", "e-5-0", undefined]);
  expect(heard.client.lastEventId).toBe("e-5-0");
  expect(heard.states.map((state) => state.status)).toEqual(["connecting", "open"]);
});

test("a path and parameters of the address are kept, and channels are percent-encoded", async () => {
  listen(server, { url: "https://notify.test/below/?user_id=2", channels: ["job:1", "job:项目"] });
  await settle();
  expect(server.asked.url.href).toBe("https://notify.test/below/sse/stream/job%3A1,job%3A%E9%A1%B9%E7%9B%AE?user_id=2&named=false");
});

test("an address that is none is told at once", () => {
  expect(() => listen(server, { url: "not an address" })).toThrow("Invalid URL");
});

test("it goes on from the last id, and waits longer after every failure", async () => {
  const heard = await opened({ maxAttempts: 10 });
  const [stream] = server.requests;
  await stream!.send(message(1), "e-1-0");
  await stream!.end();
  for (const [attempt, wait] of [[1, 500], [2, 1000], [3, 2000], [4, 4000], [5, 8000], [6, 15_000], [7, 15_000]] as const) {
    expect(heard.client.state).toMatchObject({ status: "reconnecting", attempt, retryInMs: wait });
    expect(inWords(heard.client.state)).toBe(`reconnecting ${attempt}/10`);
    const before = server.requests.length;
    await vi.advanceTimersByTimeAsync(wait - 1);
    expect(server.requests).toHaveLength(before);
    await vi.advanceTimersByTimeAsync(1);
    expect(server.asked.parameter("last_event_id")).toBe("e-1-0");
    await server.asked.fail();
  }
  expect(heard.problems).toHaveLength(8);
});

test("the jitter is full: from nothing up to the whole step", async () => {
  const random = vi.fn(() => 0);
  const heard = listen(server, {}, { random });
  await settle();
  random.mockReturnValue(0.999);
  await server.asked.fail();
  expect(heard.client.state).toMatchObject({ retryInMs: 999 });
  random.mockReturnValue(0.001);
  await vi.advanceTimersByTimeAsync(999);
  await server.asked.fail();
  expect(heard.client.state).toMatchObject({ retryInMs: 2 });
});

test("a 500, which ends a native EventSource, is tried again, as is what a proxy says of its own", async () => {
  const heard = await opened();
  await server.requests[0]!.end();
  for (const [status, type] of [[500, "application/problem+json"], [404, "text/html"], [403, "text/plain"], [429, "application/problem+json"]] as const) {
    await vi.advanceTimersByTimeAsync(30_000);
    await server.asked.json({}, status, { "content-type": type });
    expect(heard.client.state.status).toBe("reconnecting");
  }
});

test("Retry-After is the least that is waited", async () => {
  const heard = listen(server);
  await settle();
  await server.asked.refuse(503, "busy", { "retry-after": "7" });
  expect(heard.client.state).toMatchObject({ retryInMs: 7500, problem: { code: "http", status: 503, message: "busy" } });
});

test("the server's retry is the first step of the backoff", async () => {
  const heard = listen(server);
  await settle();
  const stream = await server.asked.stream();
  await stream.write("retry: 3000\n\n");
  await stream.confirm();
  await stream.end();
  expect(heard.client.state).toMatchObject({ retryInMs: 1500 });
});

test("closing with reconnect waits exactly retry_ms, which the server has spread", async () => {
  const heard = await opened();
  await server.requests[0]!.send({ type: "closing", reason: "draining", reconnect: true, retry_ms: 1234 });
  expect(heard.client.state).toMatchObject({ status: "reconnecting", retryInMs: 1234, problem: undefined });
  expect(server.requests[0]!.gone).toBe(true);
  await vi.advanceTimersByTimeAsync(1234);
  await server.asked.confirm();
  expect(heard.client.state.status).toBe("open");
});

test("closing without reconnect ends it for good", async () => {
  const heard = await opened();
  await server.requests[0]!.send({ type: "closing", reason: "disconnected", reconnect: false, retry_ms: 0 });
  expect(heard.client.state).toEqual({ status: "closed", reason: "disconnected", problem: undefined });
  await vi.advanceTimersByTimeAsync(600_000);
  expect(server.requests).toHaveLength(1);
  expect(vi.getTimerCount()).toBe(0);
});

test("a refusal that will not change ends it and says why", async () => {
  const heard = listen(server, { channels: ["job:1"] });
  await settle();
  await server.asked.refuse(403, "this token may not listen on job:1");
  expect(heard.client.state).toMatchObject({ status: "closed", reason: "refused", problem: { status: 403 } });
  expect(inWords(heard.client.state)).toBe("closed: this token may not listen on job:1");
});

test("failures in a row are counted, and a connection that lasted begins anew", async () => {
  const heard = await opened({ maxAttempts: 2 });
  await vi.advanceTimersByTimeAsync(5000);
  await server.requests[0]!.end();
  await vi.advanceTimersByTimeAsync(500);
  await server.asked.confirm();
  // It did not last, so it does not count as a good one.
  await server.requests[1]!.end();
  expect(heard.client.state).toMatchObject({ attempt: 2 });
  await vi.advanceTimersByTimeAsync(1000);
  await server.asked.fail();
  expect(heard.client.state).toMatchObject({ status: "closed", reason: "attempts", problem: { code: "network" } });
  heard.client.reconnect();
  await settle();
  await server.asked.confirm();
  expect(heard.client.state.status).toBe("open");
});

test("reconnect does not wait", async () => {
  const heard = listen(server);
  await settle();
  await server.asked.refuse(503, "busy", { "retry-after": "60" });
  heard.client.reconnect();
  await settle();
  await server.asked.confirm();
  expect(heard.client.state.status).toBe("open");
});

test("a refused token is renewed once, then it is over", async () => {
  const getToken = vi.fn(tokens());
  const heard = listen(server, { getToken });
  await settle();
  await server.asked.refuse(401);
  expect(getToken).toHaveBeenCalledTimes(2);
  expect(server.asked.token).not.toBe(server.requests[0]!.token);
  await server.asked.refuse(401, "the signature is wrong");
  expect(heard.client.state).toMatchObject({ status: "closed", reason: "unauthorized" });
  expect(heard.states.map((state) => state.status)).toEqual(["connecting", "closed"]);
});

test("getToken that fails is tried again, and one that gives nothing ends it", async () => {
  const getToken = vi.fn<() => Promise<string | null>>();
  getToken.mockRejectedValueOnce(new Error("sign-in is down"));
  const heard = listen(server, { getToken });
  await settle();
  expect(heard.client.state).toMatchObject({ status: "reconnecting", problem: { code: "token", message: "getToken failed: Error: sign-in is down" } });
  getToken.mockResolvedValueOnce(null);
  await vi.advanceTimersByTimeAsync(500);
  expect(heard.client.state).toMatchObject({ status: "closed", reason: "signed_out" });
  expect(server.requests).toHaveLength(0);
});

test("a getToken that takes minutes is waited for, and is not silence", async () => {
  let signIn!: (token: string) => void;
  const heard = listen(server, { getToken: () => new Promise((resolve) => (signIn = resolve)) });
  await vi.advanceTimersByTimeAsync(300_000);
  expect(heard.client.state.status).toBe("connecting");
  signIn("late");
  await settle();
  await server.asked.confirm();
  expect(heard.client.state.status).toBe("open");
});

test("the token is renewed before it expires, while the old stream goes on, without loss or double", async () => {
  const heard = await opened();
  const old = server.requests[0]!;
  await old.send(message(1), "e-1-0");
  await old.send({ type: "token_expiring", expires_in_ms: 60_000 });
  await vi.advanceTimersByTimeAsync(29_999);
  expect(server.requests).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  const renewed = server.asked;
  expect(renewed.token).not.toBe(old.token);
  expect(renewed.parameter("last_event_id")).toBe("e-1-0");
  await old.send(message(2), "e-2-0");
  await renewed.confirm("e-1-0");
  expect(old.gone).toBe(true);
  await renewed.send(message(2), "e-2-0");
  await renewed.send(message(3), "e-3-0");
  expect(heard.messages).toEqual([1, 2, 3]);
  expect(heard.states.map((state) => state.status)).toEqual(["connecting", "open"]);
});

test("a renewal that fails is tried again, and the old stream is kept as long as it lasts", async () => {
  const heard = await opened();
  const old = server.requests[0]!;
  await old.send({ type: "token_expiring", expires_in_ms: 60_000 });
  await vi.advanceTimersByTimeAsync(30_000);
  await server.asked.refuse(503);
  await old.send(message(1), "e-1-0");
  await vi.advanceTimersByTimeAsync(1500);
  await server.asked.fail();
  await vi.advanceTimersByTimeAsync(1500);
  await server.asked.confirm("e-1-0");
  expect(old.gone).toBe(true);
  expect(heard.client.state.status).toBe("open");
  expect(heard.messages).toEqual([1]);
  expect(heard.problems).toHaveLength(2);
});

test("where there is no newer token yet the stream stays as it is", async () => {
  let tokens = ["one", "one", "two"];
  const heard = await opened({ getToken: () => tokens.shift() });
  const stream = server.requests[0]!;
  await stream.send({ type: "token_expiring", expires_in_ms: 60_000 });
  await vi.advanceTimersByTimeAsync(59_000);
  expect(server.requests).toHaveLength(1);
  await stream.send(message(1), "e-1-0");
  await stream.send({ type: "closing", reason: "token_expired", reconnect: false, retry_ms: 0 });
  expect(server.asked.token).toBe("two");
  expect(server.asked.parameter("last_event_id")).toBe("e-1-0");
  await server.asked.confirm("e-1-0");
  expect(heard.messages).toEqual([1]);
});

test("a stream that ends while its successor is on the way leaves one stream, not two", async () => {
  await opened();
  const old = server.requests[0]!;
  await old.send({ type: "token_expiring", expires_in_ms: 1000 });
  await vi.advanceTimersByTimeAsync(500);
  const successor = server.asked;
  await old.end();
  expect(successor.gone).toBe(true);
  await vi.advanceTimersByTimeAsync(1000);
  await server.asked.confirm();
  expect(server.open.filter((request) => request !== old)).toHaveLength(1);
});

test("a token that expired all the same is renewed; without getToken that is the end", async () => {
  const expired = { type: "closing", reason: "token_expired", reconnect: false, retry_ms: 0 };
  const heard = await opened();
  await vi.advanceTimersByTimeAsync(6000);
  await server.requests[0]!.send(expired);
  expect(server.asked.token).not.toBe(server.requests[0]!.token);
  await server.asked.confirm();
  expect(heard.states.map((state) => state.status)).toEqual(["connecting", "open"]);
  const other = listen((server = new FakeServer()));
  await settle();
  await server.asked.confirm();
  await server.requests[0]!.send(expired);
  expect(other.client.state).toMatchObject({ status: "closed", reason: "token_expired" });
});

test("tokens that expire at once are not asked for in a loop", async () => {
  const getToken = vi.fn(tokens());
  const heard = await opened({ getToken });
  await server.requests[0]!.send({ type: "closing", reason: "token_expired", reconnect: false, retry_ms: 0 });
  expect(heard.client.state).toMatchObject({ status: "reconnecting", retryInMs: 500 });
  expect(getToken).toHaveBeenCalledTimes(1);
});

test("silence beyond two and a half pings is a dead stream", async () => {
  const heard = listen(server);
  await settle();
  await server.asked.confirm("e-0-0", { ping_interval_ms: 10_000 });
  await vi.advanceTimersByTimeAsync(24_000);
  await server.requests[0]!.send({ type: "ping" });
  await vi.advanceTimersByTimeAsync(24_999);
  expect(heard.client.state.status).toBe("open");
  await vi.advanceTimersByTimeAsync(1);
  expect(heard.client.state).toMatchObject({ status: "reconnecting", problem: { code: "silent" } });
  expect(server.requests[0]!.gone).toBe(true);
});

test("a gap is told, and so is an event that is no JSON", async () => {
  const heard = await opened();
  await server.requests[0]!.send({ type: "gap", reason: "expired", from: "a", to: "b" }, "b");
  await server.requests[0]!.write("data: {\n\n");
  expect(heard.gaps).toEqual([{ type: "gap", reason: "expired", from: "a", to: "b" }]);
  expect(heard.problems).toEqual([{ code: "answer", message: "no JSON" }]);
  expect(heard.client.state.status).toBe("open");
});

test("an answer that is no event stream is tried again", async () => {
  const heard = listen(server);
  await settle();
  await server.asked.json("<html>sign in to the airport</html>");
  expect(heard.client.state).toMatchObject({ status: "reconnecting", problem: { code: "answer" } });
});

test("what a listener throws is the page's, and the stream goes on", async () => {
  const heard = await opened();
  heard.client.on("job.done", () => {
    throw new Error("in the page");
  });
  // Under the stopped clock it comes out where time goes on.
  await expect(server.requests[0]!.send({ type: "job.done" }, "e-1-0")).rejects.toThrow("in the page");
  await server.requests[0]!.send(message(1), "e-2-0");
  expect(heard.messages).toEqual([1]);
});

test("closing it leaves nothing behind", async () => {
  const heard = await opened();
  const off = heard.client.on("new_message", () => heard.messages.push("again"));
  off();
  await server.requests[0]!.send(message(1), "e-1-0");
  heard.client.close();
  heard.client.close();
  heard.client.reconnect();
  await settle();
  expect(heard.messages).toEqual([1]);
  expect(heard.client.state).toEqual({ status: "closed", reason: "closed", problem: undefined });
  expect(server.open).toHaveLength(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("closing it while it waits, or asks for a token, leaves nothing behind either", async () => {
  const waiting = listen(server);
  await settle();
  await server.asked.fail();
  waiting.client.close();
  const asking = listen(server, { getToken: () => new Promise((resolve) => setTimeout(resolve, 1000, "token")) });
  await settle();
  asking.client.close();
  await vi.advanceTimersByTimeAsync(1000);
  expect(server.requests).toHaveLength(1);
  expect(vi.getTimerCount()).toBe(0);
});

test("back online, what looks open is replaced, and what waits is tried", async () => {
  const events = new EventTarget();
  const heard = listen(server, {}, { events });
  await settle();
  await server.asked.confirm();
  events.dispatchEvent(new Event("online"));
  await settle();
  await server.asked.confirm();
  expect(server.requests[0]!.gone).toBe(true);
  await server.requests[1]!.end();
  expect(heard.client.state.status).toBe("reconnecting");
  events.dispatchEvent(new Event("online"));
  await settle();
  await server.asked.confirm();
  expect(heard.client.state.status).toBe("open");
});

test("requests beside the stream carry the token, and renew it if it is refused", async () => {
  const heard = await opened();
  const answer = heard.client.json("/api/messages?chatId=1");
  await settle();
  expect(server.asked.url.href).toBe("https://notify.test/api/messages?chatId=1");
  await server.asked.refuse(401);
  expect(server.asked.token).not.toBe(server.requests[0]!.token);
  await server.asked.json({ success: true });
  await expect(answer).resolves.toEqual({ success: true });
});

test("events that came twice are told once, as far as ids are remembered", async () => {
  const heard = await opened();
  const [stream] = server.requests;
  await stream!.send(message(1), "e-1-0");
  await stream!.send(message(2), "e-2-0");
  await stream!.send(message(1), "e-1-0");
  await stream!.send(confirmation(), "e-1-0");
  expect(heard.messages).toEqual([1, 2]);
});
