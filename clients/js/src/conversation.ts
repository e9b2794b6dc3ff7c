// A conversation on a page: its history, joined to what comes live without hole or double. Knows no framework.
//
// History is asked for when the stream stands, so what happens meanwhile comes live; what comes both ways has the same id.
// Where the stream says that something is missing (a gap, or a beginning without recovery), the newest page is asked for
// again. If it does not reach what is there, what is older makes way: better less than with a hole.

import type { Client } from "./client.js";
import type { NotifyEvent } from "./events.js";
import { deletedOf, type Message, messageOf, type Place, toMessage } from "./messages.js";
import { asProblem, type Problem } from "./state.js";

export interface Snapshot {
  /** Oldest first. */
  messages: readonly Message[];
  loading: boolean;
  /** What the last request for history failed with. */
  problem: Problem | undefined;
  /** Whether there are older ones. */
  hasOlder: boolean;
}

interface Page {
  messages: Message[];
  next: string | undefined;
}

/** The most messages that are kept, and deletions that are remembered; the oldest make way, unless they were asked for by hand. */
const KEPT = 2_000;
const LIMIT = 50;
/**
 * Messages have their places in a history when they are written, and are there when that is committed: for so long, in
 * milliseconds, one may still come in between others.
 */
const COMMIT_MS = 60_000;

export class Conversation {
  #client: Client;
  #place: Place;
  #limit: number;
  #base: string;
  #snapshot: Snapshot = { messages: [], loading: false, problem: undefined, hasOlder: false };
  #next: string | undefined;
  #listeners = new Set<() => void>();
  #offs: (() => void)[] = [];
  #loading = false;
  #loaded = false;
  /** Whether that was while a stream stood, so that what comes after it comes live. */
  #joined = false;
  #kept = KEPT;
  /** What was there when something went missing that has not been asked for since: the hole is behind it. */
  #beforeHole: Set<string> | undefined;
  /** Taken back; history that was asked for before must not bring it back. */
  #deleted = new Set<string>();

