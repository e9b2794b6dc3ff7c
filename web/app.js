// The demo page: signs a user in, keeps one event stream open, shows what arrives and publishes what is typed.
// Owns the page's state; how it looks is view.js, how it talks to the server is stream.js.

import { demoData, demoToken, LiveStream, onlineUsers, Publisher, wireId } from "./stream.js";
import {
  appendItem, byId, dressAvatar, logEvent, showChats, showConnection, showError, showItems, showMembers, showTyping, showUsers,
} from "./view.js";

const ITEMS_PER_CHAT = 500;
const TYPING_REPEAT_MS = 3_000; // how often a typist says so again
const TYPING_SHOWN_MS = 6_000; // typing events may be lost, so one is believed only this long
const CHAT_EVENTS = new Set([
  "new_message", "message_edited", "message_deleted", "typing_started", "typing_stopped", "chat_member_added", "chat_member_removed",
]);
const STATE_TEXT = {
  idle: "Not connected", connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", stopped: "Stopped",
};

const page = {
  users: null, // demo users, null outside development mode
  names: new Map(), // of users
  chatNames: new Map(),
  presence: new Map(),
  me: null,
  stream: null,
  publisher: null,
  typing: null, // a publisher of its own, so that no message waits behind it
  chats: new Map(),
  active: null,
  sentAt: new Map(), // id of a message sent here → when, to show how long it took to come back
  logged: 0,
};

// Signing in

async function start() {
  const demo = await demoData();
  page.users = demo?.users ?? null;
  page.users?.forEach((user) => page.names.set(String(user.id), user.name));
  demo?.chats?.forEach((chat) => page.chatNames.set(String(chat.id), chat.name));
  byId("user-choice").hidden = !page.users;
  byId("token-choice").open = !page.users;
  if (page.users) showUsers(page.users, (id) => { location.hash = `user=${id}`; });
  addEventListener("hashchange", signInFromAddress);
  signInFromAddress();
}

/** `/#user=2` opens the page as that demo user, so that several windows are a link each. */
function signInFromAddress() {
  const id = new URLSearchParams(location.hash.slice(1)).get("user");
  if (page.users && id) signIn({ fetchToken: () => demoToken(id), demoUser: id });
  else if (!id) signOut();
}

function signIn(identity) {
  forget();
  showError(byId("sign-in-error"), "");
  page.stream = new LiveStream({ ...identity, onEvent, onState });
  page.publisher = new Publisher(page.stream);
  page.typing = new Publisher(page.stream);
  page.stream.open();
}

/** Nothing of one user may show up in the view of the next. */
function forget() {
  page.stream?.close();
  Object.assign(page, { me: null, stream: null, active: null, chats: new Map(), presence: new Map() });
  ownTyping.chat = null;
  byId("draft").value = "";
  byId("presence").value = "online";
  clearLog();
}

function signOut(reason = "") {
  forget();
  byId("live").hidden = true;
  byId("identity").hidden = true;
  byId("sign-in").hidden = false;
  showError(byId("sign-in-error"), reason);
  if (!reason) onState("idle");
  if (location.hash) history.replaceState(null, "", location.pathname);
}

function onState(state, reason) {
  showConnection(state, STATE_TEXT[state]);
  byId("send").disabled = state !== "live";
  if (state === "stopped") signOut(reason);
}

// What arrives

const handlers = {
  connection_confirmed: confirmed,
  new_message: received,
  message_edited: edited,
  message_deleted: deleted,
  typing_started: (event) => typing(event, true),
  typing_stopped: (event) => typing(event, false),
  user_presence: presenceChanged,
  chat_member_added: memberAdded,
  chat_member_removed: memberRemoved,
  gap: () => note(page.active, "Some events could not be replayed. A chat client would reload its history now."),
};

function onEvent(event, id) {
  logEvent(event, id);
  if (event.type !== "ping") byId("log-count").textContent = String(++page.logged);
  if (event.user_name && event.user_id !== undefined) page.names.set(String(event.user_id), event.user_name);
  const complete = event.chat_id !== undefined || !CHAT_EVENTS.has(event.type);
  if (complete && Object.hasOwn(handlers, event.type)) handlers[event.type](event);
}

