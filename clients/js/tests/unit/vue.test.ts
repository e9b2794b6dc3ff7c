// @vitest-environment happy-dom
// The Vue composables in an application.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type App, createApp, defineComponent, h, nextTick, ref } from "vue";
import { notify, provideNotify, type SSEOptions, useNotify, useSSE } from "../../vue/index.js";
import { FakeServer, type Request_, settle } from "../support/fake.js";
import HOSTILE from "../support/hostile.json" with { type: "json" };

let server: FakeServer;
let apps: App[];

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  apps = [];
});

afterEach(() => {
  for (const app of apps) app.unmount();
  document.body.innerHTML = "";
  vi.useRealTimers();
});

const options = () => ({ url: "https://notify.test", maxAttempts: 10, environment: { fetch: server.fetch, random: () => 0.5, locks: undefined } });

async function mounted(setup: () => () => unknown, install = true): Promise<Element> {
  const root = document.body.appendChild(document.createElement("div"));
  const app = createApp(defineComponent({ setup: setup as never }));
  if (install) app.use(notify(options()));
  app.mount(root);
  apps.push(app);
  await drawn();
  return root;
}

async function drawn(what: () => Promise<unknown> = settle): Promise<void> {
  await what();
  await settle();
  await nextTick();
}

const streams = (): Request_[] => server.requests.filter(({ path, gone }) => path !== "/api/messages" && !gone);
const history = (): Request_ => server.requests.filter(({ path, answered }) => path === "/api/messages" && !answered).at(-1)!;
const said = (id: string, content: string): object => ({ id, sessionId: "s", content, messageType: "text" });

const stream = (target: SSEOptions | (() => SSEOptions)) => () => {
  const { messages, banner, events, loadOlder, hasOlder, reconnect } = useSSE(target);
  return () => [
    h("p", { id: "banner", onClick: reconnect }, banner.value),
    h("ol", messages.value.map(({ id, text }) => h("li", { key: id }, text))),
    h("i", String(events.value.length)),
    hasOlder.value ? h("button", { onClick: loadOlder }, "older") : undefined,
  ];
};

test("history, then what comes live, each once; markup is text", async () => {
  const root = await mounted(stream({ sessionId: "s" }));
  await drawn(() => streams()[0]!.confirm());
  await drawn(() => streams()[0]!.send({ type: "new_message", channel: "session:s", data: said("2", "two") }, "e-2-0"));
  await drawn(() => history().json({ data: { messages: [said("2", "two"), said("1", HOSTILE.join())], next: "1" } }));
  expect([...root.querySelectorAll("li")].map((line) => line.textContent)).toEqual([HOSTILE.join(), "two"]);
  expect(root.querySelector("img, script, a")).toBeNull();
  root.querySelector("button")!.click();
  await drawn();
  await drawn(() => history().json({ data: { messages: [said("0", "first")], next: null } }));
  expect(root.querySelectorAll("li")).toHaveLength(3);
  expect(root.querySelector("button")).toBeNull();
  expect(root.querySelector("i")!.textContent).toBe("1");
});

test("the banner says how the connection is doing", async () => {
  const root = await mounted(stream({ channel: "job:1" }));
  const banner = root.querySelector<HTMLElement>("#banner")!;
  expect(banner.textContent).toBe("connecting");
  await drawn(() => streams()[0]!.confirm());
  expect(banner.textContent).toBe("");
  await drawn(() => streams()[0]!.end());
  expect(banner.textContent).toBe("reconnecting 1/10");
  banner.click();
  await drawn();
  await drawn(() => streams().at(-1)!.confirm());
  expect(banner.textContent).toBe("");
});

test("another target is another connection", async () => {
  const session = ref("s");
  await mounted(stream(() => ({ sessionId: session.value })));
  await drawn(() => streams()[0]!.confirm());
  await drawn(() => history().json({ data: { messages: [said("1", "of s")], next: null } }));
  session.value = "t";
  await drawn(() => vi.advanceTimersByTimeAsync(200));
  expect(streams()).toHaveLength(1);
  expect(streams()[0]!.url.pathname).toBe("/sse/stream/session%3At");
  await drawn(() => streams()[0]!.confirm());
  expect(history().parameter("sessionId")).toBe("t");
  expect(document.querySelectorAll("li")).toHaveLength(0);
});

test("unmounted, it leaves nothing behind", async () => {
  await mounted(() => {
    const { state } = useNotify();
    return () => state.value.status;
  });
  await drawn(() => streams()[0]!.confirm());
  expect(document.body.textContent).toBe("open");
  apps.pop()!.unmount();
  await vi.advanceTimersByTimeAsync(200);
  expect(streams()).toHaveLength(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("a component can provide it, and without anybody it says what is missing", async () => {
  const child = defineComponent({
    setup() {
      const { state } = useNotify();
      return () => state.value.status;
    },
  });
  await mounted(() => {
    provideNotify(options());
    return () => h(child);
  }, false);
  expect(streams()).toHaveLength(1);
  vi.spyOn(console, "warn").mockImplementation(() => {});
  await expect(mounted(() => (useNotify(), () => ""), false)).rejects.toThrow("app.use(notify({ url }))");
});
