// The text/event-stream format, from pieces of any size. A byte order mark is the decoder's business.

/** The longest event, in characters; the server's payloads are far below. */
const MAX_EVENT = 8 * 1024 * 1024;

export interface Sink {
  /** An event's data, and the last id on the stream so far. */
  event(data: string, lastId: string): void;
  /** The reconnection time that the server wishes for. */
  retry(ms: number): void;
}

/** Returns a function that takes the text of a stream piece by piece; throws where an event has no end. */
export function parser(sink: Sink): (text: string) => void {
  let rest = "";
  let data: string[] = [];
  let size = 0;
  let lastId = "";

  function line(text: string): void {
    if (!text) {
      if (data.length) sink.event(data.join("\n"), lastId);
      data = [];
      size = 0;
      return;
    }
    const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(text)!;
    if (name === "data") {
      data.push(value);
      size += value.length;
    } else if (name === "id" && !value.includes("\0")) lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) sink.retry(+value);
  }

  return (text) => {
    rest += text;
    // A carriage return at the end may be half of a line break.
    const whole = rest.endsWith("\r") ? rest.length - 1 : rest.length;
    const lines = rest.slice(0, whole).split(/\r\n|\n|\r/);
    rest = lines.pop()! + rest.slice(whole);
    lines.forEach(line);
    if (size + rest.length > MAX_EVENT) throw new Error("event too long");
  };
}
