// The overview for administrators: asks all instances every few seconds, through the one that answers, and shows what
// they say. Owns what was asked last; the charts are chart.js.

import { Chart } from "./chart.js";
import { avatar, byId, node, showError } from "./dom.js";
import { addWords, begin, locale, onLanguage, t } from "./i18n.js";
import { SignIn } from "./sign-in.js";
import { words } from "./words-admin.js";

const EVERY_MS = 2_000;
const PAGE = 50;
const SHOWN_CHANNELS = 15;
const ASKED_CHANNELS = 500;
const LISTED_CHANNELS = 3; // of a connection
const LATELY = 6; // answers whose deliveries count together
const REMEMBERED_MS = 600_000; // how long an instance is shown that is no longer there

addWords(words);

const number = (value, digits = 0) => value.toLocaleString(locale(), { maximumFractionDigits: digits });
const milliseconds = (ms) => (ms >= 1000 ? `${number(ms / 1000, 1)} s` : `${number(ms, ms < 10 ? 2 : 0)} ms`);

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(count) / 3));
  return `${number(count / 1000 ** power, power ? 1 : 0)} ${units[power]}`;
}

const charts = {
  connections: new Chart({ name: "connections", title: "chart_connections", format: number, stepMs: EVERY_MS }),
  events: new Chart({ name: "events", title: "chart_events", format: (value) => number(value, value < 10 ? 1 : 0), stepMs: EVERY_MS }),
  bytes: new Chart({ name: "bytes", title: "chart_bytes", format: bytes, stepMs: EVERY_MS }),
  latency: new Chart({ name: "latency", title: "chart_latency", format: (ms) => `≤ ${milliseconds(ms)}`, lines: 2, stepMs: EVERY_MS }),
  slow: new Chart({ name: "slow", title: "chart_slow", format: number, stepMs: EVERY_MS }),
};

const signIn = new SignIn({ title: "signInTitle", lead: "signInLead", admin: true, onSession });
const page = { session: null, pages: 1, before: null, shown: null, pill: "idle", seen: new Map() };

function onSession(session) {
  clearTimeout(page.timer);
  Object.assign(page, { session, pages: 1, before: null, lately: null, shown: null, seen: new Map() });
  byId("overview").hidden = !session;
  byId("sign-out").hidden = !session;
  pill("idle");
  if (!session) return;
  signIn.show(false);
  look(session);
}

function pill(state) {
  page.pill = state;
  byId("connection").dataset.state = state;
  byId("connection-text").textContent = t(`state_${state}`);
}

// Asking

async function look(session) {
  if (session !== page.session) return;
  clearTimeout(page.timer);
  try {
    if (!document.hidden) await lookOnce(session);
  } catch (error) {
    if (session !== page.session) return;
    if (error.status === 403) return signIn.end(t("forbidden", { why: error.message }));
    if (error.status === 401) return signIn.end(session.refused(error.why || error.message));
    pill("reconnecting");
  }
  if (session === page.session) page.timer = setTimeout(look, EVERY_MS, session);
}

async function lookOnce(session) {
  const signal = AbortSignal.timeout(10_000);
  const [stats, connections, channels, rejections] = await Promise.all([
    session.json("/api/v1/connections/stats", { signal }),
    connectionsOf(session, signal),
    session.json("/api/v1/channels", { query: { limit: ASKED_CHANNELS }, signal }),
    session.json("/api/v1/rejections", { signal }),
  ]);
  if (session !== page.session) return;
  pill("live");
  push(stats);
  for (const name of Object.keys(stats.by_instance)) page.seen.set(name, Date.now());
  page.shown = { stats, connections, channels, rejections };
  draw();
}

/** As many pages as are shown; a filter that can't be read is the reader's to see. */
async function connectionsOf(session, signal) {
  const text = byId("filter-text").value.trim();
  const filter = text ? { [byId("filter-by").value]: text } : {};
  const found = { connections: [], next: null, filter };
  try {
    for (let count = 0; count < page.pages; count += 1) {
      const query = { ...filter, limit: PAGE, ...(found.next && { after: found.next }) };
      const { connections, next } = await session.json("/api/v1/connections", { query, signal });
      found.connections.push(...connections);
      found.next = next;
      if (!next) break;
    }
  } catch (error) {
    if (error.status !== 422) throw error;
    found.error = error.message;
  }
  return found;
}

/** Counters become rates by the difference to the last time, for each instance that was there then, too. */
function push(stats) {
  const now = { at: performance.now(), instances: stats.by_instance };
  const rate = (name) => {
    if (!page.before) return null;
    const seconds = (now.at - page.before.at) / 1000;
    const grown = Object.entries(now.instances).map(([id, one]) => one[name] - (page.before.instances[id]?.[name] ?? one[name]));
    return grown.reduce((sum, more) => sum + Math.max(0, more), 0) / seconds;
  };
  const [p50, p99] = quantiles(stats.by_instance, [0.5, 0.99]);
  charts.connections.push([stats.total], () => t("note_connections", { n: Object.keys(stats.by_instance).length }));
  charts.events.push([rate("events")], () => t("note_events", { n: stats.events }));
  charts.bytes.push([rate("bytes")], () => t("note_bytes", { bytes: bytes(stats.bytes) }));
  charts.latency.push([p50, p99], () => (p99 === null ? t("note_latencyNone") : t("note_latency", { p50: milliseconds(p50), p99: milliseconds(p99) })));
  charts.slow.push([stats.slow_consumers], () => t("note_slow"));
  page.before = now;
}

