// What components use.

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import type { Client } from "../src/client.js";
import { channelsOf, placeOf, type Target } from "../src/connections.js";
import { Conversation, type Snapshot } from "../src/conversation.js";
import type { EventOf, Events, NotifyEvent } from "../src/events.js";
import type { State } from "../src/state.js";
import { useClient, useConnections, useConnectionState } from "./context.js";

export interface Notify {
  /** `undefined` until the component is there. */
  client: Client | undefined;
  state: State;
}

/** The user's own stream: all chats and everything that is for the user. */
export function useNotify(): Notify {
  const client = useClient();
  return { client, state: useConnectionState(client) };
}

/** Calls the listener with every event of a type, or with all for `*`. */
export function useEvent<Type extends (keyof Events & string) | "*" | (string & {})>(
  client: Client | undefined,
  type: Type,
  listener: (event: Type extends "*" ? NotifyEvent : EventOf<Type>, id: string | undefined) => void,
): void {
  const latest = useRef(listener);
  useEffect(() => {
    latest.current = listener;
  });
  useEffect(() => client?.on(type, (event, id) => latest.current(event, id)), [client, type]);
}

export interface SSEOptions extends Target {
  /** Messages of one page of history. */
  limit?: number | undefined;
  /** How many of the last events are kept in `events`. */
  keep?: number | undefined;
  onEvent?: ((event: NotifyEvent, id: string | undefined) => void) | undefined;
}

export interface SSE extends Snapshot, Notify {
  /** The last events, oldest first; what the server says of the stream itself is not among them. */
  events: readonly NotifyEvent[];
  loadOlder: () => void;
  reconnect: () => void;
}

const NOTHING: Snapshot = { messages: [], loading: false, problem: undefined, hasOlder: false };
const NOTICES: readonly string[] = ["connection_confirmed", "ping", "caught_up", "token_expiring", "closing", "gap"];
const KEEP = 100;

/** Listens to a session, a chat or a channel, and has its messages, history included. */
export function useSSE({ limit, keep = KEEP, onEvent, ...target }: SSEOptions): SSE {
  const { sessionId, chatId, channel } = target;
  const client = useClient(channelsOf(target));
  const state = useConnectionState(client);
  const events = useLastEvents(client, keep, onEvent);
  const { base } = useConnections();
  const conversation = useMemo(() => {
    const place = placeOf({ sessionId, chatId, channel });
    return client && place && new Conversation(client, place, { limit, base });
  }, [client, sessionId, chatId, channel, limit, base]);
  useEffect(() => {
    conversation?.start();
    return () => conversation?.stop();
  }, [conversation]);
  const snapshot = useSyncExternalStore(
    (changed) => conversation?.subscribe(changed) ?? (() => {}),
    () => conversation?.snapshot ?? NOTHING,
    () => NOTHING,
  );
  return {
    ...snapshot,
    client,
    state,
    events,
    loadOlder: () => void conversation?.loadOlder(),
    reconnect: () => client?.reconnect(),
  };
}

function useLastEvents(client: Client | undefined, keep: number, onEvent: SSEOptions["onEvent"]): readonly NotifyEvent[] {
  const [events, become] = useState<readonly NotifyEvent[]>([]);
  useEffect(() => become([]), [client]);
  useEvent(client, "*", (event, id) => {
    if (NOTICES.includes(event.type)) return;
    if (keep > 0) become((before) => [...before, event].slice(-keep));
    onEvent?.(event, id);
  });
  return events;
}
