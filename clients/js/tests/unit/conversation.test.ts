// History and stream joined. The history is a stub of the message API: newest first, pages by `before`, `next` with the last.

import fc from "fast-check";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Conversation } from "../../src/conversation.js";
import { FakeServer, type Heard, listen, type Request_, settle } from "../support/fake.js";

let server: FakeServer;

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
});

afterEach(() => {
  vi.useRealTimers();
});

const BASE = "https://notify.test/";

function history(ids: number[], limit = 50, before = Infinity): object {
  const older = ids.filter((id) => id < before).reverse();
  const page = older.slice(0, limit);
  const messages = page.map(said);
  return { success: true, data: { messages, next: older.length > limit ? page.at(-1) : null } };
}

function said(id: number): object {
  return { id, chat_id: 1, content: `number ${id}`, created_at: new Date(1.8e12 + id * 60_000).toISOString() };
}

function live(id: number): object {
  return { type: "new_message", chat_id: 1, message: said(id) };
}

const asked = (): Request_[] => server.requests.filter(({ path, answered, gone }) => path === "/api/messages" && !answered && !gone);
const ids = (conversation: Conversation): number[] => conversation.snapshot.messages.map(({ id }) => Number(id));

async function opened(limit = 50): Promise<{ heard: Heard; conversation: Conversation; stream: Request_ }> {
  const heard = listen(server);
  const conversation = new Conversation(heard.client, { chatId: 1 }, { limit, base: BASE });
  conversation.start();
  await settle();
  const stream = await server.requests[0]!.confirm();
  return { heard, conversation, stream };
}

test("history is asked for when the stream stands, and what comes meanwhile is neither lost nor doubled", async () => {
  const heard = listen(server);
  const conversation = new Conversation(heard.client, { chatId: 1 }, { base: BASE });
  conversation.start();
  await settle();
  expect(asked()).toHaveLength(0);
  const stream = await server.requests[0]!.confirm();
  expect(conversation.snapshot.loading).toBe(true);
  await stream.send(live(3), "e-3-0");
  await stream.send(live(4), "e-4-0");
  const [request] = asked();
  expect(request!.url.search).toBe("?chatId=1&limit=50");
  await request!.json(history([1, 2, 3]));
  await stream.send(live(5), "e-5-0");
  expect(ids(conversation)).toEqual([1, 2, 3, 4, 5]);
  expect(conversation.snapshot).toMatchObject({ loading: false, hasOlder: false, problem: undefined });
});

