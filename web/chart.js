// A small chart of the last minutes: lines over time with the value that counts now. Draws what it is told, and knows
// nothing of where it comes from.

import { node, svg } from "./dom.js";
import { t } from "./i18n.js";

const WIDTH = 240;
const HEIGHT = 72;
const POINTS = 90;

export class Chart {
  #rows = []; // one value for each line, null where there was none
  #lines;
  #format;
  #title;
  #headline = node("p", { class: "figure" });
  #note = node("p", { class: "hint" });
  #hover = node("p", { class: "hover", "aria-hidden": "true" });
  #drawing;
  #top = node("span", { class: "top", "aria-hidden": "true" });
  #stepMs;

  /** `title` is a key of words; `format` makes a number a text; `lines` how many lines; a value every `stepMs`. */
  constructor({ name, title, format, lines = 1, stepMs }) {
    this.#title = title;
    this.#format = format;
    this.#lines = lines;
    this.#stepMs = stepMs;
    this.#drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.heading = node("h3", {});
    this.element = node("article", { class: "chart", "data-testid": `chart-${name}` },
      this.heading, this.#headline, this.#note, node("div", { class: "plot" }, this.#drawing, this.#top, this.#hover));
    this.#drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.#drawing.addEventListener("pointerleave", () => this.#unpoint());
    this.redraw();
  }

  push(values, note) {
    this.#rows.push(values);
    if (this.#rows.length > POINTS) this.#rows.shift();
    this.noteText = note;
    this.redraw();
  }

  redraw() {
    this.heading.textContent = t(this.#title);
    const last = this.#rows.at(-1)?.at(-1);
    const headline = last === null || last === undefined ? "–" : this.#format(last);
    this.#headline.textContent = headline;
    this.#note.textContent = this.noteText?.() ?? t("noData");
    this.#drawing.setAttribute("aria-label", `${t(this.#title)}: ${headline}`);
    const highest = Math.max(...this.#rows.flat().filter((value) => value !== null), 0);
    this.#top.textContent = highest > 0 ? this.#format(highest) : "";
    this.#drawing.replaceChildren(...this.#shapes(highest || 1), svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" }));
  }

  #x(index) {
    return WIDTH - (this.#rows.length - 1 - index) * (WIDTH / (POINTS - 1));
  }

  #shapes(highest) {
    const shapes = [];
    for (let line = this.#lines - 1; line >= 0; line -= 1) {
      const y = (value) => HEIGHT - 2 - (value / highest) * (HEIGHT - 8);
      for (const part of parts(this.#rows.map((row) => row[line]))) {
        const points = part.map(([index, value]) => `${this.#x(index).toFixed(1)},${y(value).toFixed(1)}`);
        const [from, to] = [this.#x(part[0][0]), this.#x(part.at(-1)[0])];
        if (line === this.#lines - 1) shapes.push(svg("polygon", { class: `area line-${line}`, points: `${from},${HEIGHT} ${points.join(" ")} ${to},${HEIGHT}` }));
        shapes.push(svg("polyline", { class: `line line-${line}`, points: points.join(" ") }));
      }
    }
    return shapes;
  }

  #point(event) {
    const { left, width } = this.#drawing.getBoundingClientRect();
    const across = (event.clientX - left) / width;
    const back = Math.round((1 - across) * (POINTS - 1));
    const row = this.#rows.at(-1 - back);
    if (!row || back >= this.#rows.length) return this.#unpoint();
    const cursor = this.#drawing.querySelector(".cursor");
    const x = this.#x(this.#rows.length - 1 - back);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    const values = row.map((value) => (value === null ? "–" : this.#format(value))).join(" / ");
    const when = back === 0 ? t("now") : t("secondsAgo", { n: Math.round((back * this.#stepMs) / 1000) });
    this.#hover.textContent = `${values} · ${when}`;
  }

  #unpoint() {
    this.#drawing.querySelector(".cursor")?.setAttribute("visibility", "hidden");
    this.#hover.textContent = "";
  }
}

/** Runs of values without a hole, as [index, value]. */
function parts(values) {
  const found = [[]];
  values.forEach((value, index) => {
    if (value === null || value === undefined) found.push([]);
    else found.at(-1).push([index, value]);
  });
  return found.filter((part) => part.length > 0);
}
