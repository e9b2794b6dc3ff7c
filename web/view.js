// Puts what the chat knows into the document. Everything that came from outside goes in as text, never as markup.
// Knows no network and keeps no state of its own.

import { avatar, byId, node } from "./dom.js";
import { locale, t } from "./i18n.js";
import { mediaNode } from "./media.js";

const LOG_LIMIT = 200;
const GROUP_MS = 5 * 60_000;
const DAY_MS = 24 * 60 * 60_000;

function clock(time) {
  const old = Date.now() - time > DAY_MS;
  return new Intl.DateTimeFormat(locale(), { hour: "2-digit", minute: "2-digit", ...(old && { day: "numeric", month: "short" }) }).format(time);
}

function exactClock(time) {
  const parts = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false };
  return new Intl.DateTimeFormat(locale(), parts).format(time);
}

export function showChats(chats, activeId, choose) {
  byId("chats").replaceChildren(...chats.map((chat) =>
    node("li", {},
      node("button", {
        type: "button", class: "chat", "data-testid": `chat-${chat.id}`,
        "aria-current": chat.id === activeId && "true", onclick: () => choose(chat.id),
      },
      node("span", { class: "chat-name" }, chat.name),
      chat.unread > 0 && node("span", { class: "badge", "data-testid": `unread-${chat.id}` },
        node("span", { "aria-hidden": "true" }, String(chat.unread)), node("span", { class: "visually-hidden" }, t("unread", { n: chat.unread })))))));
}

/** `members` are `{id, name, presence, self, link}`; a link opens the page as that user. */
export function showMembers(members) {
  byId("members-section").hidden = members.length === 0;
  byId("members").replaceChildren(...members.map((member) =>
    node("li", { class: "member", "data-testid": `member-${member.id}`, "data-presence": member.presence },
      node("span", { class: "member-face", title: member.presence && presenceName(member.presence) },
        avatar(member.id, member.name),
        member.presence && node("span", { class: "visually-hidden" }, `${presenceName(member.presence)}: `)),
      node("span", { class: "member-name" }, member.name),
      member.self && node("span", { class: "hint" }, t("youAre")),
      member.link && node("a", { href: member.link, target: "_blank", rel: "noopener", class: "open-as", "aria-label": t("openAs", { name: member.name }) }, t("open")))));
}

function presenceName(status) {
  return ["online", "away", "offline"].includes(status) ? t(status) : status;
}

/** Draws a whole chat anew, after a switch, an edit or a deletion. */
export function showItems(items, empty, keepPlace = false) {
  const scroller = byId("scroller");
  const fromEnd = scroller.scrollHeight - scroller.scrollTop;
  byId("messages").replaceChildren(...items.map((item, index) => itemNode(item, items[index - 1])));
  showEmpty(items.length === 0 ? empty : null);
  if (keepPlace) scroller.scrollTop = scroller.scrollHeight - fromEnd;
  else scrollToEnd();
}

/** Adds the last item, and follows it unless the reader has scrolled up. */
export function appendItem(items) {
  const scroller = byId("scroller");
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
  const item = items.at(-1);
  byId("messages").append(itemNode(item, items.at(-2)));
  showEmpty(null);
  if (atEnd || item.own) scrollToEnd();
}

function showEmpty(empty) {
  byId("empty").hidden = !empty;
  byId("empty-text").textContent = empty?.text ?? "";
  byId("empty-command").hidden = !empty?.command;
  byId("command").textContent = empty?.command ?? "";
  byId("copy").textContent = t("copy");
}

function scrollToEnd() {
  const scroller = byId("scroller");
  scroller.scrollTop = scroller.scrollHeight;
  // Pictures take their place when they are there.
  for (const picture of scroller.querySelectorAll("img:not([data-placed])")) {
    picture.dataset.placed = "";
    picture.addEventListener("load", () => { scroller.scrollTop = scroller.scrollHeight; }, { once: true });
  }
}

function itemNode(item, previous) {
  if (item.kind === "note") return node("li", { class: "note", "data-testid": "note" }, t(item.key, item.values));
  const follows = previous?.kind === "message" && previous.senderId === item.senderId && item.at - previous.at < GROUP_MS;
  const meta = [item.edited && t("edited"), item.deliveredMs !== undefined && t("deliveredIn", { n: item.deliveredMs })].filter(Boolean).join(" · ");
  return node("li", {
    class: `message${item.own ? " own" : ""}${follows ? " follows" : ""}`,
    "data-testid": "message", "data-message-id": item.id, "data-sender-id": item.senderId,
  },
  avatar(item.senderId, item.sender),
  node("div", { class: "message-body" },
    node("p", { class: "message-head" },
      node("span", { class: "sender" }, item.own ? t("you") : item.sender),
      node("time", { datetime: item.at.toISOString() }, clock(item.at))),
    item.deleted && node("p", { class: "bubble deleted", "data-testid": "content" }, t("deleted")),
    !item.deleted && item.text && node("p", { class: "bubble", "data-testid": "content" }, item.text),
    !item.deleted && item.media.length > 0 && node("div", { class: "media", "data-testid": "media" }, item.media.map(mediaNode)),
    meta && node("p", { class: "meta" }, meta)));
}

export function showTyping(names) {
  const list = new Intl.ListFormat(locale()).format(names.slice(0, 3));
  byId("typing").textContent = names.length ? t("typing", { n: names.length, names: list }) : "";
}

/** Newest first, bounded. */
export function logEvent(event, id) {
  const log = byId("log");
  log.prepend(node("li", { class: "log-entry", "data-testid": "log-entry", "data-type": event.type },
    node("details", {},
      node("summary", {},
        node("span", { class: "log-type" }, String(event.type)),
        node("time", {}, exactClock(new Date()))),
      node("p", { class: "log-id" }, id ? `id ${id}` : t("noId")),
      node("pre", { tabindex: "0" }, JSON.stringify(event, null, 2)))));
  while (log.children.length > LOG_LIMIT) log.lastElementChild.remove();
}
