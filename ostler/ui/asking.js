// Asking the cluster for something, asking the person first, and telling what came of it.

import { button, el } from "./dom.js";

/** How long a good answer stays; a bad one stays until it is taken away. */
const NOTE_MS = 8000;

/** A no, as `ostler` itself would print it. */
class No extends Error {
  constructor({ what, why, next }) {
    super(why ? `${what}: ${why}` : what);
    this.next = next;
  }
}

/** A failure as `--json` has it. */
export const failureOf = (error) => new No(error);

/** Reads something from the page's server. */
export const read = (path) => exchange(path, {});

/** Sends it something. */
export const post = (path, body) =>
  exchange(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** Takes something of it away. */
export const drop = (path) => exchange(path, { method: "DELETE" });

async function exchange(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new No({ what: "`ostler ui` does not answer", next: "see whether it still runs" });
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (body.error) throw new No(body.error);
  throw new No({ what: body.detail ?? `answer ${response.status}`, next: null });
}

/** Asks for something; tells a yes, throws a no. */
export async function ask(body) {
  const answer = await post("ask", body);
  note(answer.words, { link: answer.run ? [`#runs/${answer.run}`, "Show the run"] : null });
}

/** Asks for something and tells the person what was answered, whatever it was. */
export async function askAndTell(body) {
  try {
    await ask(body);
  } catch (error) {
    // A host stops its guests whether or not there is a controller.
    const isStop = body.ask === "stop" && !body.at_host;
    tellNo(error, isStop ? ["Ask the host itself", () => askAndTell({ ...body, at_host: true })] : null);
  }
}

/** Tells a failure, with what to try next. */
export function tellNo(error, act = null) {
  note(error.message, { isBad: true, next: error.next, act });
}

/** A note at the edge of the page; `link` is where to and in which words. */
export function note(words, { isBad = false, next = null, link = null, act = null } = {}) {
  const notes = document.getElementById("notes");
  const close = () => node.remove();
  const node = el(
    "div",
    { class: isBad ? "note bad" : "note" },
    el("p", { text: words }),
    next ? el("p", { class: "next", text: `Try: ${next}` }) : null,
    el(
      "p",
      { class: "acts" },
      link ? el("a", { href: link[0], text: link[1], on: { click: close } }) : null,
      act ? button(act[0], () => (close(), act[1]())) : null,
      button("Dismiss", close),
    ),
  );
  notes.append(node);
  while (notes.children.length > 4) notes.firstElementChild.remove();
  if (!isBad) setTimeout(close, NOTE_MS);
}

/**
 * Asks the person. `lines` explain, `body` may hold fields, `typed` is what must be typed to go on.
 * `act` is called with the form when it is confirmed. The dialog closes when it does not throw; what it
 * throws is told in the dialog.
 */
export function confirm({ title, lines = [], body = null, typed = null, yes, isBad = false, act }) {
  const field = typed
    ? el("input", { id: "typed", type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off" })
    : null;
  const go = el("button", { type: "submit", text: yes, class: isBad ? "bad" : "main", disabled: typed !== null });
  field?.addEventListener("input", () => (go.disabled = field.value !== typed));
  const leave = () => dialog.close();
  const no = el("div", { role: "alert" });
  const form = el(
    "form",
    {},
    el("h2", { id: "dialog-title", text: title }),
    ...lines.map((line) => el("p", { text: line })),
    body,
    field ? el("label", { for: "typed", text: `Type ${typed} to go on` }) : null,
    field,
    no,
    // What can't be taken back is not done by a stray Enter.
    el("p", { class: "acts" }, go, button("Leave it", leave, { autofocus: isBad && typed === null })),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      await act(new FormData(form));
      leave();
    } catch (error) {
      go.disabled = false;
      no.replaceChildren(
        el("p", { class: "no", text: error.message }),
        error.next ? el("p", { class: "hint", text: `Try: ${error.next}` }) : "",
      );
    }
  });
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** A field with its label. */
export function field(label, input, hint = null) {
  const id = `field-${input.getAttribute("name")}`;
  input.id = id;
  const words = hint ? el("span", { class: "hint", id: `${id}-hint`, text: hint }) : null;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return el("div", { class: "field" }, el("label", { for: id, text: label }), input, words);
}

/** What a name or a size is typed into: nobody's spelling is better. */
export const wordField = (name, props = {}) =>
  el("input", { type: "text", name, autocomplete: "off", spellcheck: "false", autocapitalize: "off", ...props });

/** One of these: `[value, text]` each. */
export const choice = (name, options) =>
  el("select", { name }, ...options.map(([value, text]) => el("option", { value, text })));
