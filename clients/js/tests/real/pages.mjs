// Pages with the built components, for `Front`, bundled as an application's build would do it.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { build } from "esbuild";

const page = (script) => `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Messages</title><link rel="icon" href="/picture.png"><link rel="stylesheet" href="/page.css">
<main><h1>Room</h1><div id="page"></div></main><script type="module" src="${script}"></script></html>`;

async function bundled(file) {
  const { outputFiles } = await build({
    entryPoints: [path.join(import.meta.dirname, file)],
    bundle: true,
    write: false,
    format: "esm",
    jsx: "automatic",
    logOverride: { "unsupported-directive": "silent" },
    define: { "process.env.NODE_ENV": '"production"' },
    alias: { vue: "vue/dist/vue.runtime.esm-bundler.js" },
  });
  return { type: "text/javascript", content: outputFiles[0].contents };
}

/** By path: a room in React and in Vue, their scripts and styles, and a picture of 160 by 90 pixels. */
export async function pages() {
  const files = ["page.css", "../../style.css"].map((file) => readFile(path.join(import.meta.dirname, file)));
  return new Map([
    ["/messages", { type: "text/html", content: page("/page.js") }],
    ["/messages-vue", { type: "text/html", content: page("/page-vue.js") }],
    ["/page.js", await bundled("page.jsx")],
    ["/page-vue.js", await bundled("page-vue.js")],
    ["/page.css", { type: "text/css", content: (await Promise.all(files)).join("\n") }],
    ["/picture.png", { type: "image/png", content: await readFile(path.join(import.meta.dirname, "picture.png")) }],
  ]);
}