test("older pages are asked for until there are none", async () => {
  const { conversation, stream } = await opened(2);
  await asked()[0]!.json(history([1, 2, 3, 4, 5], 2));
  expect(ids(conversation)).toEqual([4, 5]);
  void conversation.loadOlder();
  void conversation.loadOlder();
  await settle();
  expect(asked()).toHaveLength(1);
  expect(asked()[0]!.parameter("before")).toBe("4");
  await stream.send(live(6), "e-6-0");
  await asked()[0]!.json(history([1, 2, 3, 4, 5], 2, 4));
  expect(ids(conversation)).toEqual([2, 3, 4, 5, 6]);
  void conversation.loadOlder();
  await settle();
  await asked()[0]!.json(history([1, 2, 3, 4, 5], 2, 2));
  expect(ids(conversation)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(conversation.snapshot.hasOlder).toBe(false);
});

test("after a gap the newest page is joined; where it does not reach, what is older makes way", async () => {
  const { conversation, stream } = await opened(3);
  await asked()[0]!.json(history([1, 2, 3], 3));
  await stream.send({ type: "gap", reason: "expired", from: null, to: null });
  await asked()[0]!.json(history([1, 2, 3, 4], 3));
  expect(ids(conversation)).toEqual([1, 2, 3, 4]);
  await stream.send({ type: "gap", reason: "expired", from: null, to: null });
  await stream.send(live(10), "e-10-0");
  await asked()[0]!.json(history([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 3));
  expect(ids(conversation)).toEqual([8, 9, 10]);
  expect(conversation.snapshot.hasOlder).toBe(true);
});

test("a reconnection that recovered asks for nothing, one that did not asks again", async () => {
  const { stream } = await opened();
  await asked()[0]!.json(history([1]));
  await stream.end();
  await vi.advanceTimersByTimeAsync(500);
  await server.asked.confirm("e-0-0", { recovered: true });
  expect(asked()).toHaveLength(0);
  await server.requests.at(-1)!.end();
  await vi.advanceTimersByTimeAsync(1000);
  await server.requests.at(-1)!.confirm("e-0-0", { recovered: false });
  expect(asked()).toHaveLength(1);
});

test("a gap while history is loading asks once more", async () => {
  const { conversation, stream } = await opened();
  const [first] = asked();
  await stream.send({ type: "gap", reason: "overflow", from: null, to: null });
  await first!.json(history([1]));
  expect(asked()).toHaveLength(1);
  await asked()[0]!.json(history([1, 2]));
  expect(ids(conversation)).toEqual([1, 2]);
});

test("without a stream there is history at least, and a failure is shown and mended", async () => {
  const heard = listen(server);
  const conversation = new Conversation(heard.client, { sessionId: "a b" }, { base: BASE });
  conversation.start();
  await settle();
  await server.requests[0]!.refuse(503);
  expect(asked()[0]!.url.search).toBe("?sessionId=a+b&limit=50");
  await asked()[0]!.refuse(503, "the database is not available");
  expect(conversation.snapshot).toMatchObject({ loading: false, problem: { message: "the database is not available" } });
  await vi.advanceTimersByTimeAsync(500);
  await server.requests.at(-1)!.confirm();
  await asked()[0]!.json({ success: true, data: { messages: [{ id: "m", content: "x" }], next: null } });
  expect(conversation.snapshot).toMatchObject({ problem: undefined, messages: [{ id: "m" }] });
});

test("history that was loaded while nothing stood is asked for again when polling begins", async () => {
  const heard = listen(server);
  const conversation = new Conversation(heard.client, { chatId: 1 }, { base: BASE });
  conversation.start();
  await settle();
  await server.requests[0]!.fail();
  await asked()[0]!.json(history([1]));
  // The next stream is held back, and what comes meanwhile comes nowhere.
  await vi.advanceTimersByTimeAsync(500 + 15_000);
  const poll = server.requests.at(-1)!;
  expect(poll.path).toBe("/events/poll");
  await poll.json({ events: [], ids: [], last_id: "e-2-0", gap: false });
  await asked()[0]!.json(history([1, 2]));
  expect(ids(conversation)).toEqual([1, 2]);
  await server.requests.at(-1)!.fail();
  await vi.advanceTimersByTimeAsync(1000);
  await server.requests.findLast(({ path }) => path === "/events/poll")!.json({ events: [], ids: [], last_id: "e-2-0", gap: false });
  // From there on the polls go on from one another.
  expect(asked()).toHaveLength(0);
});

test("what is no longer kept can be loaded again; what was loaded by hand is kept", async () => {
  const all = Array.from({ length: 2_100 }, (_, n) => n + 1);
  const { conversation, stream } = await opened(50);
  await asked()[0]!.json(history(all.slice(0, 60)));
  for (const id of all.slice(60)) await stream.send(live(id), `e-${id}-0`);
  expect(ids(conversation)).toEqual(all.slice(100));
  expect(conversation.snapshot.hasOlder).toBe(true);
  void conversation.loadOlder();
  await settle();
  expect(asked()[0]!.parameter("before")).toBe("101");
  await asked()[0]!.json(history(all, 50, 101));
  expect(ids(conversation)).toEqual(all.slice(50));
  await stream.send(live(2_101), "e-2101-0");
  expect(ids(conversation)).toEqual([...all.slice(51), 2_101]);
});

test("where the history is ahead of the stream, what comes late takes its place", async () => {
  const { conversation, stream } = await opened(2);
  await asked()[0]!.json(history([1, 2, 3, 4, 5], 2));
  for (const id of [2, 3, 4, 5, 6]) await stream.send(live(id), `e-${id}-0`);
  expect(ids(conversation)).toEqual([2, 3, 4, 5, 6]);
  void conversation.loadOlder();
  await settle();
  await asked()[0]!.json(history([1, 2, 3, 4, 5], 2, 4));
  expect(ids(conversation)).toEqual([2, 3, 4, 5, 6]);
  void conversation.loadOlder();
  await settle();
  await asked()[0]!.json(history([1, 2, 3, 4, 5], 2, 2));
  expect(ids(conversation)).toEqual([1, 2, 3, 4, 5, 6]);
});

test("deletions are understood in the spelling of channel events, too", async () => {
  const { conversation, stream } = await opened();
  await asked()[0]!.json(history([1, 2, 3]));
  await stream.send({ type: "message_deleted", channel: "chat:1", data: { id: 1 } }, "e-1-0");
  await stream.send({ type: "message_deleted", channel: "chat:1", data: { message_id: "2" } }, "e-2-0");
  await stream.send({ type: "message_deleted", channel: "chat:1", data: {} }, "e-3-0");
  await stream.send({ type: "message_deleted", channel: "chat:7", data: { id: 3 } }, "e-4-0");
  expect(ids(conversation)).toEqual([3]);
});

test("edits and deletions hold, also against a page that was asked for before", async () => {
  const { conversation, stream } = await opened();
  const page = history([1, 2, 3]);
  await asked()[0]!.json(page);
  await stream.send({ type: "gap", reason: "epoch", from: null, to: null });
  await stream.send({ type: "message_deleted", chat_id: 1, message_id: 2 }, "e-1-0");
  await stream.send({ type: "message_deleted", chat_id: 9, message_id: 1 }, "e-2-0");
  await stream.send({ type: "message_edited", chat_id: 1, message: { id: 3, chat_id: 1, content: "corrected" } }, "e-3-0");
  await asked()[0]!.json(page);
  expect(conversation.snapshot.messages).toMatchObject([{ id: "1", text: "number 1" }, { id: "3", text: "corrected", edited: true }]);
});

test("what was taken back while nobody listened is gone after the next page", async () => {
  const { conversation, stream } = await opened();
  await asked()[0]!.json(history([1, 2, 3]));
  await stream.send({ type: "gap", reason: "epoch", from: null, to: null });
  await asked()[0]!.json(history([1, 3]));
  expect(ids(conversation)).toEqual([1, 3]);
});

test("stopped, it takes nothing more", async () => {
  const { conversation, stream } = await opened();
  conversation.stop();
  await stream.send(live(1), "e-1-0");
  await asked()[0]!.json(history([1]));
  expect(ids(conversation)).toEqual([]);
});

test("however messages, losses and answers fall together, what is shown has no hole and no double", async () => {
  const step = fc.constantFrom("live", "live", "lost", "gap", "answer", "older");
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.integer({ min: 1, max: 4 }), async (steps, limit) => {
      server = new FakeServer();
      const { conversation, stream, heard } = await opened(limit);
      const all: number[] = [];
      let missing = false;
      const answer = async (): Promise<void> => {
        const [request] = asked();
        const before = request!.parameter("before");
        await request!.json(history(all, limit, before === null ? Infinity : Number(before)));
      };
      for (const step of steps) {
        if (step === "live" && !missing) {
          all.push(all.length + 1);
          await stream.send(live(all.length), `e-${all.length}-0`);
        } else if (step === "lost") {
          // Between a loss and its gap the stream brings nothing.
          all.push(all.length + 1);
          missing = true;
        } else if (step === "gap") {
          missing = false;
          await stream.send({ type: "gap", reason: "overflow", from: null, to: null });
        } else if (step === "answer" && asked().length) await answer();
        else if (step === "older") {
          void conversation.loadOlder();
          await settle();
        }
      }
      await stream.send({ type: "gap", reason: "overflow", from: null, to: null });
      while (asked().length) await answer();
      // The newest part, without a hole; all of it where nothing older is promised.
      const shown = ids(conversation);
      expect(shown).toEqual(all.slice(all.length - shown.length));
      if (!conversation.snapshot.hasOlder) expect(shown).toEqual(all);
      heard.client.close();
    }),
    { numRuns: 200 },
  );
});

