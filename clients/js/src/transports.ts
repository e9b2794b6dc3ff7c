// The two ways to stream. Each promise lasts as long as its stream, and rejects with a Problem or what fetch threw.

import type { Api } from "./api.js";
import type { Parameters, Settings } from "./options.js";
import { parser, type Sink } from "./parse.js";
import { problem, refusal } from "./state.js";

const ENDED = problem("network", "stream ended");
const EVENT_STREAM = "text/event-stream";

/** By fetch, which ends when the signal is aborted, as it is after every end: tells why it was refused, and sends the token in a header. */
export async function fetchStream(
  api: Api,
  path: string,
  parameters: Parameters,
  signal: AbortSignal,
  sink: Sink,
): Promise<never> {
  const answer = await api.fetch(path, { headers: { accept: EVENT_STREAM }, cache: "no-store", signal }, parameters);
  if (!answer.ok) throw await refusal(answer);
  if (!answer.headers.get("content-type")?.startsWith(EVENT_STREAM)) throw problem("answer", "no event stream");
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  const take = parser(sink);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw ENDED;
    take(value);
  }
}

/** By the browser's own EventSource, of which only the stream itself is used: it would come back with the same ticket. */
export function nativeStream(
  { environment, withCredentials }: Settings,
  url: string,
  signal: AbortSignal,
  sink: Sink,
): Promise<never> {
  return new Promise((_, reject) => {
    const source = new environment.EventSource!(url, { withCredentials: !!withCredentials });
    source.onmessage = ({ data, lastEventId }) => sink.event(data, lastEventId);
    source.onerror = () => reject(ENDED);
    signal.addEventListener("abort", () => source.close());
  });
}