/** Within which times the given parts of the last seconds' deliveries came, over all instances; null where there were none. */
function quantiles(instances, parts) {
  page.lately = [...(page.lately ?? []), instances].slice(-LATELY);
  const [first] = page.lately;
  const counts = new Map();
  for (const [id, { delivery = [] }] of Object.entries(instances)) {
    delivery.forEach(({ le_ms: end, count }, index) => {
      const more = first === instances ? 0 : count - (first[id]?.delivery?.[index]?.count ?? 0);
      const key = end ?? Infinity;
      counts.set(key, (counts.get(key) ?? 0) + Math.max(0, more));
    });
  }
  const all = [...counts.values()].reduce((sum, more) => sum + more, 0);
  const ends = [...counts.keys()].sort((one, two) => one - two);
  return parts.map((part) => {
    if (all === 0) return null;
    let seen = 0;
    const end = ends.find((candidate) => (seen += counts.get(candidate)) >= all * part);
    // What is longer than all ranges is at least as long as the last of them.
    return Number.isFinite(end) ? end : ends.at(-2);
  });
}

// Showing

function draw() {
  if (!page.shown) return;
  const { stats, connections, channels, rejections } = page.shown;
  drawConnections(connections);
  drawInstances(stats);
  drawChannels(channels);
  drawRejections(rejections);
}

/** Keeps what has the focus, which may be on a button of a row. */
function replace(target, children) {
  const focused = target.contains(document.activeElement) ? document.activeElement.dataset.keep : null;
  target.replaceChildren(...children);
  if (focused) target.querySelector(`[data-keep="${CSS.escape(focused)}"]`)?.focus();
}

function drawConnections({ connections, next, filter, error }) {
  showError(byId("connections-error"), error ?? "");
  const filtered = Object.keys(filter).length > 0;
  byId("connections-count").textContent = filtered ? number(connections.length) : "";
  const none = node("tr", {}, node("td", { colspan: 7, class: "hint" }, t(filtered ? "nobodyHere" : "nobody")));
  replace(byId("connections"), connections.length ? connections.map(row) : [none]);
  byId("more").hidden = !next;
  byId("end-user").hidden = !filter.user_id || connections.length === 0;
}

function row(connection) {
  const { connection_id: id, user_id: user, channels, channel_count: count, transport, instance, remote, user_agent: agent, connected_at: since, sent } = connection;
  const name = nameOf(user);
  return node("tr", { "data-testid": "connection-row", "data-connection": id, "data-user": user },
    node("td", {}, node("span", { class: "who" }, avatar(user, name), node("span", {}, name, node("span", { class: "hint" }, ` ${user}`)))),
    node("td", {}, node("span", { class: "tags" }, channels.slice(0, LISTED_CHANNELS).map((channel) => node("code", { class: "tag" }, channel)),
      count > LISTED_CHANNELS && node("span", { class: "hint" }, t("moreChannels", { n: count - LISTED_CHANNELS })))),
    node("td", {}, node("span", { class: "client", title: agent }, browserOf(agent)), node("span", { class: "hint" }, `${transport}, ${remote ?? "–"}`)),
    node("td", {}, node("code", {}, instance)),
    node("td", { class: "number" }, node("time", { datetime: since, title: new Date(since).toLocaleString(locale()) }, duration((Date.now() - new Date(since)) / 1000))),
    node("td", { class: "number" }, number(sent)),
    node("td", { class: "number" }, node("button", {
      type: "button", class: "quiet danger", "data-keep": id, "data-testid": "disconnect", "aria-label": t("disconnectWhom", { name }),
      onclick: () => disconnect(id, name),
    }, t("disconnect"))));
}

function nameOf(user) {
  return signIn.users?.find((known) => String(known.id) === String(user))?.name ?? t("userNumber", { id: user });
}

/** The client in a word or two, the whole of which is its title. */
function browserOf(agent) {
  const known = [["Edg", "Edge"], ["OPR", "Opera"], ["Firefox", "Firefox"], ["HeadlessChrome", "Chrome"], ["Chrome", "Chrome"], ["Version", "Safari"]];
  for (const [mark, name] of known) {
    const version = new RegExp(`\\b${mark}/(\\d+)`).exec(agent);
    if (version) return `${name} ${version[1]}`;
  }
  return agent.slice(0, 40) || "–";
}

function duration(seconds) {
  const [unit, size] = [["day", 86_400], ["hour", 3_600], ["minute", 60]].find(([, least]) => seconds >= least) ?? ["second", 1];
  return new Intl.NumberFormat(locale(), { style: "unit", unit, unitDisplay: "narrow", maximumFractionDigits: 0 }).format(Math.max(0, Math.floor(seconds / size)));
}

