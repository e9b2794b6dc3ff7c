"use client";
// @notify-server/client/react. See README.md.

export { NotifyProvider, type NotifyProviderProps } from "./context.js";
export { type Notify, type SSE, type SSEOptions, useEvent, useNotify, useSSE } from "./hooks.js";
export {
  ConnectionBanner,
  type ConnectionBannerProps,
  MessageStream,
  type MessageStreamProps,
  MessageView,
} from "./message-stream.js";
export { type Labels, LABELS } from "../src/labels.js";
export type { Attachment, Media, Message } from "../src/messages.js";
