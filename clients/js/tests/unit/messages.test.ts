import fc from "fast-check";
import { expect, test } from "vitest";
import { messageOf, safeUrl, toMessage } from "../../src/messages.js";
import HOSTILE from "../support/hostile.json" with { type: "json" };

const MEDIA_TYPES = ["image", "audio", "video", "file"] as const;
const BASE = "https://notify.test/below/";

test.each([...HOSTILE, 'https://"/', "https://a'b.test/"])("%j is no address", (address) => {
  expect(safeUrl(address, BASE)).toBeUndefined();
});

test.each([
  ["https://cdn.test/a.png", "https://cdn.test/a.png"],
  ["/files/1/ab/cd.png", "https://notify.test/files/1/ab/cd.png"],
  [' https://cdn.test/"><script> ', "https://cdn.test/%22%3E%3Cscript%3E"],
])("%j is one", (address, whole) => {
  expect(safeUrl(address, BASE)).toBe(whole);
});

test("whatever is given, an address is http or https and has no markup", () => {
  const text = fc.oneof(fc.string({ unit: "binary" }), fc.webUrl(), fc.constantFrom(...HOSTILE), fc.string().map((s) => `/${s}`));
  fc.assert(fc.property(text, (address) => {
    const url = safeUrl(address, BASE);
    if (url !== undefined) {
      expect(["http:", "https:"]).toContain(new URL(url).protocol);
      expect(url).not.toMatch(/["<>\s]/);
    }
  }));
});

test("a message of a session and one of a chat have one form", () => {
  const ofSession = {
    id: "msg-1770695257929", sessionId: "s-1", content: "SSE测试消息", senderType: "user", senderId: "test-user", senderName: "测试用户",
    messageType: "message", createdAt: "2026-02-10T11:47:37.931918+08:00",
  };
  expect(toMessage(ofSession, BASE)).toEqual({
    id: "msg-1770695257929", text: "SSE测试消息", attachments: [], sender: { id: "test-user", name: "测试用户" },
    createdAt: "2026-02-10T03:47:37.931Z", edited: false,
  });
  const ofChat = { id: 7, chat_id: 5, sender_id: 2, content: "hello", files: ["/files/1/cd.png", "javascript:alert(1)"], created_at: "2025-07-30T15:10:00.000Z" };
  expect(toMessage(ofChat, BASE)).toEqual({
    id: "7", text: "hello", attachments: [{ kind: "image", url: "https://notify.test/files/1/cd.png", name: "cd.png" }],
    sender: { id: "2", name: undefined }, createdAt: "2025-07-30T15:10:00.000Z", edited: false,
  });
});

test.each(MEDIA_TYPES)("a message of type %s has its content as address, and a hostile one as text", (messageType) => {
  const url = "https://cdn.test/x/report%20%E2%80%AEgnp.exe";
  expect(toMessage({ id: 1, content: url, messageType }, BASE)).toMatchObject({ text: "", attachments: [{ kind: messageType, url, name: "report gnp.exe" }] });
  for (const content of HOSTILE) {
    expect(toMessage({ id: 1, content, messageType }, BASE)).toMatchObject({ text: content, attachments: [] });
  }
});

test("what is no message is none, whatever it is", () => {
  for (const said of [null, 7, "x", [], {}, { id: 1 }, { id: {}, content: "x" }, { content: "x" }, { id: "", content: "x" }]) {
    expect(toMessage(said, BASE)).toBeUndefined();
  }
  fc.assert(fc.property(fc.anything(), (said) => void toMessage(said, BASE)));
});

test("an event brings its message to its place only", () => {
  const message = { id: 7, chat_id: 5, content: "hello" };
  for (const event of [
    { type: "new_message", chat_id: 5, message },
    { type: "new_message", chat_id: "5", message },
    { type: "new_message", channel: "chat:5", data: message },
  ]) {
    expect(messageOf(event, { chatId: 5 }, BASE)?.id).toBe("7");
    expect(messageOf(event, { chatId: 6 }, BASE)).toBeUndefined();
    expect(messageOf(event, { sessionId: "5" }, BASE)).toBeUndefined();
  }
  const inSession = { id: "m", sessionId: "s", content: "hello" };
  for (const event of [{ type: "new_message", channel: "session:s", data: inSession }, { type: "message", ...inSession }]) {
    expect(messageOf(event, { sessionId: "s" }, BASE)?.id).toBe("m");
    expect(messageOf(event, { sessionId: "other" }, BASE)).toBeUndefined();
  }
  expect(messageOf({ type: "typing_started", chat_id: 5 }, { chatId: 5 }, BASE)).toBeUndefined();
});
