// @vitest-environment happy-dom
// The React components as their users see them.

import { act, cleanup, fireEvent, render, screen } from "@testing-library/react";
import { type ReactNode, StrictMode } from "react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { MessageStream, NotifyProvider, useEvent, useNotify, useSSE } from "../../react/index.js";
import { FakeServer, type Request_, settle } from "../support/fake.js";
import HOSTILE from "../support/hostile.json" with { type: "json" };

const MEDIA_TYPES = ["image", "audio", "video", "file"] as const;

let server: FakeServer;

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
});

afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

function Provider({ children, maxAttempts }: { children: ReactNode; maxAttempts?: number }): ReactNode {
  const environment = { fetch: server.fetch, random: () => 0.5, locks: undefined };
  return (
    <NotifyProvider url="https://notify.test" getToken={() => "secret"} environment={environment} maxAttempts={maxAttempts}>
      {children}
    </NotifyProvider>
  );
}

/** Lets everything happen that is due, and the page be drawn. */
async function drawn(what: () => Promise<unknown> = settle): Promise<void> {
  await act(async () => {
    await what();
    await settle();
  });
}

const streams = (): Request_[] => server.requests.filter(({ path, gone }) => path !== "/api/messages" && !gone);
const stream = (): Request_ => streams().at(-1)!;
const history = (): Request_ => server.requests.filter(({ path, answered }) => path === "/api/messages" && !answered).at(-1)!;
const answer = (...messages: object[]): Promise<void> => drawn(() => history().json({ success: true, data: { messages, next: null } }));

function said(id: string, content: string, more: object = {}): object {
  return { id, sessionId: "s", content, messageType: "text", senderName: "Ada", createdAt: "2026-11-20T10:00:00Z", ...more };
}

async function opened(node: ReactNode, maxAttempts?: number): Promise<void> {
  render(<Provider {...(maxAttempts !== undefined && { maxAttempts })}>{node}</Provider>);
  await drawn();
  await drawn(() => stream().confirm());
}

const shown = (): string[] => [...document.querySelectorAll("[data-message-id]")].map((line) => line.getAttribute("data-message-id")!);

test("a session's history comes first, then what comes live, each once", async () => {
  await opened(<MessageStream sessionId="s" />);
  expect(stream().url.pathname).toBe("/sse/stream/session%3As");
  expect(stream().token).toBe("secret");
  await drawn(() => stream().send({ type: "new_message", channel: "session:s", data: said("2", "both ways") }, "e-2-0"));
  await answer(said("2", "both ways"), said("1", "from before"));
  await drawn(() => stream().send({ type: "new_message", channel: "session:s", data: said("3", "live") }, "e-3-0"));
  expect(shown()).toEqual(["1", "2", "3"]);
  expect(screen.getByText("from before")).toBeTruthy();
  expect(screen.getAllByText("Ada")).toHaveLength(3);
});

test("every kind of message is shown by the element for it", async () => {
  await opened(<MessageStream sessionId="s" />);
  const media = MEDIA_TYPES.map((messageType) => said(messageType, `https://cdn.test/${messageType}.bin`, { messageType }));
  await answer(said("text", "two\nlines"), ...media);
  for (const [selector, type] of [["img", "image"], ["audio", "audio"], ["video", "video"]] as const) {
    const element = document.querySelector(`[data-message-id=${type}] ${selector}`)!;
    expect(element.getAttribute("src")).toBe(`https://cdn.test/${type}.bin`);
  }
  const link = document.querySelector("[data-message-id=file] a")!;
  expect(link.getAttribute("href")).toBe("https://cdn.test/file.bin");
  expect(link.getAttribute("rel")).toContain("noopener");
  expect(document.querySelector("[data-message-id=text] p")!.textContent).toBe("two\nlines");
});

test.each(["text", ...MEDIA_TYPES, "<img>"])("messages of type %s that mean harm are text", async (messageType) => {
  await opened(<MessageStream sessionId="s" />);
  const messages = HOSTILE.map((content, n) => said(String(n), content, { messageType, senderName: content, files: [content, { url: content }] }));
  await answer(...messages);
  await drawn(() => stream().send({ type: "new_message", channel: "session:s", data: { ...messages[0], id: "live" } }, "e-1-0"));
  expect(shown()).toHaveLength(HOSTILE.length + 1);
  for (const element of document.querySelectorAll("[data-message-id] *")) {
    expect(["ARTICLE", "HEADER", "B", "TIME", "P", "SMALL"]).toContain(element.tagName);
    for (const { name } of element.attributes) expect(name).not.toMatch(/^on|^src|^href/);
  }
  // Nothing is lost either: whoever is attacked shall see it.
  for (const [n, content] of HOSTILE.entries()) {
    expect(document.querySelector(`[data-message-id="${n}"] p`)!.textContent).toBe(content);
  }
});

test("the banner says how the connection is doing, and lets the reader try again", async () => {
  await opened(<MessageStream sessionId="s" />, 10);
  await answer();
  const banner = screen.getByRole("status", { hidden: true });
  expect(banner.hidden).toBe(true);
  await drawn(() => stream().end());
  for (const wait of [500, 1000]) {
    await drawn(() => vi.advanceTimersByTimeAsync(wait));
    await drawn(() => stream().fail());
  }
  expect(banner.hidden).toBe(false);
  expect(banner.textContent).toContain("reconnecting 3/10");
  fireEvent.click(screen.getByText("Try again"));
  await drawn();
  await drawn(() => stream().confirm("e-0-0", { recovered: true }));
  expect(banner.hidden).toBe(true);
  await drawn(() => stream().send({ type: "closing", reason: "disconnected", reconnect: false, retry_ms: 0 }));
  expect(banner.textContent).toContain("disconnected: disconnected");
});