test("also where messages are committed in another order than they were written in", async () => {
  const step = fc.constantFrom("live", "live", "slow", "commit", "lost", "gap", "answer", "older");
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 4 }), async (steps, limit) => {
      server = new FakeServer();
      const { conversation, stream, heard } = await opened(limit);
      const committed: number[] = [];
      const slow: number[] = [];
      let written = 0;
      let missing = false;
      const commit = async (id: number): Promise<void> => {
        committed.push(id);
        committed.sort((a, b) => a - b);
        if (!missing) await stream.send(live(id), `e-${id}-0`);
      };
      const answer = async (): Promise<void> => {
        const [request] = asked();
        const before = request!.parameter("before");
        await request!.json(history(committed, limit, before === null ? Infinity : Number(before)));
      };
      const older = async (): Promise<void> => {
        void conversation.loadOlder();
        await settle();
      };
      for (const step of steps) {
        // Nothing is committed later than a minute after it was written.
        if (["live", "lost", "slow"].includes(step)) while (slow[0]! < written) await commit(slow.shift()!);
        if (step === "live" || step === "lost") {
          missing ||= step === "lost";
          await commit(++written);
        } else if (step === "slow") slow.push(++written);
        else if (step === "commit" && slow.length) await commit(slow.shift()!);
        else if (step === "gap") {
          missing = false;
          await stream.send({ type: "gap", reason: "overflow", from: null, to: null });
        } else if (step === "answer" && asked().length) await answer();
        else if (step === "older") await older();
      }
      missing = false;
      await stream.send({ type: "gap", reason: "overflow", from: null, to: null });
      while (asked().length) await answer();
      for (let n = 0; conversation.snapshot.hasOlder && n < 100; n++) {
        await older();
        while (asked().length) await answer();
      }
      const shown = ids(conversation);
      expect(shown).toEqual(committed);
      heard.client.close();
    }),
    { numRuns: 300 },
  );
});
