// The snapshots of one VM's disks: keeping what they are now, going back, and keeping one no longer.

import { confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Rows, byName } from "./table.js";
import { bytes, moment, word } from "./words.js";

export class Snapshots {
  constructor() {
    const body = el("tbody");
    this.table = table("Snapshots", [["Snapshot", ""], ["Of", ""], ["Size", "number"], ["Actions", "bare"]], body);
    this.rows = new Rows(body, { make: () => makeRow(this), order: (a, b) => a.taken_ms - b.taken_ms || byName(a.name, b.name) });
    this.none = el("p", { class: "hint", text: "There is none." });
    this.node = el(
      "section",
      {},
      el("h3", { text: "Snapshots" }),
      button("Take one…", () => take(this.job)),
      this.table,
      this.none,
    );
  }

  /** Those of this job, as its host has it. */
  draw({ id, snapshots = [] }) {
    this.job = id;
    this.rows.replace(snapshots.map((snapshot) => [snapshot.name, { taken_ms: 0, ...snapshot }]));
    this.rows.sift();
    show(this.none, snapshots.length === 0);
    show(this.table, snapshots.length > 0);
  }
}

function makeRow(snapshots) {
  const name = el("span", { class: "name" });
  const how = el("span", { class: "old" });
  const [of, size] = ["", "number"].map((kind) => el("td", { class: kind }));
  let row = null;
  const back = button("Go back…", () => goBack(snapshots.job, row));
  const gone = button("Delete…", () => remove(snapshots.job, row), { class: "bad" });
  const acts = el("td", { class: "does" }, el("div", { class: "acts" }, back, gone));
  const node = el("tr", {}, el("th", { scope: "row" }, name, how), of, size, acts);
  const set = (snapshot) => {
    row = snapshot;
    const { stage, why, taken_ms, size_bytes } = snapshot;
    put(name, snapshot.name);
    put(how, [stage === "ready" ? null : word(stage), why].filter(Boolean).join(": "));
    put(of, taken_ms > 0 ? moment(taken_ms) : "");
    put(size, bytes(size_bytes));
    back.disabled = stage !== "ready";
    mark(back, "aria-label", `Go back to ${snapshot.name}`);
    mark(gone, "aria-label", `Delete snapshot ${snapshot.name}`);
  };
  return { node, set };
}

function take(job) {
  confirm({
    title: `Take a snapshot of ${job}`,
    lines: ["It keeps what all its disks are now, also while it runs. Its memory is not in it, and with a snapshot it moves only if its disks are in a shared pool."],
    body: field("Name", wordField("snapshot", { required: true }), "a–z, 0–9 and -"),
    yes: "Take it",
    act: (form) => begin({ chore: "take_snapshot", job, snapshot: form.get("snapshot") }),
  });
}

function goBack(job, { name: snapshot, taken_ms }) {
  confirm({
    title: `Make the disks of ${job} what they were?`,
    lines: [`What was written since ${moment(taken_ms)} is lost. It must be stopped.`],
    typed: snapshot,
    yes: "Go back",
    isBad: true,
    act: () => begin({ chore: "revert_snapshot", job, snapshot }),
  });
}

function remove(job, { name: snapshot }) {
  confirm({
    title: `Delete snapshot ${snapshot} of ${job}?`,
    lines: ["The disks stay as they are. There is no going back to it any more."],
    yes: "Delete",
    isBad: true,
    act: () => begin({ chore: "delete_snapshot", job, snapshot }),
  });
}
