// Elements, and what all pages show alike. Everything that came from outside goes in as text, never as markup.

const TONES = 6;
const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with attributes; children are elements or text, and what is null or false is left out. */
export function node(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
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

/** Puts text on the clipboard, or selects it where the browser gives no clipboard to pages without TLS. */
export async function copy(text, fallback) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(fallback);
    return false;
  }
}
