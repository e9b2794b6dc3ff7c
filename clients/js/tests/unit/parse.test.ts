import fc from "fast-check";
import { expect, test } from "vitest";
import { parser } from "../../src/parse.js";

function parse(pieces: string[]): { events: [string, string][]; retries: number[] } {
  const events: [string, string][] = [];
  const retries: number[] = [];
  const take = parser({ event: (data, id) => events.push([data, id]), retry: (ms) => retries.push(ms) });
  pieces.forEach(take);
  return { events, retries };
}

test("fields, comments and unknown lines", () => {
  const { events, retries } = parse(["retry: 2750\n: hello\nevent: x\nid: 7\ndata: {\"a\": 1}\nfoo\n\ndata\n\nretry: soon\n\n"]);
  expect(events).toEqual([['{"a": 1}', "7"], ["", "7"]]);
  expect(retries).toEqual([2750]);
});

test("a block without data moves the id and dispatches nothing", () => {
  expect(parse(["id: 1\n\n", "data: x\n\n"]).events).toEqual([["x", "1"]]);
});

test("an id with a null character is no id, and an empty one takes it back", () => {
  expect(parse(["id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid\ndata: c\n\n"]).events).toEqual([["a", "1"], ["b", "1"], ["c", ""]]);
});

test("what has no end is given up", () => {
  const take = parser({ event: () => {}, retry: () => {} });
  expect(() => {
    for (let n = 0; n < 9; n++) take(`data: ${"x".repeat(1024 * 1024)}`);
  }).toThrow("too long");
});

test("pieces of any size and line breaks of any kind make no difference", () => {
  const line = fc.constantFrom("data: a", "data:b c", "data", "id: 1", "id: 22", ": x", "event: y", "", "data: \u{1F600}:");
  fc.assert(fc.property(fc.array(line, { maxLength: 30 }), fc.constantFrom("\n", "\r\n", "\r"), fc.array(fc.nat(20)), (lines, end, cuts) => {
    const plain = parse([lines.map((text) => `${text}\n`).join("") + "\n\n"]);
    let text = lines.map((line) => line + end).join("") + end + end;
    const pieces: string[] = [];
    for (const cut of cuts) {
      pieces.push(text.slice(0, cut));
      text = text.slice(cut);
    }
    // A carriage return alone waits for what may belong to it.
    expect(parse([...pieces, text, ":"])).toEqual(plain);
  }));
});
