// docs/asyncapi.yaml, as AsyncAPI's own parser sees it. That its examples fit its schemas, and that the
// server does what it says, is tested in tests/it/asyncapi.rs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Parser } from "@asyncapi/parser";

const TEXT = readFileSync(path.join(import.meta.dirname, "../../docs/asyncapi.yaml"), "utf8");
const CARGO = readFileSync(path.join(import.meta.dirname, "../../Cargo.toml"), "utf8");

// That there is a later version of AsyncAPI is not wrong with the document.
const ACCEPTED = ["asyncapi-latest-version"];

async function parse(text) {
  const { document, diagnostics } = await new Parser().parse(text);
  const problems = diagnostics
    .filter(({ code }) => !ACCEPTED.includes(code))
    .map(({ code, path, message }) => `${path.join(".")}: ${message} (${code})`);
  return { document, problems };
}

test("the document is valid AsyncAPI 3.0", async () => {
  const { document, problems } = await parse(TEXT);
  assert.deepEqual(problems, []);
  assert.equal(document.version(), "3.0.0");
  assert.equal(document.info().version(), CARGO.match(/^version = "(.+)"$/m)[1]);
});

test("every message has an example", async () => {
  const { document } = await parse(TEXT);
  const messages = document.components().messages().all();
  assert.ok(messages.length > 20);
  for (const message of messages) assert.ok(message.examples().length > 0, message.id());
});

test("a reference to nothing is noticed", async () => {
  const { problems } = await parse(TEXT.replace("$ref: '#/channels/realtime'", "$ref: '#/channels/elsewhere'"));
  assert.notDeepEqual(problems, []);
});