function confirmed(event) {
  page.me = String(event.user_id);
  const listed = new Set(event.connected_chats.map(String));
  for (const id of page.chats.keys()) if (!listed.has(id)) page.chats.delete(id);
  listed.forEach(chatOf);
  dressAvatar(byId("identity-avatar"), page.me, nameOf(page.me));
  byId("identity-name").textContent = nameOf(page.me);
  byId("identity").hidden = false;
  byId("sign-in").hidden = true;
  byId("live").hidden = false;
  activate(page.chats.has(page.active) ? page.active : [...page.chats.keys()][0] ?? null);
  loadPresence(page.stream);
}

/** Presence is not replayed, so every connection begins with asking. */
async function loadPresence(stream) {
  const online = await onlineUsers(stream);
  if (!online || stream !== page.stream) return;
  for (const [id, status] of page.presence) if (status === "online" && !online.has(id)) page.presence.delete(id);
  for (const id of online) if (!page.presence.has(id)) page.presence.set(id, "online");
  drawMembers();
}

function received(event) {
  const message = event.message ?? {};
  const chat = chatOf(String(event.chat_id));
  const senderId = String(message.sender_id);
  if (message.sender_name) page.names.set(senderId, message.sender_name);
  const id = String(message.id);
  const sent = page.sentAt.get(id);
  page.sentAt.delete(id);
  add(chat, {
    kind: "message", id, senderId, sender: nameOf(senderId), own: senderId === page.me,
    content: String(message.content ?? ""), files: message.files?.length ?? 0, at: timeOf(event.timestamp),
    deliveredMs: sent === undefined ? undefined : Math.max(1, Math.round(performance.now() - sent)),
  });
  chat.typing.delete(senderId);
  if (chat.id === page.active) return drawTyping();
  chat.unread += 1;
  drawChats();
}

