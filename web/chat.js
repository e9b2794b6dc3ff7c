// The chat: keeps one user's events coming, shows what arrives and sends what is typed. Owns the page's state; how it
// looks is view.js, how it talks to the server is connection.js and messages.js.

import { wireId } from "./api.js";
import { Connection } from "./connection.js";
import { shrink } from "./picture.js";
import { byId, copy, dressAvatar, showError } from "./dom.js";
import { addWords, begin, onLanguage, t } from "./i18n.js";
import { History, Publisher, messageOf, onlineUsers } from "./messages.js";
import { SignIn } from "./sign-in.js";
import { appendItem, logEvent, showChats, showItems, showMembers, showTyping } from "./view.js";
import { words } from "./words-chat.js";

const ITEMS_PER_CHAT = 500;
const DEFAULT_PORT = "6687"; // the one that the command line asks by itself
const TYPING_REPEAT_MS = 3_000; // how often a typist says so again
const TYPING_SHOWN_MS = 6_000; // typing events may be lost, so one is believed only this long
const CHAT_EVENTS = new Set([
  "new_message", "message_edited", "message_deleted", "typing_started", "typing_stopped", "chat_member_added", "chat_member_removed",
]);

const page = { names: new Map(), generation: 0 };

const signIn = new SignIn({ title: "signInTitle", lead: "signInLead", onSession });
const connection = new Connection({ onEvent, onReady: (ready) => { byId("send").disabled = !ready; }, onEnd: (why) => signIn.end(why) });

/** Nothing of one user may show up in the view of the next. */
function forget() {
  connection.close();
  Object.assign(page, { me: null, session: null, active: null, chats: new Map(), presence: new Map(), sentAt: new Map(), logged: 0 });
  page.generation += 1;
  ownTyping.chat = null;
  byId("draft").value = "";
  byId("presence").value = "online";
  clearLog();
}

function onSession(session) {
  forget();
  byId("live").hidden = true;
  byId("identity").hidden = true;
  if (!session) return;
  const { users, chats } = signIn;
  page.names = new Map(users?.map((user) => [String(user.id), user.name]));
  page.chatNames = new Map(chats.map((chat) => [String(chat.id), chat.name]));
  page.session = session;
  page.history = new History(session);
  page.publisher = new Publisher(session, page.history);
  page.typing = new Publisher(session, page.history); // of its own, so that no message waits behind it
  connection.open(session);
}

// What arrives

const handlers = {
  connection_confirmed: confirmed,
  message_edited: edited,
  message_deleted: deleted,
  typing_started: (event) => typing(event, true),
  typing_stopped: (event) => typing(event, false),
  user_presence: presenceChanged,
  chat_member_added: memberAdded,
  chat_member_removed: memberRemoved,
  gap: missed,
};

function onEvent(event, id) {
  logEvent(event, id);
  if (event.type !== "ping") byId("log-count").textContent = String(++page.logged);
  if (typeof event.user_name === "string" && event.user_id !== undefined) page.names.set(String(event.user_id), event.user_name);
  const complete = event.chat_id !== undefined || !CHAT_EVENTS.has(event.type);
  if (complete && Object.hasOwn(handlers, event.type)) return handlers[event.type](event);
  const message = messageOf(event);
  if (message) received(message);
}

function confirmed(event) {
  page.me = String(event.user_id);
  const demo = signIn.users?.find((user) => String(user.id) === page.me);
  const listed = new Set((event.connected_chats ?? demo?.chats ?? []).map(String));
  for (const id of page.chats.keys()) if (!listed.has(id)) page.chats.delete(id);
  listed.forEach(chatOf);
  dressAvatar(byId("identity-avatar"), page.me, nameOf(page.me));
  byId("identity-name").textContent = nameOf(page.me);
  byId("identity").hidden = false;
  byId("sign-out").dataset.t = page.session.demoUser ? "switchUser" : "signOut";
  byId("sign-out").textContent = t(byId("sign-out").dataset.t);
  signIn.show(false);
  byId("live").hidden = false;
  activate(page.chats.has(page.active) ? page.active : [...page.chats.keys()][0] ?? null);
  loadPresence(page.session);
}

