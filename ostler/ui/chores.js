// The commands that this page has `ostler` run for a person: one row each, what it says below it on request.

import { drop, failureOf, note, post, tellNo } from "./asking.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { on, store } from "./store.js";
import { Rows } from "./table.js";
import { age, many, mood, since, word } from "./words.js";

/** Those that this page has begun, and whose end nobody was told yet. */
const awaited = new Set();

/** Has it done; tells what came of it at once, or that it has begun, and throws a no. */
export async function begin(body) {
  const answer = await post("chores", body);
  const link = answer.is_ended ? null : [`#commands/${answer.chore}`, "Show it"];
  note(answer.words, { link });
  if (answer.is_ended) return;
  awaited.add(answer.chore);
  tellEnd(answer.chore);
}

/** The same from a button, where there is no form to tell a no. */
export async function beginAndTell(body) {
  try {
    await begin(body);
  } catch (error) {
    tellNo(error);
  }
}

function tellEnd(id) {
  const chore = store.chores.get(id);
  if (!chore?.is_ended || !awaited.delete(id)) return;
  if (chore.no) tellNo(failureOf(chore.no));
  else note(chore.said.at(-1) ?? `done: ostler ${chore.line}`);
}

export class Chores {
  constructor() {
    const body = el("tbody");
    const columns = [["Command", ""], ["State", ""], ["Begun", "number"], ["Took", "number mid"], ["Said last", "wide"]];
    this.summary = el("p", { class: "summary", role: "status" });
    this.node = el("section", { "aria-label": "Commands" }, this.summary, table("Commands", columns, body));
    this.rows = new Rows(body, { make: (id) => makeRow(id), order: (a, b) => b.id - a.id });
    on("chores", (ids) => {
      for (const id of ids) {
        this.rows.set(id, store.chores.get(id));
        tellEnd(id);
      }
      this.rows.sift();
      this.sum();
    });
    this.sum();
  }

  /** What grows old by itself. */
  age() {
    for (const entry of this.rows.seen()) entry.age();
  }

  sum() {
    const none = "What takes its time is done by a command of ostler, which is shown here with all that it says.";
    const some = `${many(store.chores.size, "command")}, ${openChores() || "none"} going on. They go on when this page is closed, and end with \`ostler ui\`.`;
    put(this.summary, store.chores.size === 0 ? none : some);
  }

  /** Opens what one says. */
  open(id) {
    const entry = this.rows.get(Number(id));
    if (!entry) return;
    entry.open(true);
    entry.node.scrollIntoView({ block: "nearest" });
  }
}

/** How many go on. */
export const openChores = () => [...store.chores.values()].filter((chore) => !chore.is_ended).length;

function makeRow(id) {
  const opener = el("button", { type: "button", class: "quiet wanted", "aria-expanded": "false" });
  const said = el("ol", { class: "said", id: `said-${id}`, hidden: true });
  opener.setAttribute("aria-controls", said.id);
  const reason = el("p", { class: "old narrow" });
  const state = el("span", { class: "state" });
  const [begun, took, last] = ["number", "number mid", "wide why"].map((kind) => el("td", { class: kind }));
  const end = button("End it", () => endIt(row), { class: "quiet" });
  const node = el("tr", {}, el("th", { scope: "row" }, opener, reason, said, end), el("td", {}, state), begun, took, last);
  let row = null;
  const open = (isOpen) => {
    mark(opener, "aria-expanded", String(isOpen));
    show(said, isOpen);
  };
  opener.addEventListener("click", () => open(said.hidden));
  const ages = () => {
    put(begun, since(row.begun_ms));
    put(took, age((row.ended_ms ?? Date.now()) - row.begun_ms));
  };
  const set = (chore) => {
    const wasGoingOn = row !== null && !row.is_ended;
    const isFirst = row === null;
    row = chore;
    put(opener, `ostler ${chore.line}`);
    put(state, word(chore.state));
    mark(state, "data-mood", chore.state === "running" ? "busy" : mood(chore.state));
    ages();
    for (const one of [last, reason]) put(one, chore.no ? failureOf(chore.no).message : (chore.said.at(-1) ?? ""));
    drawSaid(said, chore.said);
    show(end, chore.state === "running");
    mark(end, "aria-label", `End ostler ${chore.line}`);
    if (isFirst && !chore.is_ended) open(true);
    else if (wasGoingOn && chore.state === "succeeded") open(false);
  };
  return { node, set, open, age: ages };
}

function drawSaid(list, said) {
  while (list.childElementCount > said.length) list.lastElementChild.remove();
  while (list.childElementCount < said.length) list.append(el("li"));
  said.forEach((line, at) => put(list.children[at], line));
}

async function endIt({ id, line }) {
  try {
    await drop(`chores/${id}`);
    note(`ostler ${line} is told to end, and takes back what it has begun`);
  } catch (error) {
    tellNo(error);
  }
}
