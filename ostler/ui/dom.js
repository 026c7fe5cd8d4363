// Making and changing elements. Text is only ever set as text: names come from hosts that may be
// hostile, and nothing here can turn them into markup.

/** An element with properties, attributes and children. `on` has listeners, `text` the text. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [kind, f] of Object.entries(value)) node.addEventListener(kind, f);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets text, if it is another. */
export function put(node, text) {
  const words = String(text ?? "");
  if (node.textContent !== words) node.textContent = words;
}

/** Sets or removes an attribute, if it is another. */
export function mark(node, name, value) {
  const is = node.getAttribute(name);
  if (value === null || value === undefined || value === false) {
    if (is !== null) node.removeAttribute(name);
  } else if (is !== String(value)) {
    node.setAttribute(name, value);
  }
}

/** Shows or hides. */
export function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

/** A button that does something. */
export function button(text, act, props = {}) {
  return el("button", { type: "button", text, on: { click: act }, ...props });
}

/** A table with a header; `columns` are `[title, class]`. */
export function table(caption, columns, body = el("tbody")) {
  const cells = columns.map(([title, kind]) => el("th", { scope: "col", text: title, class: kind }));
  const head = el("thead", {}, el("tr", {}, ...cells));
  return el("table", {}, el("caption", { class: "unseen", text: caption }), head, body);
}

/** How much of something is used: a bar with its numbers. */
export class Bar {
  constructor(label) {
    this.fill = el("span", { class: "fill" });
    this.rail = el("span", { class: "rail", role: "meter", "aria-label": label }, this.fill);
    this.words = el("span", { class: "words" });
    this.node = el("span", { class: "bar" }, this.rail, this.words);
  }

  /** `format` makes words of a number; without a limit there is nothing to fill. */
  set(used, limit, format) {
    const share = limit > 0 ? used / limit : used > 0 ? 1 : 0;
    const words = limit === null ? format(used) : `${format(used)} of ${format(limit)}`;
    put(this.words, words);
    show(this.rail, limit !== null);
    mark(this.rail, "aria-valuemin", 0);
    mark(this.rail, "aria-valuemax", limit ?? used);
    mark(this.rail, "aria-valuenow", used);
    mark(this.rail, "aria-valuetext", words);
    mark(this.rail, "data-level", share > 1 ? "over" : share >= 0.9 ? "high" : "usual");
    const width = `${Math.min(100, share * 100).toFixed(1)}%`;
    if (this.fill.style.width !== width) this.fill.style.width = width;
  }
}