/** Presence is not replayed, so every connection begins with asking. */
async function loadPresence(session) {
  const online = await onlineUsers(session);
  if (!online || session !== page.session) return;
  for (const [id, status] of page.presence) if (status === "online" && !online.has(id)) page.presence.delete(id);
  for (const id of online) if (!page.presence.has(id)) page.presence.set(id, "online");
  drawMembers();
}

function received(message) {
  const chat = chatOf(message.chatId);
  if (message.sender) page.names.set(message.senderId, message.sender);
  const item = itemOf(message);
  item.arrivedAt = performance.now();
  const sent = page.sentAt.get(item.id);
  if (sent !== undefined) delivered(item, sent);
  // What the history has had already.
  if (!chat.items.some((other) => other.id === item.id)) add(chat, item);
  clearTimeout(chat.typing.get(message.senderId));
  chat.typing.delete(message.senderId);
  if (chat.id === page.active) return drawTyping();
  chat.unread += 1;
  drawChats();
}

function itemOf(message) {
  return { kind: "message", ...message, sender: nameOf(message.senderId), own: message.senderId === page.me };
}

function delivered(item, sentAt) {
  item.deliveredMs = Math.max(1, Math.round(item.arrivedAt - sentAt));
  page.sentAt.delete(item.id);
}

function edited(event) {
  const id = String(event.message?.id ?? event.message_id);
  change(event, id, (item) => {
    item.text = String(event.message?.content ?? event.content ?? item.text);
    item.edited = true;
  });
}

function deleted(event) {
  change(event, String(event.message_id), (item) => { item.deleted = true; });
}

function typing(event, started) {
  const chat = chatOf(String(event.chat_id));
  const id = String(event.user_id);
  clearTimeout(chat.typing.get(id));
  chat.typing.delete(id);
  if (started) chat.typing.set(id, setTimeout(() => typing(event, false), TYPING_SHOWN_MS));
  drawTyping();
}

function presenceChanged(event) {
  page.presence.set(String(event.user_id), String(event.status));
  drawMembers();
}

function memberAdded(event) {
  const id = String(event.user_id);
  const chat = chatOf(String(event.chat_id));
  if (typeof event.chat_name === "string") chat.name = event.chat_name;
  chat.members?.add(id);
  note(chat.id, id === page.me ? "youJoined" : "joined", { name: nameOf(id) });
  if (page.active === null) activate(chat.id);
  drawChats();
  drawMembers();
}

function memberRemoved(event) {
  const id = String(event.user_id);
  const chat = chatOf(String(event.chat_id));
  chat.members?.delete(id);
  if (id !== page.me) {
    note(chat.id, "left", { name: nameOf(id) });
    return drawMembers();
  }
  page.chats.delete(chat.id);
  if (page.active === chat.id) activate([...page.chats.keys()][0] ?? null);
  note(page.active, "youLeft", { chat: nameOfChat(chat) });
  drawChats();
}

/** What the stream could not give the history has, where there is one. */
function missed() {
  for (const chat of page.chats.values()) chat.history = "unread";
  if (page.active === null) return;
  if (page.history.kept) loadHistory(page.chats.get(page.active));
  else note(page.active, "gap");
}

// The chats

function chatOf(id) {
  if (!page.chats.has(id)) {
    const known = signIn.users?.filter((user) => user.chats.map(String).includes(id)).map((user) => String(user.id));
    const name = page.chatNames.get(id) ?? null;
    page.chats.set(id, { id, name, members: known && new Set(known), items: [], unread: 0, typing: new Map(), history: "unread", older: null });
  }
  return page.chats.get(id);
}

function nameOfChat(chat) {
  return chat.name ?? t("chatNumber", { id: chat.id });
}

function nameOf(id) {
  return page.names.get(id) ?? t("userNumber", { id });
}

function add(chat, item) {
  chat.items.push(item);
  if (chat.id === page.active) appendItem(chat.items);
  if (chat.items.length > ITEMS_PER_CHAT) {
    chat.items.shift();
    if (chat.id === page.active) byId("messages").firstElementChild.remove();
  }
}

function note(chatId, key, values) {
  const chat = page.chats.get(chatId);
  if (chat) add(chat, { kind: "note", key, values });
}

