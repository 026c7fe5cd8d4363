// A VM's serial console: lines with what the guest prints, and keys for it. It knows new lines,
// backspaces and carriage returns, and leaves other terminals' orders out; it is no emulator.

import { button, el, put } from "./dom.js";
import { streamUrl } from "./feed.js";

/** Lines that are kept. */
const LINES_MAX = 2000;

/** Characters of one line that are kept: a guest may print without ever ending one. */
const LINE_MAX = 2000;

/** Keys that are no characters, as a terminal sends them. */
const KEYS = {
  Enter: "\r",
  Backspace: "\x7f",
  Escape: "\x1b",
  ArrowUp: "\x1b[A",
  ArrowDown: "\x1b[B",
  ArrowRight: "\x1b[C",
  ArrowLeft: "\x1b[D",
  Home: "\x1b[H",
  End: "\x1b[F",
  Delete: "\x1b[3~",
};

/** What a guest prints, as lines of text. */
export class Screen {
  constructor() {
    this.lines = [""];
    this.at = 0;
    this.order = "";
    this.decoder = new TextDecoder("utf-8");
  }

  /** Takes bytes; how many lines at the end are new or changed. */
  take(bytes) {
    let ended = 0;
    for (const c of this.decoder.decode(bytes, { stream: true })) ended += this.#one(c) ? 1 : 0;
    if (this.lines.length > LINES_MAX) this.lines.splice(0, this.lines.length - LINES_MAX);
    return Math.min(this.lines.length, ended + 1);
  }

  #one(c) {
    if (this.order !== "") {
      this.order += c;
      if (isWhole(this.order)) this.order = "";
      return false;
    }
    const last = this.lines.length - 1;
    const line = this.lines[last];
    if (c === "\x1b") this.order = c;
    else if (c === "\n") {
      this.lines.push("");
      this.at = 0;
      return true;
    } else if (c === "\r") this.at = 0;
    else if (c === "\b") this.at = Math.max(0, this.at - 1);
    else if (c === "\t") this.#write(last, line, " ".repeat(8 - (this.at % 8)));
    else if (c >= " " && c !== "\x7f") this.#write(last, line, c);
    return false;
  }

  #write(last, line, text) {
    if (this.at >= LINE_MAX) return;
    this.lines[last] = line.slice(0, this.at).padEnd(this.at) + text + line.slice(this.at + text.length);
    this.at += text.length;
  }
}

/** Whether an escape sequence has come to its end; one that is too long is given up. */
function isWhole(order) {
  if (order.length > 256) return true;
  if (order.startsWith("\x1b[")) return order.length > 2 && /[@-~]$/.test(order);
  if (/^\x1b[\]PX^_]/.test(order)) return order.endsWith("\x07") || order.endsWith("\x1b\\");
  if (/^\x1b[ -/]/.test(order)) return order.length > 2;
  return order.length > 1;
}

export class Console {
  /** `closed` is called when it is closed by the person. */
  constructor(id, closed) {
    this.closed = closed;
    this.screen = new Screen();
    this.output = el("div", { class: "screen", tabindex: "0", role: "log", "aria-label": `Console of ${id}` });
    this.where = el("p", { class: "hint", role: "status", text: "connecting…" });
    this.keys = el("input", {
      id: "console-keys",
      type: "text",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      placeholder: "type here; each key goes to the guest at once",
    });
    this.keys.addEventListener("keydown", (event) => this.#key(event));
    this.keys.addEventListener("input", () => this.#text());
    this.keys.addEventListener("paste", (event) => this.#paste(event));
    const send = (text) => () => (this.#send(text), this.keys.focus());
    this.node = el(
      "section",
      { class: "console", "aria-label": "Console" },
      this.where,
      this.output,
      el("label", { class: "unseen", for: "console-keys", text: "Keys for the guest" }),
      this.keys,
      el(
        "div",
        { class: "acts" },
        button("Enter", send("\r")),
        button("Tab", send("\t")),
        button("Ctrl-C", send("\x03")),
        button("Ctrl-D", send("\x04")),
        button("Close the console", () => this.close(), { class: "quiet" }),
      ),
    );
    this.#open(id);
  }

  focus() {
    this.keys.focus();
  }

  close() {
    this.isClosed = true;
    this.socket.close();
    this.node.remove();
    this.closed();
  }

  #open(id) {
    this.socket = new WebSocket(streamUrl(`jobs/${encodeURIComponent(id)}/console?write=true`));
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string") put(this.where, data);
      else this.#print(new Uint8Array(data));
    });
    this.socket.addEventListener("close", () => {
      if (!this.isClosed) put(this.where, `${this.where.textContent}; the console has ended`);
    });
  }

  // Only the lines that have changed are touched.
  #print(bytes) {
    const { output, screen } = this;
    const isAtEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
    const changed = screen.take(bytes);
    const first = screen.lines.length - changed;
    if (output.lastChild) output.lastChild.remove();
    const fresh = screen.lines.slice(first).map((text) => el("div", { text: text || " " }));
    output.append(...fresh);
    while (output.childElementCount > LINES_MAX) output.firstElementChild.remove();
    if (isAtEnd) output.scrollTop = output.scrollHeight;
  }

  #key(event) {
    if (event.isComposing) return;
    const control = event.ctrlKey && !event.altKey && !event.metaKey && /^[a-z[\]\\^_@]$/i.test(event.key);
    // Pasting is the browser's.
    if (control && event.key.toLowerCase() !== "v") this.#send(String.fromCharCode(event.key.toUpperCase().charCodeAt(0) & 31));
    else if (KEYS[event.key] && !event.shiftKey) this.#send(KEYS[event.key]);
    else return;
    event.preventDefault();
  }

  #text() {
    this.#send(this.keys.value);
    this.keys.value = "";
  }

  #paste(event) {
    event.preventDefault();
    this.#send(event.clipboardData.getData("text").replaceAll(/\r?\n/g, "\r"));
  }

  #send(text) {
    if (text !== "" && this.socket.readyState === WebSocket.OPEN) this.socket.send(new TextEncoder().encode(text));
  }
}
