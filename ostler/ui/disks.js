// The disks of one VM: how large, from what and where; another one, a larger one, one less.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { store } from "./store.js";
import { Rows, byName } from "./table.js";
import { bytes, sizeOf } from "./words.js";

export class Disks {
  constructor() {
    const body = el("tbody");
    this.table = table("Disks", [["Disk", ""], ["Size", "number"], ["Began as", ""], ["Actions", "bare"]], body);
    this.rows = new Rows(body, { make: () => makeRow(this), order: (a, b) => a.at - b.at || byName(a.name, b.name) });
    this.none = el("p", { class: "hint", text: "It has no disk." });
    this.add = button("Attach a disk…", () => attach(this.job, this.host));
    this.node = el("section", {}, el("h3", { text: "Disks" }), this.add, this.table, this.none);
  }

  /** Those of this job, as its host has it; `isOurs` when they are Ostler's to change. */
  draw({ id, spec }, host, isOurs) {
    Object.assign(this, { job: id, host, isOurs });
    const disks = (spec.vm ?? spec["one-off"]?.vm)?.disks ?? [];
    this.rows.replace(disks.map((disk, at) => [disk.name, { at, isOurs, ...disk }]));
    this.rows.sift();
    show(this.add, isOurs);
    show(this.none, disks.length === 0);
    show(this.table, disks.length > 0);
  }
}

function makeRow(disks) {
  const name = el("span", { class: "name" });
  const pool = el("span", { class: "old" });
  const [size, from] = ["number", ""].map((kind) => el("td", { class: kind }));
  let row = null;
  const grow = button("Larger…", () => growIt(disks.job, row));
  const gone = button("Detach…", () => detach(disks.job, row), { class: "bad" });
  const acts = el("td", { class: "does" }, el("div", { class: "acts" }, grow, gone));
  const node = el("tr", {}, el("th", { scope: "row" }, name, pool), size, from, acts);
  const set = (disk) => {
    row = disk;
    put(name, disk.name);
    put(pool, disk.pool ? `in pool ${disk.pool}` : "");
    put(size, bytes(disk.size_bytes));
    put(from, disk.image ?? "empty");
    for (const [one, verb] of [[grow, "Larger: disk"], [gone, "Detach disk"]]) {
      show(one, disk.isOurs);
      mark(one, "aria-label", `${verb} ${disk.name}`);
    }
  };
  return { node, set };
}

function attach(job, host) {
  const images = Object.values(store.hosts.get(host)?.images ?? []).sort(byName);
  const body = el(
    "div",
    { class: "fields" },
    field("Name", wordField("name"), "empty: disk1, disk2 …"),
    field("Size", wordField("size", { required: true }), "such as 8GiB"),
    field("Begins as", choice("image", [["", "empty"], ...images.map((name) => [name, `a copy of ${name}`])])),
  );
  confirm({
    title: `Attach a disk to ${job}`,
    lines: ["It is in its host's own folder. A guest that runs has it at once, if its machine has a place for it; else from its next start on."],
    body,
    yes: "Attach it",
    act: (form) =>
      begin({ chore: "attach_disk", job, name: form.get("name"), size: form.get("size"), image: form.get("image") }),
  });
}

function growIt(job, { name, size_bytes }) {
  confirm({
    title: `Make disk ${name} of ${job} larger`,
    lines: ["It is larger at once, also while it runs; what is in it is for its guest to make larger. Disks only grow."],
    body: field("Size", wordField("size", { required: true, value: sizeOf(size_bytes) }), "such as 8GiB"),
    yes: "Make it larger",
    act: (form) => begin({ chore: "grow_disk", job, name, size: form.get("size") }),
  });
}

function detach(job, { name, size_bytes }) {
  confirm({
    title: `Detach disk ${name} of ${job}?`,
    lines: [`All that is in it (${bytes(size_bytes)}) is deleted, once its guest lets go of it: unmount it there first.`],
    typed: name,
    yes: "Detach and delete",
    isBad: true,
    act: () => begin({ chore: "detach_disk", job, name }),
  });
}
