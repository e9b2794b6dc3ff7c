// What comes over a stream. `Events` is open: declare your own types in it, and `on` knows them.

/** Ids are numbers where they are decimal integers, else text. */
export type Id = number | string;

/** What every event has. */
export interface NotifyEvent {
  type: string;
  timestamp?: string | number;
  [key: string]: unknown;
}

/** An event sent to a channel or a target over HTTP or NATS. */
export interface ChannelEvent<Data = unknown> extends NotifyEvent {
  channel?: string;
  data?: Data;
}

export interface ConnectionConfirmed extends NotifyEvent {
  type: "connection_confirmed";
  user_id: Id;
  connected_chats: Id[];
  channels?: string[];
  connection_id: string;
  recovered: boolean;
  replayed: number;
  ping_interval_ms: number;
}

/** Events that the stream can't give: load what it concerns over your API. */
export interface Gap extends NotifyEvent {
  type: "gap";
  /** `unknown`: a poll doesn't say, or this tab was away while another one had the connection. */
  reason: "expired" | "epoch" | "overflow" | "unknown";
  from: string | null;
  to: string | null;
}

export interface Closing extends NotifyEvent {
  type: "closing";
  reason: "token_expired" | "token_revoked" | "key_removed" | "draining" | "disconnected" | "slow_consumer";
  reconnect: boolean;
  retry_ms: number;
}

export interface ChatMessage {
  id: Id;
  chat_id: Id;
  sender_id?: Id;
  sender_name?: string;
  content: string;
  files?: string[];
  created_at?: string;
  [key: string]: unknown;
}

export interface NewMessage extends NotifyEvent {
  type: "new_message";
  chat_id: Id;
  message: ChatMessage;
}

interface OfChat extends NotifyEvent {
  chat_id: Id;
}

interface OfMember extends OfChat {
  user_id: Id;
  user_name?: string;
}

/**
 * Events by type. Add your own:
 *
 *     declare module "@notify-server/client" {
 *       interface Events { "job.progress": ChannelEvent<{ percent: number }> }
 *     }
 */
export interface Events {
  connection_confirmed: ConnectionConfirmed;
  ping: NotifyEvent;
  gap: Gap;
  caught_up: NotifyEvent & { replayed: number };
  token_expiring: NotifyEvent & { expires_in_ms: number };
  closing: Closing;
  new_message: NewMessage;
  message_edited: OfChat & { message_id?: Id; message?: ChatMessage };
  message_deleted: OfChat & { message_id: Id };
  message_read: OfChat & { reader_id: Id; message_ids: Id[]; message_id?: Id };
  message_unread: NotifyEvent & { user_id: Id; chat_id?: Id };
  typing_started: OfMember;
  typing_stopped: OfMember;
  user_presence: NotifyEvent & { user_id: Id; status: string };
  chat_member_added: OfMember;
  chat_member_removed: OfMember;
}

/** The event of a type: a known one, else what every channel event has. */
export type EventOf<Type extends string> = Type extends keyof Events ? Events[Type] : ChannelEvent;