function change(event, id, how) {
  const chat = page.chats.get(String(event.chat_id));
  const item = chat?.items.find((candidate) => candidate.id === id);
  if (!item) return;
  how(item);
  if (chat.id === page.active) showItems(chat.items, null, true);
}

/** The stream is open before the history is read, so that nothing falls between them; ids tell what is in both. */
async function loadHistory(chat, before) {
  const generation = page.generation;
  chat.history = "reading";
  const found = await page.history.page(chat.id, before);
  chat.history = found || page.history.kept === false ? "read" : "unread";
  if (!found || generation !== page.generation) return;
  const here = new Set(chat.items.map((item) => item.id));
  for (const message of found.messages) if (message.sender) page.names.set(message.senderId, message.sender);
  const fresh = found.messages.filter((message) => !here.has(message.id)).map(itemOf);
  chat.older = found.next;
  if (fresh.length > 0) {
    // Stable, so that notes stay where they are; what has no time came last.
    const merged = before ? [...fresh, ...chat.items] : [...fresh, ...chat.items].sort((one, two) => (one.at && two.at ? one.at - two.at : 0));
    chat.items = merged.slice(-ITEMS_PER_CHAT);
  }
  if (chat.id !== page.active) return;
  showItems(chat.items, emptyChat(chat), Boolean(before));
  drawOlder();
}

function activate(id) {
  if (id !== page.active) stopTyping();
  page.active = id;
  const chat = page.chats.get(id);
  if (chat) chat.unread = 0;
  byId("composer").hidden = !chat;
  showError(byId("composer-error"), "");
  draw();
  if (chat?.history === "unread") loadHistory(chat);
}

function draw() {
  const chat = page.chats.get(page.active);
  showItems(chat?.items ?? [], chat ? emptyChat(chat) : { text: t("noChats") });
  drawChats();
  drawMembers();
  drawTyping();
  drawOlder();
}

function emptyChat(chat) {
  const message = { id: "1", sender_id: wireId(page.me), content: "hello from a terminal" };
  const payload = JSON.stringify({ MessageReceived: { chat_id: wireId(chat.id), message } });
  const elsewhere = location.port === DEFAULT_PORT ? "" : ` --url ${location.origin}`;
  return { text: t("empty"), command: `notify-server publish fechatter.realtime.chat.${shellWord(chat.id)} ${shellWord(payload)}${elsewhere}` };
}

