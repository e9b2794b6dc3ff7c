import { type ReactNode } from "react";
import { expectTypeOf, test } from "vitest";
import type { ComputedRef } from "vue";
import type { Client, NotifyEvent, State } from "@notify-server/client";
import { type Message, MessageStream, NotifyProvider, useEvent, useNotify, useSSE } from "@notify-server/client/react";
import { notify, useSSE as useVue } from "@notify-server/client/vue";

test("React: a target, and what is known of it", () => {
  expectTypeOf(useSSE).toBeCallableWith({ sessionId: "s" });
  expectTypeOf(useSSE).toBeCallableWith({ channel: "job:1", keep: 10, onEvent: (event: NotifyEvent) => void event.type });
  expectTypeOf<ReturnType<typeof useSSE>["messages"]>().toEqualTypeOf<readonly Message[]>();
  expectTypeOf<ReturnType<typeof useNotify>["state"]>().toEqualTypeOf<State>();
  const Bell = (): ReactNode => {
    const { client } = useNotify();
    expectTypeOf(client).toEqualTypeOf<Client | undefined>();
    useEvent(client, "new_message", (event) => expectTypeOf(event.message.content).toEqualTypeOf<string>());
    return <MessageStream chatId={1} labels={{ retry: "Encore" }} renderMessage={({ text }) => text} />;
  };
  expectTypeOf(Bell).returns.toEqualTypeOf<ReactNode>();
  // @ts-expect-error a session is named by text
  void (<MessageStream sessionId={1} />);
  // @ts-expect-error an address is needed
  void (<NotifyProvider />);
});

test("Vue: the same as refs", () => {
  expectTypeOf<ReturnType<typeof useVue>["messages"]>().toEqualTypeOf<ComputedRef<readonly Message[]>>();
  expectTypeOf(useVue).toBeCallableWith(() => ({ chatId: 5 }));
  expectTypeOf(notify).toBeCallableWith({ url: "https://a.test", maxAttempts: 10 });
  // @ts-expect-error there is no such target
  useVue({ room: 5 });
});
