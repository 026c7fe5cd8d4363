// The end of what one VM or service has said, as its host keeps it; read when somebody asks.

import { read, tellNo } from "./asking.js";
import { Screen } from "./console.js";
import { button, el, put, show } from "./dom.js";

export class Log {
  constructor(id) {
    this.id = id;
    this.text = el("pre", { tabindex: "0", "aria-label": `Log of ${id}`, hidden: true });
    this.read = button("Read it", () => this.look());
    this.node = el("section", {}, el("h3", { text: "Log" }), this.read, this.text);
  }

  async look() {
    try {
      const { log } = await read(`jobs/${encodeURIComponent(this.id)}/log`);
      const screen = new Screen();
      screen.take(new TextEncoder().encode(log));
      put(this.text, log === "" ? "It has said nothing yet." : screen.lines.join("\n").trim());
      put(this.read, "Read it again");
      show(this.text, true);
      this.text.scrollTop = this.text.scrollHeight;
    } catch (error) {
      tellNo(error);
    }
  }
}
