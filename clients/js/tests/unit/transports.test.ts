// The native EventSource with tickets, and long polling where streams are held back.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { confirmation, FakeEventSource, FakeServer, listen, message, settle, tokens } from "../support/fake.js";

let server: FakeServer;

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  FakeEventSource.made = [];
});

afterEach(() => {
  vi.useRealTimers();
});

const native = { EventSource: FakeEventSource as unknown as typeof EventSource };
const POLLED = { events: [], last_id: null, gap: false };

test("a native EventSource is opened with a ticket, and no token stands in its address", async () => {
  const heard = listen(server, { getToken: () => "secret", transport: "eventsource", channels: ["job:1"] }, native);
  await settle();
  expect(server.asked).toMatchObject({ method: "POST", path: "/events/ticket", token: "secret" });
  await server.asked.json({ ticket: "once", expires_in: 30 });
  const source = FakeEventSource.last;
  expect(source.url).toBe("https://notify.test/sse/stream/job%3A1?named=false&ticket=once");
  await source.send(confirmation(), "e-0-0");
  await source.send(message(1), "e-1-0");
  await source.send({ type: "ping" });
  expect(heard.client.state).toEqual({ status: "open", transport: "eventsource" });
  expect(heard.messages).toEqual([1]);
});

test("it never comes back by itself, with the same ticket: after a failure fetch finds out why", async () => {
  const heard = listen(server, { getToken: tokens(), transport: "eventsource" }, native);
  await settle();
  await server.asked.json({ ticket: "one" });
  await FakeEventSource.last.send(confirmation(), "e-7-0");
  await FakeEventSource.last.break();
  expect(FakeEventSource.last.closed).toBe(true);
  expect(heard.client.state.status).toBe("reconnecting");
  await vi.advanceTimersByTimeAsync(500);
  expect(server.asked).toMatchObject({ method: "GET", path: "/events" });
  expect(server.asked.parameter("last_event_id")).toBe("e-7-0");
  await server.asked.refuse(503);
  await vi.advanceTimersByTimeAsync(1000);
  await server.asked.json({ ticket: "two" });
  expect(FakeEventSource.last.url).toContain("last_event_id=e-7-0&ticket=two");
  await FakeEventSource.last.send(confirmation(), "e-7-0");
  expect(heard.client.state).toEqual({ status: "open", transport: "eventsource" });
});

test("a cookie needs no ticket", async () => {
  listen(server, { transport: "eventsource", withCredentials: true }, native);
  await settle();
  expect(server.requests).toHaveLength(0);
  expect(FakeEventSource.last.init).toEqual({ withCredentials: true });
});

test("no data within 15 s: it polls, from the last id, and says so", async () => {
  const heard = listen(server, { getToken: tokens(), lastEventId: "e-1-0" });
  await settle();
  const held = await server.asked.stream();
  await vi.advanceTimersByTimeAsync(14_999);
  expect(server.requests).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1);
  expect(held.gone).toBe(true);
  expect(server.asked).toMatchObject({ path: "/events/poll" });
  expect(server.asked.parameter("after")).toBe("e-1-0");
  expect(server.asked.parameter("wait")).toBe("0");
  await server.asked.json({ events: [message(2)], last_id: "e-2-0", gap: false });
  expect(heard.client.state).toEqual({ status: "polling" });
  expect(heard.messages).toEqual([2]);
  expect(server.asked.parameter("after")).toBe("e-2-0");
  expect(server.asked.parameter("wait")).toBe("25");
  await server.asked.json({ events: [message(3), message(4)], last_id: "e-4-0", gap: true });
  expect(heard.messages).toEqual([2, 3, 4]);
  expect(heard.gaps).toEqual([{ type: "gap", reason: "unknown", from: "e-2-0", to: "e-4-0" }]);
  expect(heard.client.lastEventId).toBe("e-4-0");
});

test("headers that never come are held back, too, and channels are polled as they are streamed", async () => {
  listen(server, { channels: ["job:1", "job:2"] });
  await settle();
  await vi.advanceTimersByTimeAsync(15_000);
  expect(server.asked.path).toBe("/events/poll");
  expect(server.asked.parameter("channels")).toBe("job:1,job:2");
});

