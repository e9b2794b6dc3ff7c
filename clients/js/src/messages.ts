// Messages of chats and sessions in one form, whatever spelling they come in, with nothing in it that could harm a page.

import type { NotifyEvent } from "./events.js";

export type Media = "image" | "audio" | "video" | "file";

/** Something beside the text. The address is http or https, always. */
export interface Attachment {
  kind: Media;
  url: string;
  name: string;
}

export interface Message {
  /** As text, since some are numbers and the same in both forms. */
  id: string;
  text: string;
  attachments: Attachment[];
  sender: { id: string | undefined; name: string | undefined };
  /** ISO 8601, if it is known. */
  createdAt: string | undefined;
  edited: boolean;
}

/** What is listened to. */
export type Place = { sessionId: string } | { chatId: string | number };

type Said = Record<string, unknown>;

const MEDIA: readonly string[] = ["image", "audio", "video", "file"];
const EXTENSIONS: [Media, RegExp][] = [
  ["image", /\.(png|jpe?g|gif|webp|avif|bmp)$/i],
  ["audio", /\.(mp3|m4a|ogg|oga|opus|wav|flac|aac)$/i],
  ["video", /\.(mp4|m4v|webm|mov|ogv)$/i],
];
/** Makes text look other than it is, or be written backwards: "gnp.exe" as "exe.png". */
// eslint-disable-next-line no-control-regex
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const NAME_MAX = 120;

/** The address in its full form if a page may show it or link to it: http and https, and nothing else. */
export function safeUrl(address: unknown, base: string): string | undefined {
  if (typeof address !== "string" || !/^(https?:\/\/|\/)/i.test(address.trim())) return undefined;
  try {
    const url = new URL(address.trim(), base);
    // A name before the host makes an address look like another one, and some letters of a host look like markup.
    return /^https?:$/.test(url.protocol) && !url.username && !url.password && !/["'<>\s]/.test(url.host) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

/** Reads a message of the history or of an event; `undefined` where it is none. */
export function toMessage(said: unknown, base: string): Message | undefined {
  if (!isObject(said) || !isId(said.id)) return undefined;
  const content = said.content ?? said.text;
  if (typeof content !== "string" && !Array.isArray(said.files)) return undefined;
  const kind = String(said.messageType ?? said.message_type ?? "text");
  const media = MEDIA.includes(kind) ? safeUrl(content, base) : undefined;
  const files = Array.isArray(said.files) ? said.files : [];
  const attachments = files
    .map((file) => safeUrl(isObject(file) ? file.url : file, base))
    .filter((url) => url !== undefined)
    .map((url) => attachment(url));
  if (media) attachments.unshift({ ...attachment(media), kind: kind as Media });
  const name = said.senderName ?? said.sender_name;
  const sender = said.senderId ?? said.sender_id;
  return {
    id: String(said.id),
    // What claims to be a picture and has no address that may be shown is shown as what it is: text.
    text: media || typeof content !== "string" ? "" : content,
    attachments,
    sender: { id: isId(sender) ? String(sender) : undefined, name: typeof name === "string" ? name.replace(INVISIBLE, "") : undefined },
    createdAt: moment(said.createdAt ?? said.created_at ?? said.timestamp),
    edited: false,
  };
}

/** The message that an event brings to a place. */
export function messageOf(event: NotifyEvent, place: Place, base: string): Message | undefined {
  const body = [event.message, event.data, event].find((part) => isObject(part) && isId(part.id) && ("content" in part || "files" in part)) as Said;
  return body && isOf(event, body, place) ? toMessage(body, base) : undefined;
}

/** The id of the message that an event takes back from a place. */
export function deletedOf(event: NotifyEvent, place: Place): string | undefined {
  const body = isObject(event.data) ? event.data : {};
  const id = event.message_id ?? body.message_id ?? body.id;
  return isId(id) && isOf(event, body, place) ? String(id) : undefined;
}

/** Whether an event concerns a place. */
function isOf(event: NotifyEvent, body: Said, place: Place): boolean {
  if ("sessionId" in place) {
    return event.channel === `session:${place.sessionId}` || [body.sessionId, body.session_id, event.sessionId].includes(place.sessionId);
  }
  const chat = String(place.chatId);
  return event.channel === `chat:${chat}` || [event.chat_id, body.chat_id, body.chatId].some((id) => isId(id) && String(id) === chat);
}

function attachment(url: string): Attachment {
  const { pathname } = new URL(url);
  const last = pathname.split("/").pop() || pathname;
  const kind = EXTENSIONS.find(([, extension]) => extension.test(pathname))?.[0] ?? "file";
  return { kind, url, name: decode(last).replace(INVISIBLE, "").slice(0, NAME_MAX) };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function moment(said: unknown): string | undefined {
  // Backends write seconds, milliseconds or text.
  const time = typeof said === "number" ? new Date(said < 1e11 ? said * 1000 : said) : new Date(String(said));
  return Number.isNaN(time.getTime()) ? undefined : time.toISOString();
}

function isObject(said: unknown): said is Said {
  return typeof said === "object" && said !== null;
}

function isId(said: unknown): said is string | number {
  return typeof said === "number" || (typeof said === "string" && said !== "");
}