function edited(event) {
  const id = String(event.message?.id ?? event.message_id);
  change(event, id, (item) => {
    item.content = String(event.message?.content ?? event.content ?? item.content);
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
  if (event.chat_name) chat.name = event.chat_name;
  chat.members?.add(id);
  note(chat.id, id === page.me ? "You joined" : `${nameOf(id)} joined`);
  if (page.active === null) activate(chat.id);
  drawChats();
  drawMembers();
}

function memberRemoved(event) {
  const id = String(event.user_id);
  const chat = chatOf(String(event.chat_id));
  chat.members?.delete(id);
  if (id !== page.me) {
    note(chat.id, `${nameOf(id)} left`);
    return drawMembers();
  }
  page.chats.delete(chat.id);
  if (page.active === chat.id) activate([...page.chats.keys()][0] ?? null);
  note(page.active, `You left ${chat.name}`);
  drawChats();
}

// The chats

function chatOf(id) {
  if (!page.chats.has(id)) {
    const known = page.users?.filter((user) => user.chats.map(String).includes(id)).map((user) => String(user.id));
    page.chats.set(id, { id, name: page.chatNames.get(id) ?? `Chat ${id}`, members: known && new Set(known), items: [], unread: 0, typing: new Map() });
  }
  return page.chats.get(id);
}

function add(chat, item) {
  chat.items.push(item);
  if (chat.id === page.active) appendItem(chat.items);
  if (chat.items.length > ITEMS_PER_CHAT) {
    chat.items.shift();
    if (chat.id === page.active) byId("messages").firstElementChild.remove();
  }
}

function note(chatId, text) {
  const chat = page.chats.get(chatId);
  if (chat) add(chat, { kind: "note", text });
}

function change(event, id, how) {
  const chat = page.chats.get(String(event.chat_id));
  const item = chat?.items.find((candidate) => candidate.id === id);
  if (!item) return;
  how(item);
  if (chat.id === page.active) showItems(chat.items);
}

function activate(id) {
  if (id !== page.active) stopTyping();
  page.active = id;
  const chat = page.chats.get(id);
  if (chat) chat.unread = 0;
  byId("composer").hidden = !chat;
  showError(byId("composer-error"), "");
  showItems(chat?.items ?? [], chat ? emptyChat(chat) : { text: "This user is in no chat. Events for the user appear in the event log." });
  drawChats();
  drawMembers();
  drawTyping();
}

function emptyChat(chat) {
  const message = { id: "1", sender_id: wireId(page.me), content: "hello from a terminal" };
  const payload = JSON.stringify({ MessageReceived: { chat_id: wireId(chat.id), message } });
  return {
    text: "Nothing here yet. Write below, or publish from a terminal:",
    command: `notify-server publish fechatter.realtime.chat.${shellWord(chat.id)} ${shellWord(payload)}`,
  };
}

function shellWord(text) {
  return /^[\w.:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function drawChats() {
  showChats([...page.chats.values()], page.active, activate);
  const unread = [...page.chats.values()].reduce((sum, chat) => sum + chat.unread, 0);
  document.title = unread ? `(${unread}) notify-server` : "notify-server";
}

function drawMembers() {
  const chat = page.chats.get(page.active);
  const members = [...chat?.members ?? []].map((id) => ({
    id, name: nameOf(id), presence: page.presence.get(id), self: id === page.me,
    link: page.users && id !== page.me && `/#user=${id}`,
  }));
  byId("chat-title").textContent = page.chats.get(page.active)?.name ?? "No chats";
  byId("chat-note").textContent = members.length ? `${members.length} members` : "";
  showMembers(members);
}

function drawTyping() {
  showTyping([...page.chats.get(page.active)?.typing.keys() ?? []].map(nameOf));
}

function nameOf(id) {
  return page.names.get(id) ?? `User ${id}`;
}

function clearLog() {
  page.logged = 0;
  byId("log-count").textContent = "0";
  byId("log").replaceChildren();
}

function timeOf(timestamp) {
  const time = new Date(timestamp);
  return Number.isNaN(time.getTime()) ? new Date() : time;
}

// What is sent

function messagePayload(chat, content, id) {
  const message = {
    id, chat_id: wireId(chat.id), sender_id: wireId(page.me), content, files: [], timestamp: Math.floor(Date.now() / 1000),
  };
  return { MessageReceived: { message, chat_id: wireId(chat.id) } };
}

async function sendMessage(submitted) {
  submitted.preventDefault();
  const draft = byId("draft");
  const chat = page.chats.get(page.active);
  const content = draft.value.trim();
  if (!content || !chat || byId("send").disabled) return;
  draft.value = "";
  const id = newId();
  page.sentAt.set(id, performance.now());
  const sent = page.publisher.publish(`fechatter.realtime.chat.${chat.id}`, messagePayload(chat, content, id));
  stopTyping();
  try {
    await sent;
    showError(byId("composer-error"), "");
  } catch (error) {
    page.sentAt.delete(id);
    draft.value ||= content;
    showError(byId("composer-error"), `Not sent. ${error.message}`);
  }
}

/** Not crypto.randomUUID, which plain http on another host than localhost doesn't have. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
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
    .catch((error) => showError(byId("composer-error"), `Status not published. ${error.message}`));
}

// Wiring

byId("token-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  signIn({ fetchToken: async () => token });
});
byId("composer").addEventListener("submit", sendMessage);
byId("draft").addEventListener("input", typed);
byId("draft").addEventListener("blur", stopTyping);
byId("presence").addEventListener("change", sayPresence);
byId("sign-out").addEventListener("click", () => signOut());
byId("log-pings").addEventListener("change", (event) => { byId("log").dataset.pings = event.target.checked ? "show" : "hide"; });
byId("log-clear").addEventListener("click", clearLog);
byId("copy").hidden = !navigator.clipboard;
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").textContent);
  byId("copy").textContent = "Copied";
});
byId("log-panel").open = matchMedia("(min-width: 70rem)").matches;
start();
