// A list that no stream carries: what a command prints. It is read when it is shown, again from time to time while
// it is, and after each command of the page that has ended. What was read last stays when a reading fails.

import { read } from "./asking.js";
import { el, mark, put, show } from "./dom.js";
import { on, store } from "./store.js";

/** After how long it is read again: each time all hosts are asked. */
const REST_MS = 15000;

/** How long what changes it is waited for. */
const SOON_MS = 1500;

export class List {
  /** `draw(list)` shows what was read; `rest_ms` says after how long it is read again. */
  constructor(name, draw, { rest_ms = REST_MS } = {}) {
    Object.assign(this, { name, draw, rest_ms, readAt: -Infinity, isReading: false });
    this.words = el("p", { class: "hint", role: "status" });
    this.notes = el("ul", { class: "lines hint" });
    this.node = el("div", { class: "told" }, this.words, this.notes);
    put(this.words, "Reading…");
    on("chores", (ids) => {
      if ([...ids].some((id) => store.chores.get(id)?.is_ended)) this.readAt = -Infinity;
    });
  }

  /** Called for as long as it is shown. */
  age() {
    const isOld = performance.now() - this.readAt > this.rest_ms;
    if (isOld && !this.isReading && !document.hidden) this.#read();
  }

  /** Something has happened that changes it: it is read again soon, and once for all that happens meanwhile. */
  expire() {
    this.readAt = Math.min(this.readAt, performance.now() - this.rest_ms + SOON_MS);
  }

  async #read() {
    this.isReading = true;
    this.readAt = performance.now();
    try {
      const { list, notes } = await read(`lists/${this.name}`);
      // Some commands say of a host both in what they print and beside it that it is silent.
      const said = [...notes, ...(list.warnings ?? [])].map((note) => note.replace(/^warning: /, ""));
      this.#tell("", [...new Set(said)]);
      this.draw(list);
    } catch (error) {
      this.#tell(error.message, error.next ? [`Try: ${error.next}`] : []);
    }
    this.isReading = false;
  }

  #tell(words, notes) {
    put(this.words, words);
    mark(this.words, "class", words === "" ? "hint" : "no");
    show(this.words, words !== "");
    this.notes.replaceChildren(...notes.map((text) => el("li", { text })));
  }
}