test("words can be replaced", async () => {
  await opened(<MessageStream chatId={5} labels={{ empty: "还没有消息", reconnecting: (n) => `重新连接 ${n}` }} />);
  expect(stream().path).toBe("/events");
  await answer();
  expect(screen.getByText("还没有消息")).toBeTruthy();
  await drawn(() => stream().end());
  expect(screen.getByRole("status").textContent).toContain("重新连接 1");
});

test("older messages are loaded on demand, and a failure is told", async () => {
  await opened(<MessageStream sessionId="s" limit={1} />);
  await drawn(() => history().json({ success: true, data: { messages: [said("2", "new")], next: "2" } }));
  fireEvent.click(screen.getByText("Older messages"));
  await drawn();
  await drawn(() => history().refuse(503, "the database is away"));
  expect(screen.getByText(/the database is away/)).toBeTruthy();
  fireEvent.click(screen.getByText("Older messages"));
  await drawn();
  expect(history().parameter("before")).toBe("2");
  await answer(said("1", "old"));
  expect(shown()).toEqual(["1", "2"]);
  expect(screen.queryByText("Older messages")).toBeNull();
});

function Jobs({ onEvent }: { onEvent: (event: unknown) => void }): ReactNode {
  const { events, state } = useSSE({ channel: "job:1", keep: 2, onEvent });
  return (
    <p data-testid="jobs">
      {state.status} {events.map((event) => event.n as number).join()}
    </p>
  );
}

test("useSSE has the last events of a channel, and no history where there is none", async () => {
  const onEvent = vi.fn();
  await opened(<Jobs onEvent={onEvent} />);
  for (const n of [1, 2, 3]) await drawn(() => stream().send({ type: "job.progress", n }, `e-${n}-0`));
  await drawn(() => stream().send({ type: "ping" }));
  expect(screen.getByTestId("jobs").textContent).toBe("open 2,3");
  expect(onEvent).toHaveBeenCalledTimes(3);
  expect(server.requests.every(({ path }) => path !== "/api/messages")).toBe(true);
});

function Bell(): ReactNode {
  const { client, state } = useNotify();
  useEvent(client, "typing_started", (event) => void (document.title = `${event.user_id} types`));
  return <i>{state.status}</i>;
}

test("components that listen to the same share a connection, and the last one closes it", async () => {
  const all = (
    <StrictMode>
      <Bell />
      <Bell />
      <MessageStream chatId={1} />
    </StrictMode>
  );
  await opened(all);
  expect(streams().filter(({ answered }) => answered)).toHaveLength(1);
  await drawn(() => stream().send({ type: "typing_started", chat_id: 1, user_id: 3 }));
  expect(document.title).toBe("3 types");
  cleanup();
  await vi.advanceTimersByTimeAsync(200);
  expect(streams()).toHaveLength(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("another session is another connection and another history", async () => {
  const page = (session: string): ReactNode => (
    <Provider>
      <MessageStream sessionId={session} />
    </Provider>
  );
  const { rerender } = render(page("s"));
  await drawn();
  await drawn(() => stream().confirm());
  await answer(said("1", "of s"));
  rerender(page("t"));
  await drawn(() => vi.advanceTimersByTimeAsync(200));
  expect(streams()).toHaveLength(1);
  expect(stream().url.pathname).toBe("/sse/stream/session%3At");
  await drawn(() => stream().confirm());
  expect(history().parameter("sessionId")).toBe("t");
  expect(shown()).toEqual([]);
});

test("a component that makes way for another one that listens to the same leaves it the connection", async () => {
  const page = (room: number): ReactNode => (
    <Provider>
      <Bell key={room} />
    </Provider>
  );
  const { rerender } = render(page(1));
  await drawn();
  await drawn(() => stream().confirm());
  rerender(page(2));
  await drawn(() => vi.advanceTimersByTimeAsync(10_000));
  expect(server.requests).toHaveLength(1);
  expect(screen.getByText("open")).toBeTruthy();
});

test("unmounted while it connects or loads, it leaves nothing behind and says nothing", async () => {
  const errors = vi.spyOn(console, "error");
  const { unmount } = render(<Provider><MessageStream sessionId="s" /></Provider>);
  await drawn();
  const connecting = stream();
  unmount();
  await vi.advanceTimersByTimeAsync(200);
  expect(connecting.gone).toBe(true);
  await opened(<MessageStream sessionId="s" />);
  const loading = history();
  cleanup();
  await vi.advanceTimersByTimeAsync(200);
  await loading.json({ success: true, data: { messages: [said("1", "late")], next: null } });
  expect(streams()).toHaveLength(0);
  expect(vi.getTimerCount()).toBe(0);
  expect(errors).not.toHaveBeenCalled();
});

test("without a provider it says what is missing", () => {
  vi.spyOn(console, "error").mockImplementation(() => {});
  expect(() => render(<MessageStream sessionId="s" />)).toThrow("NotifyProvider");
});
