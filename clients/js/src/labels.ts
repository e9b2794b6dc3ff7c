// The words that components show, to be replaced for other languages.

import type { State } from "./state.js";

export interface Labels {
  connecting: string;
  reconnecting: (attempt: number, maxAttempts: number) => string;
  polling: string;
  closed: (why: string) => string;
  retry: string;
  messages: string;
  older: string;
  loading: string;
  empty: string;
  failed: (why: string) => string;
  unknownSender: string;
  edited: string;
}

export const LABELS: Labels = {
  connecting: "connecting",
  reconnecting: (attempt, maxAttempts) => `reconnecting ${attempt}${maxAttempts < Infinity ? `/${maxAttempts}` : ""}`,
  polling: "slow connection: messages may come late",
  closed: (why) => `disconnected: ${why}`,
  retry: "Try again",
  messages: "Messages",
  older: "Older messages",
  loading: "Loading",
  empty: "No messages yet",
  failed: (why) => `The history could not be loaded: ${why}`,
  unknownSender: "Unknown",
  edited: "edited",
};

/** What a banner says; nothing while all is well. */
export function bannerText(state: State, labels: Labels): string | undefined {
  switch (state.status) {
    case "open":
      return undefined;
    case "connecting":
    case "polling":
      return labels[state.status];
    case "reconnecting":
      return labels.reconnecting(state.attempt, state.maxAttempts);
    case "closed":
      return labels.closed(state.problem?.message ?? state.reason.replaceAll("_", " "));
  }
}
