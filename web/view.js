// Puts what the page knows into the document. Everything that came from outside goes in as text,
// never as markup. Knows no network and keeps no state of its own.

const TONES = 6;
const LOG_LIMIT = 200;
const GROUP_MS = 5 * 60_000;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const exactClock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false,
});

export const byId = (id) => document.getElementById(id);

/** An element with attributes; children are elements or text. */
export function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function avatar(id, name) {
  const made = node("span", { "aria-hidden": "true" });
  dressAvatar(made, id, name);
  return made;
}

/** The initial on one of a few tones, the same tone for the same id everywhere. */
export function dressAvatar(target, id, name) {
  const sum = [...String(id)].reduce((total, letter) => total + letter.charCodeAt(0), 0);
  target.className = `avatar tone-${sum % TONES}`;
  target.textContent = [...String(name)][0]?.toUpperCase() ?? "?";
}

export function showError(target, text) {
  target.textContent = text;
  target.hidden = !text;
}

export function showConnection(state, text) {
  byId("connection").dataset.state = state;
  byId("connection-text").textContent = text;
}

export function showUsers(users, choose) {
  byId("users").replaceChildren(...users.map((user) =>
    node("li", {},
      node("button", { type: "button", class: "user", "data-testid": `user-${user.id}`, onclick: () => choose(String(user.id)) },
        avatar(user.id, user.name),
        node("span", { class: "user-text" },
          node("span", { class: "user-name" }, user.name),
          node("span", { class: "hint" }, user.chats.length === 1 ? "1 chat" : `${user.chats.length} chats`))))));
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
        String(chat.unread), node("span", { class: "visually-hidden" }, " unread"))))));
}

/** `members` are `{id, name, presence, self, link}`; a link opens the page as that user. */
export function showMembers(members) {
  byId("members-section").hidden = members.length === 0;
  byId("members").replaceChildren(...members.map((member) =>
    node("li", { class: "member", "data-testid": `member-${member.id}`, "data-presence": member.presence },
      node("span", { class: "member-face", title: member.presence },
        avatar(member.id, member.name),
        member.presence && node("span", { class: "visually-hidden" }, `${member.presence}: `)),
      node("span", { class: "member-name" }, member.name),
      member.self && node("span", { class: "hint" }, "you"),
      member.link && node("a", { href: member.link, target: "_blank", rel: "noopener", class: "open-as" },
        "Open", node("span", { class: "visually-hidden" }, ` a window as ${member.name}`)))));
}

/** Draws a whole chat anew, after a switch, an edit or a deletion. */
export function showItems(items, empty) {
  byId("messages").replaceChildren();
  items.forEach((item, index) => byId("messages").append(itemNode(item, items[index - 1])));
  showEmpty(items.length === 0 ? empty : null);
  scrollToEnd();
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
  byId("copy").textContent = "Copy";
}

function scrollToEnd() {
  byId("scroller").scrollTop = byId("scroller").scrollHeight;
}

function itemNode(item, previous) {
  if (item.kind === "note") return node("li", { class: "note", "data-testid": "note" }, item.text);
  const follows = previous?.kind === "message" && previous.senderId === item.senderId && item.at - previous.at < GROUP_MS;
  const meta = [
    item.edited && "edited",
    item.deliveredMs !== undefined && `delivered in ${item.deliveredMs} ms`,
    item.files > 0 && (item.files === 1 ? "1 file" : `${item.files} files`),
  ].filter(Boolean).join(" · ");
  return node("li", {
    class: `message${item.own ? " own" : ""}${follows ? " follows" : ""}`,
    "data-testid": "message", "data-message-id": item.id, "data-sender-id": item.senderId,
  },
  avatar(item.senderId, item.sender),
  node("div", { class: "message-body" },
    node("p", { class: "message-head" },
      node("span", { class: "sender" }, item.own ? "You" : item.sender),
      node("time", { datetime: item.at.toISOString() }, clock.format(item.at))),
    node("p", { class: `bubble${item.deleted ? " deleted" : ""}`, "data-testid": "content" }, item.deleted ? "Message deleted" : item.content),
    meta && node("p", { class: "meta" }, meta)));
}

export function showTyping(names) {
  const list = names.slice(0, 3).join(", ").replace(/, ([^,]*)$/, " and $1");
  byId("typing").textContent = names.length ? `${list} ${names.length === 1 ? "is" : "are"} typing…` : "";
}

/** Newest first, bounded. */
export function logEvent(event, id) {
  const log = byId("log");
  log.prepend(node("li", { class: "log-entry", "data-testid": "log-entry", "data-type": event.type },
    node("details", {},
      node("summary", {},
        node("span", { class: "log-type" }, String(event.type)),
        node("time", {}, exactClock.format(new Date()))),
      node("p", { class: "log-id" }, id ? `id ${id}` : "no id"),
      node("pre", { tabindex: "0" }, JSON.stringify(event, null, 2)))));
  while (log.children.length > LOG_LIMIT) log.lastElementChild.remove();
}
