// What controllers did and do: one row a run, its tasks below it on request. A run that is stuck needs
// a person and stands first.

import { askAndTell } from "./asking.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { on, store } from "./store.js";
import { Rows } from "./table.js";
import { age, many, mood, since, word } from "./words.js";

/** A task's state, as the command has it. */
const TASK = {
  pending: "waits",
  started: "begun",
  succeeded: "done",
  failed: "refused",
  undoing: "being undone",
  undone: "undone",
  undo_failed: "cannot be undone",
  skipped: "not needed",
};

export class Runs {
  constructor() {
    const body = el("tbody");
    this.summary = el("p", { class: "summary" });
    const columns = [["Wanted", ""], ["State", ""], ["Asked", "number"], ["Progress", "mid"], ["Why", "wide"]];
    this.node = el("section", { "aria-label": "Runs" }, this.summary, table("Runs", columns, body));
    this.rows = new Rows(body, { make: (id) => makeRow(id), order });
    on("runs", (ids) => {
      for (const id of ids) this.rows.set(id, store.runs.get(id));
      this.rows.sift();
      this.sum();
    });
  }

  /** What grows old by itself. */
  age() {
    for (const entry of this.rows.seen()) entry.age();
    this.sum();
  }

  sum() {
    const { runs_age_ms, runs_trouble } = store.beat;
    const open = [...store.runs.values()].filter((run) => !run.is_ended).length;
    const stuck = stuckRuns();
    const words = [`${many(store.runs.size, "run")}, ${open === 0 ? "none" : open} going on`];
    if (stuck > 0) words.push(`${stuck} stuck`);
    if (store.cluster.is_without_controller) words.length = 0;
    if (runs_age_ms === null) words.push(store.cluster.is_without_controller ? "There is no controller, so there are no runs" : "no controller has answered yet");
    else if (runs_age_ms > 5000) words.push(`as of ${age(runs_age_ms)} ago`);
    if (runs_trouble) words.push(runs_trouble);
    put(this.summary, words.join("; "));
  }

  /** Opens one run's tasks and shows them. */
  open(id) {
    const entry = this.rows.get(id);
    if (!entry) return;
    entry.open(true);
    entry.node.scrollIntoView({ block: "nearest" });
  }
}

/** How many runs need a person. */
export const stuckRuns = () => [...store.runs.values()].filter((run) => run.state === "stuck").length;

// Stuck ones first, then the newest: their ids are in the order of time.
function order(a, b) {
  const rank = (run) => (run.state === "stuck" ? 0 : 1);
  return rank(a) - rank(b) || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);
}

function makeRow(id) {
  const opener = el("button", { type: "button", class: "quiet wanted", "aria-expanded": "false" });
  const tasks = el("ol", { class: "tasks", id: `tasks-${id}`, hidden: true });
  const reason = el("p", { class: "old narrow" });
  opener.setAttribute("aria-controls", tasks.id);
  const state = el("span", { class: "state" });
  const progress = el("progress", { max: "1", value: "0" });
  const numbers = el("span", { class: "words" });
  const [asked, why] = ["number", "wide why"].map((kind) => el("td", { class: kind }));
  const cancel = button("Cancel", () => askAndTell({ ask: "cancel_run", run: id }), { class: "quiet" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, opener, reason, tasks, cancel),
    el("td", {}, state),
    asked,
    el("td", { class: "mid" }, el("span", { class: "bar" }, progress, numbers)),
    why,
  );
  let row = null;
  const open = (isOpen) => {
    mark(opener, "aria-expanded", String(isOpen));
    show(tasks, isOpen);
  };
  opener.addEventListener("click", () => open(tasks.hidden));
  const ages = () => put(asked, since(row.accepted_ms));
  const set = (run) => {
    const wasGoingOn = row !== null && !row.is_ended;
    const isFirst = row === null;
    row = run;
    put(opener, run.wanted);
    put(state, word(run.state));
    mark(state, "data-mood", run.state === "running" ? "busy" : mood(run.state));
    mark(node, "data-state", run.state);
    ages();
    put(why, run.why ?? "");
    put(reason, run.why ?? "");
    drawTasks(tasks, run);
    const done = run.tasks.filter((task) => ["succeeded", "skipped"].includes(task.state)).length;
    const all = Math.max(1, run.tasks.length);
    mark(progress, "max", all);
    mark(progress, "value", done);
    mark(progress, "aria-label", `Progress of ${run.wanted}`);
    put(numbers, `${done} of ${run.tasks.length}`);
    show(progress, !run.is_ended);
    show(cancel, !run.is_ended && run.state !== "unwinding");
    if ((isFirst && !run.is_ended) || run.state === "stuck") open(true);
    else if (wasGoingOn && run.state === "succeeded") open(false);
  };
  return { node, set, open, age: ages };
}

function drawTasks(list, run) {
  while (list.childElementCount > run.tasks.length) list.lastElementChild.remove();
  while (list.childElementCount < run.tasks.length) list.append(el("li"));
  run.tasks.forEach((task, at) => {
    const note = task.note ? ` (${task.note})` : "";
    put(list.children[at], `${task.title}: ${TASK[task.state] ?? task.state}${note}`);
    mark(list.children[at], "data-state", task.state);
  });
}