  /** `base` is what relative addresses of media are relative to. */
  constructor(client: Client, place: Place, { limit = LIMIT, base }: { limit?: number | undefined; base: string }) {
    this.#client = client;
    this.#place = place;
    this.#limit = limit;
    this.#base = base;
  }

  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /** Calls the listener whenever the snapshot is another one. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  start(): void {
    const client = this.#client;
    this.#offs = [
      client.on("*", (event) => this.#take(event)),
      client.onGap(() => this.#missing()),
      client.on("connection_confirmed", ({ recovered }) => {
        if (!recovered || !this.#loaded) this.#missing();
      }),
      // A stream that stands already confirms nothing, nor does a poll; and while there is neither, history is better than
      // nothing.
      client.onState(({ status }) => {
        if (status === "connecting") return;
        queueMicrotask(() => {
          if (this.#offs.length && !this.#loading && !(this.#stands ? this.#joined : this.#loaded)) this.#missing();
        });
      }),
    ];
  }

  stop(): void {
    for (const off of this.#offs) off();
    this.#offs = [];
  }

  /** Asks for the page before the oldest message. */
  async loadOlder(): Promise<void> {
    if (this.#loading || !this.#next) return;
    this.#loading = true;
    this.#become({ loading: true, problem: undefined });
    try {
      const page = await this.#page(this.#next);
      if (!this.#offs.length) return;
      this.#next = page.next;
      const inPage = new Set(page.messages.map(({ id }) => id));
      const older = page.messages.filter(({ id }) => !this.#deleted.has(id)).map((message) => this.#latest(message));
      // What came late is where it belongs now.
      const messages = [...older, ...this.#snapshot.messages.filter(({ id }) => !inPage.has(id))];
      this.#kept = Math.max(KEPT, messages.length);
      this.#become({ messages, hasOlder: !!page.next });
    } catch (error) {
      this.#become({ problem: asProblem(error) });
    } finally {
      this.#done();
    }
  }

  get #stands(): boolean {
    return ["open", "polling"].includes(this.#client.state.status);
  }

  #missing(): void {
    this.#beforeHole ??= this.#ids();
    void this.#load();
  }

  #ids(): Set<string> {
    return new Set(this.#snapshot.messages.map(({ id }) => id));
  }

  /** Asks for the newest page and joins it to what is there. */
  async #load(): Promise<void> {
    if (this.#loading) return;
    this.#loading = true;
    this.#become({ loading: true, problem: undefined });
    const asked = this.#ids();
    const before = this.#beforeHole ?? asked;
    this.#beforeHole = undefined;
    const stands = this.#stands;
    try {
      const page = await this.#page();
      if (!this.#offs.length) return;
      this.#join(page, before, asked);
      this.#loaded = true;
      this.#joined ||= stands;
    } catch (error) {
      // Until another one succeeds the hole is there.
      this.#beforeHole = before;
      this.#loaded = this.#joined = false;
      this.#become({ problem: asProblem(error) });
    } finally {
      this.#done();
    }
  }

  #done(): void {
    this.#loading = false;
    this.#become({ loading: false });
    // Something went missing meanwhile. After a failure it is for the next connection to try again.
    if (this.#beforeHole && !this.#snapshot.problem && this.#offs.length) void this.#load();
  }

  async #page(before?: string): Promise<Page> {
    const place = "sessionId" in this.#place ? { sessionId: this.#place.sessionId } : { chatId: String(this.#place.chatId) };
    const query = new URLSearchParams({ ...place, limit: String(this.#limit), ...(before !== undefined && { before }) });
    const answer = await this.#client.json<{ data?: { messages?: unknown[]; next?: string | number | null } }>(`api/messages?${query}`);
    const { messages = [], next } = answer.data ?? {};
    return {
      // The newest comes first.
      messages: messages.map((said) => toMessage(said, this.#base)).filter((message) => message !== undefined).reverse(),
      next: next === null || next === undefined ? undefined : String(next),
    };
  }

  /** `before` is what was there before what may be missing, `asked` what was there when the page was asked for. */
  #join(page: Page, before: Set<string>, asked: Set<string>): void {
    const inPage = new Set(page.messages.map(({ id }) => id));
    const there = this.#snapshot.messages;
    const oldest = page.messages[0]?.createdAt;
    // Where the page reaches what was there before the hole; what it does not reach makes way.
    const reaches = !page.next || !isLater(oldest, newest(there.filter(({ id }) => before.has(id))), COMMIT_MS);
    const from = reaches ? there.findIndex(({ id }) => before.has(id) && inPage.has(id)) : -1;
    // What was there and is not in the page is older than it, or was taken back. What took long to be committed came live
    // behind messages that are newer than it.
    const isOlder = ({ id, createdAt }: Message, n: number): boolean =>
      !inPage.has(id) && (n < from || (from >= 0 && isLater(oldest, createdAt)));
    const older = there.filter(isOlder);
    // What came since may be newer.
    const reached = there.findLastIndex(({ id }) => inPage.has(id));
    const newer = there.slice(reached + 1).filter((message) => !asked.has(message.id) && !older.includes(message));
    // If nothing is in both, what came since may as well be older than the page: the next one tells.
    if (reached < 0 && newer.length && page.next) this.#beforeHole = new Set();
    const messages = page.messages.map((message) => this.#latest(message));
    if (from <= 0) this.#next = page.next;
    const joined = newer.reduce(placed, [...older, ...messages]).filter(({ id }) => !this.#deleted.has(id));
    this.#become({ hasOlder: !!this.#next, ...this.#keep(joined) });
  }

  /** What was edited live is newer than a page. */
  #latest(message: Message): Message {
    const known = this.#snapshot.messages.find(({ id }) => id === message.id);
    return known?.edited ? known : message;
  }

  /** As many as are kept. The others can be loaded again, so that between them and these there is no hole. */
  #keep(messages: readonly Message[]): Partial<Snapshot> {
    const kept = messages.slice(-this.#kept);
    if (kept.length === messages.length || !this.#loaded) return { messages: kept };
    this.#next = kept[0]!.id;
    return { messages: kept, hasOlder: true };
  }

  #take(event: NotifyEvent): void {
    const { type } = event;
    const { messages } = this.#snapshot;
    if (type === "message_deleted") {
      const id = deletedOf(event, this.#place);
      return id === undefined ? undefined : this.#delete(id);
    }
    const message = messageOf(event, this.#place, this.#base);
    if (!message) return;
    const known = messages.findIndex(({ id }) => id === message.id);
    if (type === "message_edited") {
      if (known >= 0) this.#become({ messages: messages.with(known, { ...message, createdAt: messages[known]!.createdAt, edited: true }) });
    } else if (known < 0 && !this.#deleted.has(message.id)) {
      this.#become(this.#keep(placed(messages, message)));
    }
  }

  #delete(deleted: string): void {
    this.#deleted.add(deleted);
    // The first of a set is its oldest.
    if (this.#deleted.size > KEPT) this.#deleted.delete(this.#deleted.values().next().value!);
    this.#become({ messages: this.#snapshot.messages.filter(({ id }) => id !== deleted) });
  }

  #become(change: Partial<Snapshot>): void {
    this.#snapshot = { ...this.#snapshot, ...change };
    for (const listener of this.#listeners) listener();
  }
}

/** With a message that came live where it belongs: a history may be ahead of its stream. Where no time is known, that is the end. */
function placed(messages: readonly Message[], message: Message): Message[] {
  const at = messages.findLastIndex((other) => !isLater(other.createdAt, message.createdAt));
  return messages.toSpliced(at + 1, 0, message);
}

function newest(messages: readonly Message[]): string | undefined {
  return messages.map(({ createdAt }) => createdAt ?? "").sort().at(-1);
}

/** Whether a moment is later than so many milliseconds before another one, as far as both are known. */
function isLater(moment: string | undefined, other: string | undefined, before = 0): boolean {
  return !!moment && !!other && Date.parse(moment) > Date.parse(other) - before;
}
