// Backups in the folder that `ostler ui` was given: which there are, reading one through, VMs made of them again, and
// their end.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin, beginAndTell } from "./chores.js";
import { keepField } from "./copies.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Filter } from "./filter.js";
import { List } from "./list.js";
import { hostsByName, on, store, wordFor } from "./store.js";
import { Rows, byName } from "./table.js";
import { bytes, moment, shownOf, since } from "./words.js";

export class Backups {
  constructor() {
    const body = el("tbody");
    const columns = [
      ["VM", ""],
      ["Of", ""],
      ["Size", "number mid"],
      ["Disks", "wide"],
      ["Was on", "wide"],
      ["Actions", "bare"],
    ];
    const filter = new Filter("backups-text", "name of a VM…", () => this.sift(), "Filter by name");
    this.all = button("Back up all…", backUpAll, { class: "main" });
    this.summary = el("p", { class: "summary", role: "status" });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    this.list = new List("backups", ({ backups }) => this.draw(backups));
    this.node = el(
      "section",
      { "aria-label": "Backups" },
      el(
        "div",
        { class: "tools" },
        ...filter.nodes,
        this.all,
      ),
      this.summary,
      this.list.node,
      table("Backups", columns, body),
      this.more,
    );
    // The newest of each VM first.
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => byName(a.vm, b.vm) || b.taken_ms - a.taken_ms || byName(a.path, b.path),
      matches: ({ vm }) => filter.matches([vm]),
    });
    on("cluster", () => (this.all.disabled = store.cluster.backups === null));
  }

  age() {
    this.list.age();
    for (const entry of this.rows.seen()) entry.age();
  }

  draw(backups) {
    this.rows.replace(backups.map((backup) => [backup.path, backup]));
    this.sift();
  }

  sift() {
    const found = this.rows.sift();
    const where = `in ${store.cluster.backups}, each a folder.`;
    put(this.summary, store.cluster.backups === null ? "" : `${shownOf(found, "backup")} ${where}`);
    show(this.more, found.shown < found.matching);
  }
}

function makeRow() {
  const vm = el("span", { class: "name" });
  const path = el("span", { class: "old wide" });
  const of = el("span");
  const old = el("span", { class: "old" });
  const [size, disks, host] = ["number mid", "wide", "wide"].map((kind) => el("td", { class: kind }));
  let row = null;
  const restore = button("Restore…", () => restoreIt(row));
  const check = button("Check", () => beginAndTell({ chore: "check_backup", backup: row.path }));
  const remove = button("Delete…", () => deleteIt(row), { class: "bad" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, vm, path),
    el("td", {}, of, old),
    size,
    disks,
    host,
    el("td", { class: "does" }, el("div", { class: "acts" }, restore, check, remove)),
  );
  const ages = () => put(old, `${since(row.taken_ms)} ago`);
  const set = (backup) => {
    row = backup;
    ages();
    put(vm, backup.vm);
    put(path, backup.path);
    put(of, moment(backup.taken_ms));
    put(size, bytes(backup.bytes));
    put(disks, backup.disks.map(({ name }) => name).join(", "));
    put(host, backup.host);
    for (const [one, verb] of [[restore, "Restore"], [check, "Check"], [remove, "Delete"]]) {
      mark(one, "aria-label", `${verb} ${backup.vm} of ${moment(backup.taken_ms)}`);
    }
  };
  return { node, set, age: ages };
}

function deleteIt({ vm, taken_ms, path }) {
  confirm({
    title: `Delete a backup of ${vm}`,
    lines: [
      `What ${vm} was at ${moment(taken_ms)} is deleted: ${path}.`,
      "Other backups do not need it, and VMs that were made of it go on.",
    ],
    yes: "Delete it",
    isBad: true,
    act: () => begin({ chore: "delete_backup", backup: path }),
  });
}

function restoreIt({ vm, taken_ms, path }) {
  const hosts = hostsByName().map(({ id, name }) => [wordFor(id), name]);
  const body = el(
    "div",
    { class: "fields" },
    field("Name", wordField("name", { placeholder: vm }), "empty: as it was called, once that one is gone"),
    field("Host", choice("on", [["", "where there is most room"], ...hosts])),
  );
  confirm({
    title: `Restore ${vm}`,
    lines: [`A VM is made of what it was at ${moment(taken_ms)}. One that is there is never replaced.`],
    body,
    yes: "Restore it",
    act: (form) => begin({ chore: "restore_backup", backup: path, name: form.get("name"), on: form.get("on") }),
  });
}

function backUpAll() {
  confirm({
    title: "Back up all VMs",
    lines: [`Every VM that has disks of its own is copied into ${store.cluster.backups}, one after the other.`],
    body: keepField("each"),
    yes: "Back them up",
    act: (form) => begin({ chore: "take_backups", keep: form.get("keep") }),
  });
}
