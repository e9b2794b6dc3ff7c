import { expectTypeOf, test } from "vitest";
import { type ChannelEvent, type Client, connect, describe, type Id, type NotifyEvent, type Options, type State } from "@notify-server/client";

declare module "@notify-server/client" {
  interface Events {
    "job.progress": ChannelEvent<{ percent: number }>;
  }
}

const client = {} as Client;

test("known events have their fields", () => {
  client.on("new_message", (event, id) => {
    expectTypeOf(event.chat_id).toEqualTypeOf<Id>();
    expectTypeOf(event.message.content).toEqualTypeOf<string>();
    expectTypeOf(id).toEqualTypeOf<string | undefined>();
  });
  client.on("typing_started", (event) => expectTypeOf(event.user_id).toEqualTypeOf<Id>());
  client.onGap((gap) => expectTypeOf(gap.reason).toEqualTypeOf<"expired" | "epoch" | "overflow" | "unknown">());
});

test("one's own events are known once they are declared, others are channel events", () => {
  client.on("job.progress", (event) => expectTypeOf(event.data?.percent).toEqualTypeOf<number | undefined>());
  client.on("job.done", (event) => expectTypeOf(event).toEqualTypeOf<ChannelEvent>());
  client.on("*", (event) => expectTypeOf(event).toEqualTypeOf<NotifyEvent>());
});

test("a state tells what it has", () => {
  expectTypeOf<Extract<State, { status: "reconnecting" }>["attempt"]>().toEqualTypeOf<number>();
  expectTypeOf(describe).parameter(0).toEqualTypeOf<State>();
});

test("what can't be is no option", () => {
  expectTypeOf(connect).toBeCallableWith({ url: "https://a.test", getToken: async () => "token" });
  expectTypeOf<Options["transport"]>().toEqualTypeOf<"fetch" | "eventsource" | "poll" | undefined>();
  // @ts-expect-error an address is needed
  connect({ getToken: () => "token" });
  // @ts-expect-error there is no such transport
  connect({ url: "https://a.test", transport: "websocket" });
});
