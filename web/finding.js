// What a step of the diagnosis has found: `{state, key, values, facts, advice, note, command, later}`, in keys of words.

export const ANSWER_MS = 15_000;

export const ok = (key, values, more) => ({ state: "ok", key, values, ...more });
export const warn = (key, values, more) => ({ state: "warn", key, values, advice: `${key}_do`, ...more });
export const fail = (key, values, more) => ({ state: "fail", key, values, advice: `${key}_do`, ...more });
export const skip = (key, values, more) => ({ state: "skip", key, values, ...more });

export const seconds = (ms) => Math.round(ms / 1000);

/** What the answer says that it has come through. */
export const viaOf = ({ headers }) => [headers.get("server"), headers.get("via")].filter(Boolean).join("; ");

/** What to do about a status. */
export function adviceFor(status) {
  const known = { 401: 401, 404: 404, 429: 429, 502: 502, 503: 503, 504: 502 }[status];
  return `status_${known ?? "other"}_do`;
}
