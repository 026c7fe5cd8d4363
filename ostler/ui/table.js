// A table whose rows are made once and patched from then on. Rows keep the order of their keys, and
// those that do not match the filter stay hidden, so that typing in a filter moves nothing.

import { show } from "./dom.js";

/** Rows drawn at first; a person reads fewer, and a browser stays quick with these. */
const SHOWN_MAX = 1000;

export class Rows {
  /**
   * `make(key)` gives `{ node, set(row) }`; `order(a, b)` compares rows; `matches(row)` is the filter.
   */
  constructor(body, { make, order, matches = () => true }) {
    Object.assign(this, { body, make, order, matches });
    this.rows = new Map();
    this.sorted = [];
    this.limit = SHOWN_MAX;
  }

  /** Takes a row that is new or changed; `undefined` takes it out. */
  set(key, row) {
    const known = this.rows.get(key);
    if (row === undefined) {
      if (known) this.#drop(known);
      return;
    }
    if (known && this.order(known.row, row) === 0) {
      known.row = row;
      known.set(row);
      return;
    }
    if (known) this.#drop(known);
    this.#insert({ key, row, ...this.make(key) });
  }

  /** Takes these as all rows there are: `[key, row]` each. */
  replace(entries) {
    const now = new Map(entries);
    for (const key of [...this.rows.keys()]) if (!now.has(key)) this.set(key, undefined);
    for (const [key, row] of now) this.set(key, row);
  }

  /** Shows what matches, up to the limit; returns `{ shown, matching, all }`. */
  sift() {
    let matching = 0;
    for (const entry of this.sorted) {
      const isMatching = this.matches(entry.row);
      if (isMatching) matching += 1;
      show(entry.node, isMatching && matching <= this.limit);
    }
    return { shown: Math.min(matching, this.limit), matching, all: this.sorted.length };
  }

  /** Shows as many again. */
  more() {
    this.limit += SHOWN_MAX;
  }

  /** Every row on screen, for what changes by itself, such as ages. */
  *seen() {
    for (const entry of this.sorted) if (!entry.node.hidden) yield entry;
  }

  get(key) {
    return this.rows.get(key);
  }

  #insert(entry) {
    let [low, high] = [0, this.sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.order(this.sorted[middle].row, entry.row) < 0) low = middle + 1;
      else high = middle;
    }
    const next = this.sorted[low]?.node ?? null;
    this.sorted.splice(low, 0, entry);
    this.rows.set(entry.key, entry);
    entry.set(entry.row);
    this.body.insertBefore(entry.node, next);
  }

  #drop(entry) {
    this.rows.delete(entry.key);
    this.sorted.splice(this.sorted.indexOf(entry), 1);
    entry.node.remove();
  }
}

/** Names as people sort them: web-2 before web-10. */
const names = new Intl.Collator("en", { numeric: true });
export const byName = (a, b) => names.compare(a, b);
