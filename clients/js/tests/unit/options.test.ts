import { expect, test } from "vitest";
import { address } from "../../src/options.js";

test.each([
  ["https://a.test", "events", "https://a.test/events"],
  ["https://a.test/", "/events", "https://a.test/events"],
  ["https://a.test/below", "events", "https://a.test/below/events"],
  ["https://a.test/below/?user_id=2", "events?limit=5", "https://a.test/below/events?user_id=2&limit=5"],
  // Nothing in a path leads the token to another host.
  ["https://a.test", "//b.test/x", "https://a.test/b.test/x"],
  ["https://a.test", "https://b.test/x", "https://a.test/https://b.test/x"],
])("%s and %s", (base, path, whole) => {
  const url = new URL(address(base, path, {}));
  expect(url.host).toBe("a.test");
  expect(url.href).toBe(whole);
});
