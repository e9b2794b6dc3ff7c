// The diagnosis: runs the steps one after the other, shows each with what to do, and writes the report. Owns what was
// found; the steps themselves are checks.js.

import { STEPS } from "./checks.js";
import { byId, copy, node } from "./dom.js";
import { fail } from "./finding.js";
import { addWords, begin, locale, onLanguage, t } from "./i18n.js";
import { SignIn } from "./sign-in.js";
import { words } from "./words-diagnostic.js";

const MARKS = { ok: "✓", warn: "!", fail: "×", skip: "–", pending: "", running: "" };

const signIn = new SignIn({ title: "signInTitle", lead: "signInLead", onSession });
const drawn = new WeakMap(); // steps in the document → what they show
let run = null;
let origin = ""; // whose pages are asked about

function onSession(session) {
  stop();
  byId("report").hidden = !session;
  if (!session) return;
  signIn.show(false);
  scrollTo(0, 0);
  start(session);
}

function stop() {
  run?.found.stream?.close();
  run?.found.source?.close();
  run = null;
}

async function start(session) {
  stop();
  const own = { found: { session, origin }, results: new Map(), began: new Date() };
  run = own;
  draw();
  for (const step of STEPS) {
    await take(own, step);
    if (run !== own) return;
  }
  if (own.results.get("publish")?.later) return;
  own.found.stream?.close();
  own.found.source?.close();
}

async function take(own, step) {
  const tell = (result) => { if (run === own) note(step.id, result); };
  const failed = step.needs?.some((id) => ["fail", "skip"].includes(own.results.get(id)?.state));
  if (failed) return tell({ state: "skip", key: "afterFailure" });
  tell({ state: "running", key: "running" });
  const result = await step.run(own.found, tell).catch((error) => fail("broken", { why: error.message }, { advice: "health_gone_do" }));
  tell(result);
  result.later?.then((late) => late && tell(late));
}

function note(id, result) {
  run.results.set(id, result);
  draw();
}

// Showing

/** Values that are told by the language: durations, times, and words within words. */
function said(values = {}) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, one(value)]));
}

function one(value) {
  if (value?.key) return t(value.key, said(value.values));
  if (value?.seconds !== undefined) return duration(value.seconds);
  if (value?.time !== undefined) return new Date(value.time).toLocaleTimeString(locale());
  return value;
}

function duration(seconds) {
  const units = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]];
  const [unit, size] = units.find(([, least]) => seconds >= least) ?? ["second", 1];
  return new Intl.NumberFormat(locale(), { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: seconds < 10 ? 1 : 0 }).format(seconds / size);
}

const textOf = (result) => t(result.key, said(result.values));
const factsOf = (result) => (result.facts ?? []).filter((fact) => fact && fact[1]).map(([label, value]) => [t(label), String(one(value))]);

function results() {
  return STEPS.map((step) => ({ id: step.id, ...(run?.results.get(step.id) ?? { state: "pending" }) }));
}

function draw() {
  const all = results();
  all.forEach((result, index) => {
    // What has not changed stays, with what the reader has opened.
    const state = JSON.stringify([result, locale()]);
    const before = byId("steps").children[index];
    if (before && drawn.get(before) === state) return;
    const after = stepNode(result);
    drawn.set(after, state);
    if (before) before.replaceWith(after);
    else byId("steps").append(after);
  });
  const count = (state) => all.filter((result) => result.state === state).length;
  const done = all.length - count("pending") - count("running");
  const verdict = count("fail") > 0 ? "fail" : done < all.length ? "running" : count("warn") > 0 ? "warn" : "ok";
  const values = { running: { n: done, all: all.length }, fail: { n: count("fail") }, warn: { n: count("warn") }, ok: {} }[verdict];
  byId("verdict").dataset.state = verdict;
  const text = t(`verdict_${verdict}`, values);
  // The same again would be read out again.
  if (byId("verdict").textContent !== text) byId("verdict").textContent = text;
  byId("report-text").textContent = report();
}

function stepNode(result) {
  const open = document.querySelector(`[data-step="${result.id}"] details`)?.open ?? ["fail", "warn"].includes(result.state);
  const facts = factsOf(result);
  return node("li", { class: "step", "data-testid": `step-${result.id}`, "data-step": result.id, "data-state": result.state },
    node("span", { class: "mark", "aria-hidden": "true" }, MARKS[result.state]),
    node("div", { class: "step-body" },
      node("h3", {}, t(`step_${result.id}`), node("span", { class: "visually-hidden" }, ` (${t(`state_${result.state}`)})`)),
      result.key && node("p", { class: "outcome" }, textOf(result)),
      result.id === "cors" && result.state !== "pending" && originForm(),
      result.advice && node("p", { class: "advice" }, t(result.advice)),
      result.note && node("p", { class: "hint" }, t(result.note)),
      result.command && commandNode(result.command),
      facts.length > 0 && node("details", { open },
        node("summary", {}, t("details")),
        node("dl", { class: "facts" }, facts.map(([label, value]) => node("div", {}, node("dt", {}, label), node("dd", {}, value)))))),
    node("code", { class: "step-name", "aria-hidden": "true" }, result.id));
}

/** Asks whose pages are to read; what was typed stays. */
function originForm() {
  const field = node("input", {
    id: "origin", "data-testid": "origin", type: "text", inputmode: "url", autocomplete: "url", autocapitalize: "off", spellcheck: "false",
    value: origin, placeholder: "https://app.example.com",
  });
  const submitted = (event) => {
    event.preventDefault();
    origin = field.value.trim();
    run.found.origin = origin;
    take(run, STEPS.find(({ id }) => id === "cors")).then(() => byId("origin")?.focus());
  };
  return node("form", { class: "origin", onsubmit: submitted },
    node("label", { class: "visually-hidden", for: "origin" }, t("cors_ask")), field,
    node("button", { type: "submit", class: "quiet", "data-testid": "origin-check" }, t("cors_check")));
}

function commandNode(text) {
  const code = node("code", { "data-testid": "command" }, text);
  const button = node("button", { type: "button", class: "quiet" }, t("copy"));
  button.addEventListener("click", async () => { button.textContent = t((await copy(text, code)) ? "copied" : "copyByHand"); });
  return node("div", { class: "command" }, code, button);
}

/** Without the token, whatever a server has put into its words. */
function report() {
  if (!run) return "";
  const lines = [`notify-server, ${t("diagnostic")}, ${run.began.toISOString()}`, location.origin, navigator.userAgent, byId("verdict").textContent, ""];
  for (const result of results()) {
    lines.push(`[${t(`state_${result.state}`)}] ${result.id}: ${t(`step_${result.id}`)}`);
    if (result.key) lines.push(`    ${textOf(result)}`);
    for (const [label, value] of factsOf(result)) lines.push(`    ${label}: ${value}`);
    if (result.advice) lines.push(`    → ${t(result.advice)}`);
  }
  return lines.join("\n").replace(/[\w-]{8,}\.[\w-]{8,}\.[\w-]*/g, "[token]");
}

byId("again").addEventListener("click", () => { if (run) start(run.found.session); });
byId("sign-out").addEventListener("click", () => signIn.end());
byId("copy-report").addEventListener("click", async () => {
  const copied = await copy(report(), byId("report-text"));
  if (!copied) byId("report-text").closest("details").open = true;
  byId("copy-report").textContent = t(copied ? "copied" : "copyByHand");
});

onLanguage(() => {
  document.title = t("title");
  draw();
});
addWords(words);
begin();
document.title = t("title");
signIn.begin();