function drawInstances({ by_instance: instances, instances: { missing } }) {
  const there = Object.entries(instances).map(([name, one]) => node("li", { "data-testid": "instance" },
    node("span", { class: "dot up", "aria-hidden": "true" }),
    node("div", {},
      node("code", {}, name),
      node("p", { class: "hint" }, t("instanceLine", { n: one.connections, up: duration(one.uptime_secs), version: one.version })),
      node("p", { class: "hint" }, t("instanceWork", { events: one.events, slow: one.slow_consumers })))));
  const down = (name, text) => node("li", { "data-testid": "instance-down" },
    node("span", { class: "dot down", "aria-hidden": "true" }),
    node("div", {}, node("code", {}, name), node("p", { class: "error" }, text)));
  const silent = missing.map((name) => down(name, t("missing")));
  // The others forget an instance soon; who looks at the page may not have been looking just then.
  const gone = [...page.seen].filter(([name, at]) => !instances[name] && !missing.includes(name) && Date.now() - at < REMEMBERED_MS)
    .map(([name, at]) => down(name, t("goneSince", { time: new Date(at).toLocaleTimeString(locale()) })));
  byId("instances").replaceChildren(...there, ...silent, ...gone);
}

function drawChannels({ channels, next }) {
  // Instances count a channel each, so they are counted here.
  const counts = new Map();
  for (const { channel } of channels) {
    const resource = channel.split(":", 1)[0];
    counts.set(resource, (counts.get(resource) ?? 0) + 1);
  }
  byId("resources").replaceChildren(...[...counts].map(([resource, count]) =>
    node("li", { class: "tag" }, t("resourceLine", { channels: `${number(count)}${next ? "+" : ""}`, resource }))));
  const most = channels.toSorted((one, two) => two.listeners - one.listeners).slice(0, SHOWN_CHANNELS);
  const shown = most.map(({ channel, listeners }) => node("li", {},
    node("button", { type: "button", class: "link", "data-keep": channel, onclick: () => filterBy("channel", channel) }, channel),
    node("span", { class: "hint" }, t("listeners", { n: listeners }))));
  replace(byId("channels"), shown.length ? shown : [node("li", { class: "hint" }, t("noChannels"))]);
  byId("channels-more").hidden = !next && channels.length <= SHOWN_CHANNELS;
}

function drawRejections({ rejections, instance }) {
  byId("rejections-hint").textContent = t("rejectionsHint", { instance });
  const time = new Intl.DateTimeFormat(locale(), { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const shown = rejections.slice(0, 20).map(({ at, reason, problem, subject, payload }) => node("li", { "data-testid": "rejection" },
    node("p", { class: "rejection-head" }, node("time", { datetime: at }, time.format(new Date(at))), node("span", { class: "tag bad" }, reason), node("code", {}, subject)),
    node("p", {}, problem),
    node("code", { class: "payload" }, payload)));
  byId("rejections").replaceChildren(...(shown.length ? shown : [node("li", { class: "hint" }, t("noRejections"))]));
}

// Doing

function filterBy(kind, text) {
  byId("filter-by").value = kind;
  byId("filter-text").value = text;
  refilter();
  byId("connections-title").scrollIntoView({ block: "nearest" });
}

function refilter() {
  page.pages = 1;
  if (page.session) look(page.session);
}

/** Resolves to whether it was confirmed. */
function confirmed(title) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = t("confirmText");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => { dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }); });
}

async function end(title, path, query) {
  const { session } = page;
  if (!(await confirmed(title))) return;
  showError(byId("connections-error"), "");
  try {
    await session.json(path, { method: "DELETE", query });
  } catch (error) {
    page.shown = null;
    showError(byId("connections-error"), error.status === 404 ? t("gone") : error.message);
    return;
  }
  look(session);
}

const disconnect = (id, name) => end(t("confirmOne", { name }), `/api/v1/connections/${encodeURIComponent(id)}`);

byId("end-user").addEventListener("click", () => {
  const user = byId("filter-text").value.trim();
  end(t("confirmUser", { name: nameOf(user) }), "/api/v1/connections", { user_id: user });
});
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", () => {
  clearTimeout(page.typing);
  page.typing = setTimeout(refilter, 250);
});
byId("more").addEventListener("click", () => {
  page.pages += 1;
  if (page.session) look(page.session);
});
byId("sign-out").addEventListener("click", () => signIn.end());
document.addEventListener("visibilitychange", () => { if (!document.hidden && page.session) look(page.session); });

byId("charts").append(...Object.values(charts).map((chart) => chart.element));
onLanguage(() => {
  document.title = t("title");
  pill(page.pill);
  Object.values(charts).forEach((chart) => chart.redraw());
  draw();
});
begin();
document.title = t("title");
pill("idle");
Object.values(charts).forEach((chart) => chart.redraw());
signIn.begin();