test("it goes back to streaming when a stream is confirmed in time, without loss or double", async () => {
  const heard = listen(server, { getToken: tokens() });
  await settle();
  await vi.advanceTimersByTimeAsync(15_000);
  await server.asked.json({ events: [], last_id: "e-1-0", gap: false });
  const polling = () => server.requests.filter((request) => request.path === "/events/poll" && !request.answered && !request.gone);
  const probes = () => server.requests.slice(1).filter((request) => request.path === "/api/sse/test");
  const pass = async (seconds: number, events: object[] = [], last_id = "e-1-0") => {
    await vi.advanceTimersByTimeAsync(seconds * 1000);
    await polling()[0]!.json({ events, last_id, gap: false });
  };
  await pass(25);
  expect(probes()).toHaveLength(0);
  await pass(5);
  expect(probes()).toHaveLength(1);
  // Held back still, and then all at once: next in twice the time.
  await pass(5, [message(2)], "e-2-0");
  await probes()[0]!.stream();
  await probes()[0]!.write([1, 2, 3, 4, 5].map((number) => `data: {"type":"test","number":${number}}\n\n`).join(""));
  expect(probes()[0]!.gone).toBe(true);
  await pass(10, [], "e-2-0");
  expect(heard.client.state.status).toBe("polling");
  await pass(25, [], "e-2-0");
  await pass(24, [], "e-2-0");
  expect(probes()).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(probes()).toHaveLength(2);
  await probes()[1]!.stream();
  await probes()[1]!.send({ type: "test", number: 1 });
  await vi.advanceTimersByTimeAsync(1_000);
  await probes()[1]!.send({ type: "test", number: 2 });
  expect(probes()[1]!.gone).toBe(true);
  expect(polling()).toHaveLength(0);
  expect(server.asked).toMatchObject({ path: "/events" });
  expect(server.asked.parameter("last_event_id")).toBe("e-2-0");
  await server.asked.confirm("e-2-0");
  await server.requests.at(-1)!.send(message(3), "e-3-0");
  expect(heard.messages).toEqual([2, 3]);
  expect(heard.states.map((state) => state.status)).toEqual(["connecting", "polling", "open"]);
});

test("where polling does not work either it is the network: backoff, and streams again", async () => {
  const heard = listen(server);
  await settle();
  await vi.advanceTimersByTimeAsync(15_000);
  await server.asked.fail();
  expect(heard.client.state).toMatchObject({ status: "reconnecting", problem: { code: "network" } });
  await vi.advanceTimersByTimeAsync(500);
  expect(server.asked.path).toBe("/events");
});

test("where polling has worked it goes on with polling after a failure", async () => {
  const heard = listen(server);
  await settle();
  await vi.advanceTimersByTimeAsync(15_000);
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  await server.asked.fail();
  expect(heard.client.state).toMatchObject({ status: "reconnecting", attempt: 1 });
  await vi.advanceTimersByTimeAsync(1000);
  expect(server.asked.path).toBe("/events/poll");
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  expect(heard.client.state.status).toBe("polling");
});

test("a poll that hangs is given up", async () => {
  const heard = listen(server, { transport: "poll" });
  await settle();
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  await vi.advanceTimersByTimeAsync(40_000);
  expect(heard.client.state).toMatchObject({ status: "reconnecting", problem: { code: "silent" } });
});

test("what is polled has its ids, and what came twice is told once", async () => {
  const heard = listen(server, { transport: "poll" });
  const ids: unknown[] = [];
  heard.client.on("new_message", (_, id) => ids.push(id));
  await settle();
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  await server.asked.json({ events: [message(2), message(3)], ids: ["e-2-0", null], last_id: "e-2-0", gap: false });
  await server.asked.json({ events: [message(2), message(4)], ids: ["e-2-0", "e-4-0"], last_id: "e-4-0", gap: false });
  expect(heard.messages).toEqual([2, 3, 4]);
  expect(ids).toEqual(["e-2-0", undefined, "e-4-0"]);
});

test("polls that come back empty at once are not repeated in a loop", async () => {
  const heard = listen(server, { transport: "poll" });
  await settle();
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  expect(server.requests).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(1000);
  expect(server.requests).toHaveLength(3);
  expect(heard.states.map((state) => state.status)).toEqual(["connecting", "polling"]);
});

test("a refused token is renewed while polling, too", async () => {
  const heard = listen(server, { getToken: tokens(), transport: "poll" });
  await settle();
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  const [first] = server.requests;
  await server.asked.refuse(401);
  expect(server.asked.token).not.toBe(first!.token);
  await server.asked.json({ events: [message(1)], last_id: "e-2-0", gap: false });
  expect(heard.messages).toEqual([1]);
});

test("streams that are confirmed and then fall silent, twice in a row, are held back, too", async () => {
  const heard = listen(server);
  await settle();
  await server.asked.confirm("e-0-0", { ping_interval_ms: 10_000 });
  await vi.advanceTimersByTimeAsync(25_000);
  expect(heard.client.state.status).toBe("reconnecting");
  await vi.advanceTimersByTimeAsync(500);
  await server.asked.confirm("e-0-0", { ping_interval_ms: 10_000 });
  await vi.advanceTimersByTimeAsync(25_000);
  expect(server.asked.path).toBe("/events/poll");
});

test("closing it while it polls leaves nothing behind", async () => {
  const heard = listen(server);
  await settle();
  await vi.advanceTimersByTimeAsync(15_000);
  await server.asked.json({ ...POLLED, last_id: "e-1-0" });
  await vi.advanceTimersByTimeAsync(30_000);
  heard.client.close();
  await settle();
  expect(server.open.filter((request) => !request.answered)).toHaveLength(0);
  expect(vi.getTimerCount()).toBe(0);
});
