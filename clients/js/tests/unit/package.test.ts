// What users install: what is in the package, and how large it is in their bundles.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { beforeAll, expect, test } from "vitest";

const ROOT = path.join(import.meta.dirname, "../..");
const MAX_CORE = 5_000;

beforeAll(() => {
  execFileSync("npm", ["run", "--silent", "build"], { cwd: ROOT });
}, 60_000);

test("the core is smaller than 5 kB, minified and gzipped", async () => {
  const { outputFiles } = await build({
    entryPoints: [path.join(ROOT, "dist/src/index.js")],
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
  });
  const size = gzipSync(outputFiles[0]!.contents, { level: 9 }).length;
  expect(size).toBeLessThan(MAX_CORE);
});

test("frameworks that render on a server are told that the React components are for browsers", () => {
  expect(readFileSync(path.join(ROOT, "dist/react/index.js"), "utf8")).toMatch(/^"use client";/);
});

test("the package has what its exports name, the licences and the readme, and nothing else", () => {
  const [packed] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: ROOT, encoding: "utf8" })) as [
    { files: { path: string }[]; size: number },
  ];
  const files = packed.files.map((file) => file.path);
  const { exports, dependencies } = JSON.parse(readFileSync(path.join(ROOT, "package.json"), "utf8")) as {
    exports: Record<string, string | Record<string, string>>;
    dependencies?: object;
  };
  expect(dependencies).toBeUndefined();
  const named = Object.values(exports).flatMap((entry) => (typeof entry === "string" ? [entry] : Object.values(entry)));
  expect(files).toEqual(expect.arrayContaining(named.map((file) => file.replace("./", ""))));
  expect(files).toEqual(expect.arrayContaining(["README.md", "LICENSE-APACHE", "LICENSE-MIT", "package.json"]));
  const others = files.filter((file) => !/^(dist\/(src|react|vue)\/[a-z-]+\.(js|d\.ts)|package\.json|README\.md|LICENSE-(APACHE|MIT)|style\.css)$/.test(file));
  expect(others).toEqual([]);
  expect(packed.size).toBeLessThan(60_000);
}, 60_000);
