// The language of the pages: the browser's, or the one that was chosen. Words are in words*.js; markup names them by
// data-t (text), data-t-label (aria-label), data-t-placeholder and data-t-title.

import { byId } from "./dom.js";
import { words } from "./words.js";

const KEPT = "notify-server.language";
const LOCALES = { en: "en", zh: "zh-CN" };
const OTHER = { en: "zh", zh: "en" };

const dictionary = { en: { ...words.en }, zh: { ...words.zh } };
const redraws = [];
let language = chosen();

function chosen() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT);
  } catch { /* A browser may keep nothing for pages. */ }
  if (LOCALES[kept]) return kept;
  return navigator.languages.map((name) => name.slice(0, 2).toLowerCase()).find((name) => LOCALES[name]) ?? "en";
}

/** Adds a page's own words. */
export function addWords(more) {
  for (const name of Object.keys(LOCALES)) Object.assign(dictionary[name], more[name]);
}

/** For times and numbers: as the browser's user writes them, where that is in the language of the page. */
export const locale = () => navigator.languages.find((name) => name.slice(0, 2).toLowerCase() === language) ?? LOCALES[language];

/** The words of a key, with `{names}` filled in; of several forms the one for the number `n`. */
export function t(key, values = {}) {
  let text = dictionary[language][key] ?? dictionary.en[key] ?? key;
  if (typeof text === "object") text = text[new Intl.PluralRules(locale()).select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? shown(values[name]) : whole));
}

function shown(value) {
  return typeof value === "number" ? value.toLocaleString(locale()) : String(value);
}

/** Calls `redraw` when the language was changed, for what is not in the markup. */
export function onLanguage(redraw) {
  redraws.push(redraw);
}

/** Puts the markup into the language, and the switch to work. To be called once, when the words are there. */
export function begin() {
  apply();
  byId("language").addEventListener("click", () => {
    language = OTHER[language];
    try {
      localStorage.setItem(KEPT, language);
    } catch { /* Then it holds for this page. */ }
    apply();
    redraws.forEach((redraw) => redraw());
  });
}

function apply() {
  document.documentElement.lang = LOCALES[language];
  const attributes = [["data-t-label", "aria-label"], ["data-t-placeholder", "placeholder"], ["data-t-title", "title"]];
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const [mark, attribute] of attributes) {
    for (const element of document.querySelectorAll(`[${mark}]`)) element.setAttribute(attribute, t(element.getAttribute(mark)));
  }
  byId("language").textContent = dictionary[OTHER[language]].language;
  byId("language").lang = LOCALES[OTHER[language]];
}
