// A conversation to look at: history, what comes live, and how the connection is doing. Everything that others have written
// is text of the document, never markup, and addresses have been looked at in `messages.ts`.

import { type ReactNode, type RefObject, useEffect, useLayoutEffect, useRef } from "react";
import { type Labels, LABELS, bannerText } from "../src/labels.js";
import type { Attachment, Message } from "../src/messages.js";
import type { State } from "../src/state.js";
import type { Target } from "../src/connections.js";
import { type SSEOptions, useSSE } from "./hooks.js";

export interface ConnectionBannerProps {
  state: State;
  onRetry?: (() => void) | undefined;
  labels?: Partial<Labels> | undefined;
}

/** Says how the connection is doing, while it is not doing well. */
export function ConnectionBanner({ state, onRetry, labels }: ConnectionBannerProps): ReactNode {
  const words = { ...LABELS, ...labels };
  const text = bannerText(state, words);
  const waits = state.status === "reconnecting" || state.status === "closed";
  // The region is there before it speaks: only then do screen readers notice.
  return (
    <div className="notify-banner" role="status" data-state={state.status} hidden={!text}>
      {text}
      {waits && onRetry && (
        <button type="button" onClick={onRetry}>
          {words.retry}
        </button>
      )}
    </div>
  );
}

export interface MessageStreamProps extends Target, Pick<SSEOptions, "limit" | "onEvent"> {
  labels?: Partial<Labels> | undefined;
  className?: string | undefined;
  /** Instead of the usual look of a message. */
  renderMessage?: ((message: Message) => ReactNode) | undefined;
}

/** A session or a chat: its history, joined to what comes live. */
export function MessageStream({ labels, className = "", renderMessage, ...options }: MessageStreamProps): ReactNode {
  const words = { ...LABELS, ...labels };
  const { messages, loading, problem, hasOlder, state, loadOlder, reconnect } = useSSE({ ...options, keep: 0 });
  const list = useRef<HTMLDivElement>(null);
  useStayAtEnd(list, messages);
  return (
    <section className={`notify-stream ${className}`.trim()}>
      <ConnectionBanner state={state} onRetry={reconnect} labels={labels} />
      <div className="notify-messages" ref={list} role="log" tabIndex={0} aria-busy={loading} aria-label={words.messages}>
        {hasOlder && (
          <button className="notify-older" type="button" onClick={loadOlder} disabled={loading}>
            {words.older}
          </button>
        )}
        <ol>
          {messages.map((message) => (
            <li className="notify-message" key={message.id} data-message-id={message.id}>
              {renderMessage ? renderMessage(message) : <MessageView message={message} labels={words} />}
            </li>
          ))}
        </ol>
      </div>
      {loading && <p className="notify-note">{words.loading}</p>}
      {problem && <p className="notify-note">{words.failed(problem.message)}</p>}
      {!loading && !problem && !messages.length && <p className="notify-note">{words.empty}</p>}
    </section>
  );
}

/** One message as it is usually shown. */
export function MessageView({ message, labels }: { message: Message; labels?: Partial<Labels> | undefined }): ReactNode {
  const words = { ...LABELS, ...labels };
  const { text, attachments, sender, createdAt, edited } = message;
  return (
    <article>
      <header>
        <b className="notify-sender" dir="auto">
          {sender.name ?? sender.id ?? words.unknownSender}
        </b>{" "}
        {createdAt && <time dateTime={createdAt}>{when(createdAt)}</time>}
        {edited && <small> {words.edited}</small>}
      </header>
      {text && (
        <p className="notify-text" dir="auto">
          {text}
        </p>
      )}
      {attachments.map((attachment, index) => (
        <AttachmentView key={index} {...attachment} />
      ))}
    </article>
  );
}

/** The time, and the day if it is not today. */
function when(moment: string): string {
  const date = new Date(moment);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

function AttachmentView({ kind, url, name }: Attachment): ReactNode {
  switch (kind) {
    case "image":
      return <img className="notify-media" src={url} alt={name} loading="lazy" referrerPolicy="no-referrer" />;
    case "audio":
      return <audio className="notify-media" src={url} controls preload="none" aria-label={name} />;
    case "video":
      return <video className="notify-media" src={url} controls preload="metadata" playsInline aria-label={name} />;
    case "file":
      return (
        <a className="notify-file" href={url} target="_blank" rel="noopener noreferrer nofollow" download={name} dir="auto">
          {name}
        </a>
      );
  }
}

/** Pixels from the end within which a reader follows what comes. */
const NEAR_END = 48;

/** Follows the newest message, but not away from an older one that is being read, also when others come before that. */
function useStayAtEnd(list: RefObject<HTMLDivElement | null>, messages: readonly Message[]): void {
  const atEnd = useRef(true);
  const before = useRef<{ first: string | undefined; height: number }>({ first: undefined, height: 0 });
  useEffect(() => {
    const element = list.current;
    const look = (): void => {
      if (element) atEnd.current = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_END;
    };
    element?.addEventListener("scroll", look, { passive: true });
    return () => element?.removeEventListener("scroll", look);
  }, [list]);
  useLayoutEffect(() => {
    const element = list.current;
    if (!element) return;
    const first = messages[0]?.id;
    const height = element.scrollHeight;
    if (atEnd.current) element.scrollTop = height;
    else if (first !== before.current.first) element.scrollTop += height - before.current.height;
    before.current = { first, height };
  }, [list, messages]);
}
