// @vitest-environment node
// Rendered on a server: it says that it connects, and asks nobody for anything.

import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { createSSRApp, defineComponent, h } from "vue";
import { renderToString as renderVue } from "vue/server-renderer";
import { MessageStream, NotifyProvider, useNotify as useReact } from "../../react/index.js";
import { notify, useNotify, useSSE } from "../../vue/index.js";

const fetched = vi.fn();

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  expect(fetched).not.toHaveBeenCalled();
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const options = { url: "/notify", getToken: fetched, environment: { fetch: fetched } };

test("React", () => {
  const Status = () => <i>{useReact().state.status}</i>;
  const html = renderToString(
    <NotifyProvider {...options}>
      <MessageStream sessionId="s" />
      <Status />
    </NotifyProvider>,
  );
  expect(html).toContain("<i>connecting</i>");
  expect(html).toContain('data-state="connecting"');
});

test("Vue", async () => {
  const page = defineComponent(() => {
    const { banner, messages } = useSSE({ chatId: 1 });
    const { state } = useNotify();
    return () => h("i", `${banner.value} ${messages.value.length} ${state.value.status}`);
  });
  expect(await renderVue(createSSRApp(page).use(notify(options)))).toBe("<i>connecting 0 connecting</i>");
  await vi.advanceTimersByTimeAsync(0);
});
