// A server, a browser's EventSource and several tabs, all under the hand of a test with a stopped clock.

import { vi } from "vitest";
import { type Client, connect } from "../../src/client.js";
import type { Environment, Options } from "../../src/options.js";
import type { State } from "../../src/state.js";

export const URL_ = "https://notify.test";

/** A request that waits for its answer, or a stream that was opened. */
export class Request_ {
  readonly url: URL;
  readonly method: string;
  readonly headers: Headers;
  answered = false;
  /** Whether the client has let go of it. */
  gone = false;
  #resolve!: (answer: Response) => void;
  #reject!: (error: unknown) => void;
  #body: ReadableStreamDefaultController<Uint8Array> | undefined;
  readonly answer = new Promise<Response>((resolve, reject) => {
    this.#resolve = resolve;
    this.#reject = reject;
  });

  constructor(url: string, init: RequestInit = {}) {
    this.url = new URL(url);
    this.method = init.method ?? "GET";
    this.headers = new Headers(init.headers);
    init.signal?.addEventListener("abort", () => {
      this.gone = true;
      this.#reject(init.signal!.reason);
      try {
        this.#body?.error(init.signal!.reason);
      } catch {
        // The stream has ended.
      }
    });
  }

  get path(): string {
    return this.url.pathname;
  }

  parameter(name: string): string | null {
    return this.url.searchParams.get(name);
  }

  get token(): string | null {
    return this.headers.get("authorization")?.replace(/^Bearer /, "") ?? null;
  }

  async json(body: unknown, status = 200, headers: Record<string, string> = {}): Promise<void> {
    this.answered = true;
    const type = status < 400 ? "application/json" : "application/problem+json";
    this.#resolve(new Response(JSON.stringify(body), { status, headers: { "content-type": type, ...headers } }));
    await settle();
  }

  refuse(status: number, detail = "no", headers: Record<string, string> = {}): Promise<void> {
    return this.json({ detail }, status, headers);
  }

  /** The connection is not made. */
  async fail(): Promise<void> {
    this.answered = true;
    this.#reject(new TypeError("fetch failed"));
    await settle();
  }

  async stream(): Promise<this> {
    this.answered = true;
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (this.#body = controller) });
    this.#resolve(new Response(body, { headers: { "content-type": "text/event-stream" } }));
    await settle();
    return this;
  }

  async write(text: string): Promise<void> {
    this.#body!.enqueue(new TextEncoder().encode(text));
    await settle();
  }

  async send(event: object, id?: string): Promise<void> {
    await this.write(`${id ? `id: ${id}\n` : ""}data: ${JSON.stringify(event)}\n\n`);
  }

  async confirm(id = "e-0-0", more: object = {}): Promise<this> {
    if (!this.answered) await this.stream();
    await this.send(confirmation(more), id);
    return this;
  }

  async end(): Promise<void> {
    this.#body!.close();
    await settle();
  }
}

export function confirmation(more: object = {}): object {
  return { type: "connection_confirmed", user_id: 2, connected_chats: [], ping_interval_ms: 30_000, ...more };
}

export function message(n: number): object {
  return { type: "new_message", chat_id: 1, message: { id: n, chat_id: 1, content: `number ${n}` } };
}

export class FakeServer {
  requests: Request_[] = [];

  readonly fetch = ((url: string, init?: RequestInit) => {
    const request = new Request_(url, init);
    this.requests.push(request);
    return request.answer;
  }) as typeof fetch;

  /** The newest request, which must not have been answered. */
  get asked(): Request_ {
    const last = this.requests.at(-1);
    if (!last || last.answered) throw new Error("nothing is asked for");
    return last;
  }

