// The few things that descriptions are written with: paragraphs, tables, code, bold, links. As elements, never as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** A block of code that can be scrolled with the keyboard, too. */
export function code(text, label) {
  return element("pre", { tabindex: 0, role: "group", "aria-label": label }, element("code", {}, text));
}

export function markdown(text) {
  const holder = element("div", { class: "text" });
  const parts = text.split(/```\w*\n([\s\S]*?)```/);
  parts.forEach((part, index) => {
    if (index % 2) return holder.append(code(part.trimEnd(), "Example"));
    for (const block of part.split(/\n{2,}/).map((lines) => lines.trim()).filter(Boolean)) {
      holder.append(block.startsWith("|") ? table(block) : element("p", {}, inline(block)));
    }
  });
  return holder;
}

function table(block) {
  const rows = block.split("\n").map((line) => line.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim()));
  const [head, , ...body] = rows;
  return element("table", {},
    element("thead", {}, element("tr", {}, head.map((cell) => element("th", { scope: "col" }, inline(cell))))),
    element("tbody", {}, body.map((row) => element("tr", {}, row.map((cell) => element("td", {}, inline(cell)))))));
}

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\((\/[^)]*)\)/g;

export function inline(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, quoted, strong, label, address] = match;
    found.push(text.slice(end, match.index));
    if (quoted) found.push(element("code", {}, quoted));
    else if (strong) found.push(element("strong", {}, inline(strong)));
    else found.push(element("a", { href: address }, label));
    end = match.index + whole.length;
  }
  return [...found, text.slice(end)];
}
