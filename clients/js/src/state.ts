// How a connection is doing, in a form that can be shown and sent to other tabs.

/** What went wrong. A plain object: it has to reach other tabs. */
export interface Problem {
  /**
   * `network`: not reached, or broken off. `silent`: nothing came for too long. `http`: refused, see `status`.
   * `token`: `getToken` failed. `answer`: something else than this server has answered.
   */
  code: "network" | "silent" | "http" | "token" | "answer";
  message: string;
  status?: number;
  /** How long the server asks to wait. */
  retryAfterMs?: number;
  /** The server will not answer otherwise the next time. */
  final?: boolean;
}

/** Why a connection is closed for good. */
export type CloseReason =
  | "closed" // by close()
  | "signed_out" // getToken gave nothing
  | "unauthorized" // a fresh token was refused
  | "refused" // the server will not answer otherwise next time: see problem
  | "token_expired" // and there is no getToken
  | "token_revoked" // the same
  | "key_removed" // the same: tokens are signed with another key by now
  | "disconnected" // the server asks not to come back
  | "attempts"; // maxAttempts are used up

export type Transport = "fetch" | "eventsource" | "poll";

export type State =
  | { status: "connecting" }
  | { status: "open"; transport: Transport }
  | { status: "polling" }
  | { status: "reconnecting"; attempt: number; maxAttempts: number; retryInMs: number; problem: Problem | undefined }
  | { status: "closed"; reason: CloseReason; problem: Problem | undefined };

/** The state in a few words: `open`, `reconnecting 3/10`, `closed: signed_out`. */
export function describe(state: State): string {
  if (state.status === "closed") return `closed: ${state.problem?.message ?? state.reason}`;
  if (state.status !== "reconnecting") return state.status;
  return `reconnecting ${state.attempt}${state.maxAttempts < Infinity ? `/${state.maxAttempts}` : ""}`;
}

export function problem(code: Problem["code"], message: string): Problem {
  return { code, message };
}

/** What was thrown, as a problem: by us, or by fetch, which says little of the network. */
export function asProblem(thrown: unknown): Problem {
  return thrown instanceof Error ? problem("network", thrown.message) : (thrown as Problem);
}

/** What an answer that is not ok says: problem+json, and `Retry-After`. */
export async function refusal(answer: Response): Promise<Problem> {
  const { status, headers } = answer;
  const said = (await answer.json().catch(() => ({}))) as { detail?: string };
  const seconds = Number(headers.get("retry-after"));
  // Proxies say 404 and the like of their own while a server is replaced; what it says itself is a problem document.
  const own = headers.get("content-type")?.includes("problem+json");
  return {
    code: "http",
    status,
    message: said.detail || `HTTP ${status}`,
    ...(seconds > 0 && { retryAfterMs: seconds * 1000 }),
    ...(own && status < 500 && status !== 429 && { final: true }),
  };
}
