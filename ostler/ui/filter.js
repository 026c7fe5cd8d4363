// The field above a list into which people type what they look for.

import { el } from "./dom.js";

export class Filter {
  /** `sift()` is called whenever something else is looked for. */
  constructor(id, placeholder, sift, label = "Filter by text") {
    this.text = el("input", { type: "search", id, placeholder, on: { input: sift } });
    /** Its label and the field. */
    this.nodes = [el("label", { for: id, class: "unseen", text: label }), this.text];
  }

  /** Whether one of these words has in it what is looked for. */
  matches(words) {
    const text = this.text.value.trim().toLowerCase();
    return text === "" || words.some((one) => one.toLowerCase().includes(text));
  }
}
