// @notify-server/client/vue: the same for Vue. See README.md.

import {
  type App,
  computed,
  type ComputedRef,
  inject,
  type InjectionKey,
  type MaybeRefOrGetter,
  onScopeDispose,
  provide,
  type ShallowRef,
  shallowRef,
  toValue,
  watch,
} from "vue";
import type { Client } from "../src/client.js";
import { channelsOf, Connections, placeOf, type Target } from "../src/connections.js";
import { Conversation, type Snapshot } from "../src/conversation.js";
import type { NotifyEvent } from "../src/events.js";
import { bannerText, type Labels, LABELS } from "../src/labels.js";
import type { Message } from "../src/messages.js";
import type { Options } from "../src/options.js";
import type { Problem, State } from "../src/state.js";

export { type Labels, LABELS } from "../src/labels.js";
export type { Attachment, Media, Message } from "../src/messages.js";

const KEY: InjectionKey<Connections> = Symbol("notify-server");
const NOTICES: readonly string[] = ["connection_confirmed", "ping", "caught_up", "token_expiring", "closing", "gap"];
const NOTHING: Snapshot = { messages: [], loading: false, problem: undefined, hasOlder: false };
const KEEP = 100;

/** Says which server components listen to: `app.use(notify({ url, getToken }))`. */
export function notify(options: Omit<Options, "channels">): { install(app: App): void } {
  return { install: (app) => void app.provide(KEY, new Connections(options)) };
}

/** The same for the components below the one that calls it. */
export function provideNotify(options: Omit<Options, "channels">): void {
  provide(KEY, new Connections(options));
}

export interface Notify {
  client: Readonly<ShallowRef<Client | undefined>>;
  state: Readonly<ShallowRef<State>>;
  /** What a banner says, e.g. "reconnecting 3/10"; nothing while all is well. */
  banner: ComputedRef<string | undefined>;
  reconnect: () => void;
}

/** The user's own stream: all chats and everything that is for the user. */
export function useNotify({ labels }: { labels?: Partial<Labels> } = {}): Notify {
  return useClient(() => undefined, labels);
}

export interface SSEOptions extends Target {
  limit?: number | undefined;
  keep?: number | undefined;
  labels?: Partial<Labels> | undefined;
  onEvent?: ((event: NotifyEvent, id: string | undefined) => void) | undefined;
}

export interface SSE extends Notify {
  /** Oldest first; addresses of attachments are http or https. Show text with `{{ }}`, never with `v-html`. */
  messages: ComputedRef<readonly Message[]>;
  loading: ComputedRef<boolean>;
  problem: ComputedRef<Problem | undefined>;
  hasOlder: ComputedRef<boolean>;
  /** The last events, oldest first; what the server says of the stream itself is not among them. */
  events: Readonly<ShallowRef<readonly NotifyEvent[]>>;
  loadOlder: () => void;
}

/** Listens to a session, a chat or a channel, and has its messages, history included. */
export function useSSE(options: MaybeRefOrGetter<SSEOptions>): SSE {
  const { base } = connections();
  const notify = useClient(() => channelsOf(toValue(options)), toValue(options).labels);
  const events = shallowRef<readonly NotifyEvent[]>([]);
  const snapshot = shallowRef<Snapshot>(NOTHING);
  let conversation: Conversation | undefined;
  watch(
    [notify.client, () => JSON.stringify([placeOf(toValue(options)), toValue(options).limit])],
    ([client], _, onCleanup) => {
      const { limit } = toValue(options);
      const place = placeOf(toValue(options));
      events.value = [];
      snapshot.value = NOTHING;
      if (!client) return;
      const offs = [
        client.on("*", (event, id) => {
          const { keep = KEEP, onEvent } = toValue(options);
          if (NOTICES.includes(event.type)) return;
          if (keep > 0) events.value = [...events.value, event].slice(-keep);
          onEvent?.(event, id);
        }),
      ];
      if (place) {
        const mine = new Conversation(client, place, { limit, base });
        conversation = mine;
        offs.push(mine.subscribe(() => (snapshot.value = mine.snapshot)), () => mine.stop());
        mine.start();
      }
      onCleanup(() => {
        conversation = undefined;
        for (const off of offs) off();
      });
    },
    { immediate: true, flush: "sync" },
  );
  return {
    ...notify,
    events,
    messages: computed(() => snapshot.value.messages),
    loading: computed(() => snapshot.value.loading),
    problem: computed(() => snapshot.value.problem),
    hasOlder: computed(() => snapshot.value.hasOlder),
    loadOlder: () => void conversation?.loadOlder(),
  };
}

function connections(): Connections {
  const connections = inject(KEY, undefined);
  if (!connections) throw new Error("say first where the server is: app.use(notify({ url })) or provideNotify({ url })");
  return connections;
}

function useClient(channels: () => string[] | undefined, labels: Partial<Labels> | undefined): Notify {
  const all = connections();
  const client = shallowRef<Client>();
  const state = shallowRef<State>({ status: "connecting" });
  const words = { ...LABELS, ...labels };
  let off = (): void => {};
  const release = (): void => {
    off();
    if (client.value) all.release(client.value);
    client.value = undefined;
  };
  watch(
    () => channels()?.join(),
    (key) => {
      release();
      // Rendered on a server nothing is listened to, and nobody would end it.
      if (!globalThis.document) return;
      client.value = all.use(key === undefined ? undefined : key.split(","));
      off = client.value.onState((now) => (state.value = now));
    },
    { immediate: true, flush: "sync" },
  );
  onScopeDispose(release);
  return {
    client,
    state,
    banner: computed(() => bannerText(state.value, words)),
    reconnect: () => client.value?.reconnect(),
  };
}