  get open(): Request_[] {
    return this.requests.filter((request) => !request.gone);
  }
}

/** Runs what is due now, without time passing. */
export async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

export interface Heard {
  client: Client;
  states: State[];
  /** The messages' ids, in the order of arrival. */
  messages: unknown[];
  gaps: object[];
  problems: object[];
}

export function listen(server: FakeServer, options: Partial<Options> = {}, environment: Partial<Environment> = {}): Heard {
  const heard: Heard = { states: [], messages: [], gaps: [], problems: [] } as unknown as Heard;
  heard.client = connect({
    url: URL_,
    onState: (state) => heard.states.push(state),
    onGap: (gap) => heard.gaps.push(gap),
    onError: (problem) => heard.problems.push(problem),
    ...options,
    environment: { fetch: server.fetch, random: () => 0.5, ...environment },
  });
  heard.client.on("new_message", (event) => heard.messages.push(event.message.id));
  return heard;
}

/** Tokens that differ in what changes from token to token, and in nothing else. */
export function tokens(claims: object = { sub: "2" }): () => string {
  let n = 0;
  return () => `head.${btoa(JSON.stringify({ ...claims, exp: 1000 + ++n, jti: n }))}.${n}`;
}

/** A native EventSource, which tells nothing but what it is made to. */
export class FakeEventSource {
  static made: FakeEventSource[] = [];
  onmessage: ((message: { data: string; lastEventId: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  closed = false;
  #lastId = "";

  constructor(
    readonly url: string,
    readonly init: EventSourceInit,
  ) {
    FakeEventSource.made.push(this);
  }

  static get last(): FakeEventSource {
    return FakeEventSource.made.at(-1)!;
  }

  async send(event: object, id?: string): Promise<void> {
    if (id) this.#lastId = id;
    if (!this.closed) this.onmessage?.({ data: JSON.stringify(event), lastEventId: this.#lastId });
    await settle();
  }

  async break(): Promise<void> {
    if (!this.closed) this.onerror?.();
    await settle();
  }

  close(): void {
    this.closed = true;
  }
}

/** What the tabs of one browser share. */
export class FakeBrowser {
  #channels = new Set<FakeChannel>();
  #held = new Map<string, { drop: (error: Error) => void }>();
  #queues = new Map<string, (() => void)[]>();

  /** The surroundings of one tab. A frozen tab neither hears nor does anything. */
  tab(server: FakeServer): { environment: Partial<Environment>; tab: FakeTab } {
    const tab = new FakeTab();
    const browser = this;
    class Channel extends FakeChannel {
      constructor(name: string) {
        super(name, tab, browser.#channels);
      }
    }
    const environment = {
      fetch: server.fetch,
      random: () => 0.5,
      events: tab.events,
      BroadcastChannel: Channel as unknown as typeof BroadcastChannel,
      locks: { request: this.#request.bind(this) } as unknown as LockManager,
    };
    return { environment, tab };
  }

  #request(name: string, options: LockOptions, held: () => Promise<void> | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const grant = (): void => {
        let over = false;
        const holder = {
          drop: (error: Error) => {
            over = true;
            reject(error);
          },
        };
        this.#held.set(name, holder);
        void Promise.resolve(held()).then(() => {
          if (over) return;
          this.#held.delete(name);
          resolve();
          this.#queues.get(name)?.shift()?.();
        });
      };
      if (options.steal) {
        this.#held.get(name)?.drop(new DOMException("stolen", "AbortError"));
        return grant();
      }
      if (!this.#held.has(name)) return grant();
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      queue.push(grant);
      options.signal?.addEventListener("abort", () => {
        if (queue.includes(grant)) queue.splice(queue.indexOf(grant), 1);
        reject(new DOMException("aborted", "AbortError"));
      });
    });
  }
}

class FakeTab {
  events = new EventTarget();
  frozen = false;
}

class FakeChannel {
  onmessage: ((message: { data: unknown }) => void) | null = null;

  constructor(
    readonly name: string,
    readonly tab: FakeTab,
    readonly all: Set<FakeChannel>,
  ) {
    all.add(this);
  }

  postMessage(data: unknown): void {
    if (this.tab.frozen) return;
    const copy = structuredClone(data);
    for (const other of this.all) {
      if (other === this || other.name !== this.name) continue;
      // Delivered later, and also if the sender has gone by then.
      void Promise.resolve().then(() => !other.tab.frozen && this.all.has(other) && other.onmessage?.({ data: copy }));
    }
  }

  close(): void {
    this.all.delete(this);
  }
}
