// Messages: as they come from several backends, as they are kept, and as they are sent. Knows nothing of the document.

import { refusal, wireId } from "./api.js";

const PAGE = 30;
const KINDS = ["image", "audio", "video", "file"];
const ENDINGS = {
  image: /\.(png|jpe?g|gif|webp|avif|svg)$/i,
  audio: /\.(mp3|m4a|aac|ogg|oga|opus|wav|flac)$/i,
  video: /\.(mp4|m4v|webm|mov|ogv)$/i,
};
const FORBIDDEN = 403;

/** What kind of media a link leads to, by its name. */
export function kindOf(url) {
  if (url.startsWith("data:image/")) return "image";
  const path = url.split(/[?#]/, 1)[0];
  return Object.keys(ENDINGS).find((kind) => ENDINGS[kind].test(path)) ?? "file";
}

/**
 * The message of an event, or of a history: `{id, chatId, senderId, sender, text, media: [{kind, url}], at}`; null where
 * there is none. A chat backend's has `content` and `files`; that of the message API has a `messageType`, and where that
 * is a kind of media, `content` is its address.
 */
export function messageOf(source) {
  const envelope = [source.message, source.data, source].find((part) => part && typeof part === "object" && "content" in part);
  const chatId = envelope?.chat_id ?? envelope?.chatId ?? source.chat_id ?? source.chatId;
  if (!envelope || chatId === undefined || chatId === null) return null;
  const content = String(envelope.content ?? "");
  const type = envelope.messageType ?? envelope.message_type;
  const isMedia = KINDS.includes(type);
  const files = Array.isArray(envelope.files) ? envelope.files.map(String) : [];
  const media = files.map((url) => ({ kind: kindOf(url), url }));
  if (isMedia) media.unshift({ kind: type, url: content });
  const name = envelope.sender_name ?? envelope.senderName ?? source.sender_name;
  return {
    id: String(envelope.id),
    chatId: String(chatId),
    senderId: String(envelope.sender_id ?? envelope.senderId),
    sender: typeof name === "string" ? name : null,
    text: isMedia ? "" : content,
    media,
    at: timeOf(envelope.created_at ?? envelope.createdAt ?? envelope.timestamp ?? source.timestamp),
  };
}

function timeOf(stamp) {
  const time = new Date(typeof stamp === "number" && stamp < 1e11 ? stamp * 1000 : stamp);
  return Number.isNaN(time.getTime()) ? new Date() : time;
}

/** Not crypto.randomUUID, which plain http on another host than localhost doesn't have. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The history of chats, where the server keeps one. */
export class History {
  #session;
  /** Whether there is one; null while nobody has asked. */
  kept = null;

  constructor(session) {
    this.#session = session;
  }

  /** `{messages, next}`, the oldest first; null where there is no history. */
  async page(chatId, before) {
    if (this.kept === false) return null;
    const query = { chatId, limit: PAGE, ...(before && { before }) };
    const answer = await this.#session.ask("/api/messages", { query }).catch(() => null);
    if (!answer) return null;
    if (!answer.ok) {
      // 404: this server has none; 501: its tables are missing. Else it may answer the next time.
      if ([404, 405, 501].includes(answer.status)) this.kept = false;
      return null;
    }
    this.kept = true;
    const { data } = await answer.json();
    return { messages: data.messages.map((message) => messageOf({ ...message, chatId: message.chatId ?? chatId })).filter(Boolean).reverse(), next: data.next };
  }
}

/** Sends one thing after the other, so that a "stopped typing" never overtakes its "started". */
export class Publisher {
  #session;
  #history;
  #forbidden = null;
  #last = Promise.resolve();

  constructor(session, history) {
    this.#session = session;
    this.#history = history;
  }

  /** Sends a message by the message API where there is one, else as a backend would; gives its id early to `sending`. */
  send({ chatId, me, name, text, media }, sending) {
    const key = newId();
    if (this.#history.kept) {
      const body = { chatId: wireId(chatId), content: media?.url ?? text, messageType: media?.kind ?? "text", senderName: name };
      return this.#inTurn(async () => {
        const written = await this.#post("/api/messages", body, { "idempotency-key": key });
        sending(String(written.data.id));
      });
    }
    sending(key);
    const message = {
      id: key, chat_id: wireId(chatId), sender_id: wireId(me), content: text, files: media ? [media.url] : [], timestamp: Math.floor(Date.now() / 1000),
    };
    return this.publish(`fechatter.realtime.chat.${chatId}`, { MessageReceived: { message, chat_id: wireId(chatId) } });
  }

  /** Publishes as a backend would. */
  publish(subject, payload) {
    return this.#inTurn(() => this.#post(`/api/v1/bus/${subject}`, payload));
  }

  #inTurn(act) {
    const sent = this.#last.then(act);
    this.#last = sent.catch(() => {});
    return sent;
  }

  async #post(path, body, headers) {
    // What a token may not do now it may not do later.
    if (this.#forbidden) throw this.#forbidden;
    const answer = await this.#session.ask(path, { method: "POST", body, headers });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const error = await refusal(answer);
    if (answer.status === FORBIDDEN) this.#forbidden = error;
    throw error;
  }
}

/** Who is online of those with whom the user shares a chat, as texts; null where the server does not say. */
export async function onlineUsers(session) {
  const answer = await session.ask("/online-users").catch(() => null);
  if (!answer?.ok) return null;
  return new Set((await answer.json()).users.map((user) => String(user.user_id)));
}
