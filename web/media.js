// Media of messages, shown safely: an address that can run or imitate something is shown as text; what is elsewhere is
// a link, and this host's own is shown. Names and addresses go in as text and attributes, never as markup.

import { node } from "./dom.js";
import { t } from "./i18n.js";

// Pictures that can't hold a script, wherever they end up.
const PICTURE = /^data:image\/(png|jpeg|gif|webp|avif);base64,[A-Za-z0-9+/=]+$/;
const LONGEST_NAME = 60;

/** An address that may be linked to, or null. */
export function safeUrl(text, kind) {
  if (kind === "image" && PICTURE.test(text)) return new URL(text);
  let url;
  try {
    url = new URL(text, location.origin);
  } catch {
    return null;
  }
  if (url.protocol === "blob:") return url.origin === location.origin ? url : null;
  if (!["http:", "https:"].includes(url.protocol) || url.username || url.password) return null;
  return url;
}

/** A picture, a player or a link for `{kind, url}`. */
export function mediaNode({ kind, url: text }) {
  const url = safeUrl(text, kind);
  if (!url) return node("span", { class: "chip blocked", "data-testid": "blocked" }, icon(kind), t("mediaBlocked"), node("code", {}, short(text)));
  const isHere = url.origin === location.origin || ["data:", "blob:"].includes(url.protocol);
  if (!isHere || kind === "file") return linkTo(url, kind);
  const players = { image: picture, audio: () => player("audio", url), video: () => player("video", url) };
  return players[kind](url);
}

function picture(url) {
  const made = node("img", { class: "picture", alt: nameOf(url) || t("kind_image"), src: url.href, loading: "lazy", decoding: "async" });
  made.addEventListener("error", () => made.replaceWith(linkTo(url, "image")), { once: true });
  return made;
}

function player(tag, url) {
  const made = node(tag, { class: tag, controls: true, preload: "metadata", src: url.href, "aria-label": nameOf(url) || t(`kind_${tag}`) });
  if (tag === "video") made.playsInline = true;
  made.addEventListener("error", () => made.replaceWith(linkTo(url, tag)), { once: true });
  return made;
}

function linkTo(url, kind) {
  const where = url.origin === location.origin ? "" : url.host;
  // A page may not leave for a data: address, and it would be no file to keep.
  const leads = ["http:", "https:", "blob:"].includes(url.protocol);
  return node(leads ? "a" : "span", {
    class: "chip", "data-testid": "media-link", ...(leads && { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }),
  }, icon(kind), node("span", { class: "chip-text" },
    node("span", { class: "chip-name" }, short(nameOf(url) || t(`kind_${kind}`))), where && node("span", { class: "hint" }, where)));
}

function icon(kind) {
  return node("span", { class: `media-icon media-${kind}`, "aria-hidden": "true" });
}

function nameOf(url) {
  if (url.protocol === "data:" || url.protocol === "blob:") return "";
  const last = url.pathname.split("/").at(-1);
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

function short(text) {
  return text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME)}…` : text;
}