function shellWord(text) {
  return /^[\w.:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function drawChats() {
  const chats = [...page.chats.values()];
  showChats(chats.map((chat) => ({ ...chat, name: nameOfChat(chat) })), page.active, activate);
  const unread = chats.reduce((sum, chat) => sum + chat.unread, 0);
  document.title = (unread ? `(${unread}) ` : "") + t("title");
}

function drawMembers() {
  const chat = page.chats.get(page.active);
  const members = [...chat?.members ?? []].map((id) => ({
    id, name: nameOf(id), presence: page.presence.get(id), self: id === page.me,
    link: signIn.users && id !== page.me && `/#user=${encodeURIComponent(id)}`,
  }));
  const online = members.filter((member) => member.presence === "online").length;
  byId("chat-title").textContent = chat ? nameOfChat(chat) : t("noChat");
  byId("chat-note").textContent = members.length ? [t("memberCount", { n: members.length }), online && t("onlineCount", { n: online })].filter(Boolean).join(" · ") : "";
  showMembers(members);
}

function drawTyping() {
  showTyping([...page.chats.get(page.active)?.typing.keys() ?? []].map(nameOf));
}

function drawOlder() {
  byId("older").hidden = !page.chats.get(page.active)?.older;
}

function clearLog() {
  page.logged = 0;
  byId("log-count").textContent = "0";
  byId("log").replaceChildren();
}

// What is sent

async function sendMessage(text, media = null) {
  const chat = page.chats.get(page.active);
  if (!chat || byId("send").disabled || (!text && !media)) return true;
  stopTyping();
  const began = performance.now();
  let id = null;
  const sending = (known) => {
    id = known;
    page.sentAt.set(id, began);
    const item = chat.items.find((candidate) => candidate.id === id);
    if (!item?.arrivedAt) return;
    delivered(item, began);
    if (chat.id === page.active) showItems(chat.items, null, true);
  };
  try {
    await page.publisher.send({ chatId: chat.id, me: page.me, name: nameOf(page.me), text, media }, sending);
    showError(byId("composer-error"), "");
    return true;
  } catch (error) {
    page.sentAt.delete(id);
    showError(byId("composer-error"), t("notSent", { why: error.message }));
    return false;
  }
}

async function submitted(event) {
  event.preventDefault();
  const draft = byId("draft");
  const text = draft.value.trim();
  if (!text || byId("send").disabled) return;
  draft.value = "";
  if (!(await sendMessage(text))) draft.value ||= text;
}

async function sendPicture() {
  const [file] = byId("picture").files;
  byId("picture").value = "";
  if (!file) return;
  try {
    const url = await shrink(file);
    if (!url) throw new Error(t("pictureTooLarge"));
    await sendMessage("", { kind: "image", url });
  } catch (error) {
    showError(byId("composer-error"), t("notSent", { why: error.name === "InvalidStateError" ? t("pictureUnreadable") : error.message }));
  }
}

const ownTyping = { chat: null, saidAt: 0, timer: null };

function typed() {
  const chat = page.chats.get(page.active);
  if (!chat || !byId("draft").value.trim()) return stopTyping();
  clearTimeout(ownTyping.timer);
  ownTyping.timer = setTimeout(stopTyping, TYPING_REPEAT_MS);
  if (ownTyping.chat === chat.id && performance.now() - ownTyping.saidAt < TYPING_REPEAT_MS) return;
  Object.assign(ownTyping, { chat: chat.id, saidAt: performance.now() });
  sayTyping(chat.id, { TypingStarted: { chat_id: wireId(chat.id), user_id: wireId(page.me), user_name: nameOf(page.me) } });
}

function stopTyping() {
  clearTimeout(ownTyping.timer);
  const id = ownTyping.chat;
  ownTyping.chat = null;
  if (id !== null && page.me) sayTyping(id, { TypingStopped: { chat_id: wireId(id), user_id: wireId(page.me) } });
}

/** Nobody misses a typing event, so a failed one needs no word to the user. */
function sayTyping(chatId, payload) {
  page.typing.publish(`fechatter.realtime.chat.${chatId}.typing`, payload).catch(() => {});
}

function sayPresence() {
  const payload = { UserPresence: { user_id: wireId(page.me), status: byId("presence").value, last_seen: null } };
  page.publisher.publish(`fechatter.realtime.user.${page.me}.presence`, payload)
    .catch((error) => showError(byId("composer-error"), t("statusNotSent", { why: error.message })));
}

// Wiring

byId("composer").addEventListener("submit", submitted);
byId("draft").addEventListener("input", typed);
byId("draft").addEventListener("blur", stopTyping);
byId("presence").addEventListener("change", sayPresence);
byId("sign-out").addEventListener("click", () => signIn.end());
byId("older").addEventListener("click", () => {
  const chat = page.chats.get(page.active);
  if (chat?.history === "read") loadHistory(chat, chat.older);
});
byId("own-picture").addEventListener("click", () => byId("picture").click());
byId("picture").addEventListener("change", sendPicture);
for (const button of byId("attach").querySelectorAll("[data-sample]")) {
  const [kind, name] = button.dataset.sample.split(":");
  button.addEventListener("click", () => sendMessage("", { kind, url: `/assets/${name}` }));
}
byId("attach").addEventListener("click", (event) => { if (event.target.closest(".menu")) byId("attach").open = false; });
document.addEventListener("click", (event) => { if (!byId("attach").contains(event.target)) byId("attach").open = false; });
byId("attach").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !byId("attach").open) return;
  byId("attach").open = false;
  byId("attach").querySelector("summary").focus();
});
byId("log-pings").addEventListener("change", (event) => { byId("log").dataset.pings = event.target.checked ? "show" : "hide"; });
byId("log-clear").addEventListener("click", clearLog);
byId("copy").addEventListener("click", async () => {
  byId("copy").textContent = t((await copy(byId("command").textContent, byId("command"))) ? "copied" : "copyByHand");
});
byId("log-panel").open = matchMedia("(min-width: 70rem)").matches;

onLanguage(() => {
  connection.draw();
  draw();
});
addWords(words);
begin();
forget();
signIn.begin();
