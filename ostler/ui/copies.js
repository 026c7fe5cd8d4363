// What is made of a VM's disks while it runs on: another VM, an image, a backup.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { button, el } from "./dom.js";
import { hostsByName, wordFor } from "./store.js";
import { moment } from "./words.js";

export class Copies {
  constructor() {
    const acts = [
      button("Clone…", () => clone(this.job)),
      button("Make an image…", () => makeImage(this.job)),
      button("Back up…", () => backUp(this.job)),
    ];
    this.node = el("section", {}, el("h3", { text: "Copies" }), el("div", { class: "acts" }, ...acts));
  }

  /** Of this job, as its host has it. */
  draw(job) {
    this.job = job;
  }
}

/** As which moment the disks are taken. */
function ofMoment({ snapshots = [] }) {
  const kept = snapshots.filter(({ stage }) => stage === "ready");
  const options = kept.map(({ name, taken_ms }) => [name, taken_ms ? `${name}, of ${moment(taken_ms)}` : name]);
  return field("As its disks are", choice("snapshot", [["", "now"], ...options]));
}

function clone(job) {
  const hosts = hostsByName().map(({ id, name }) => [wordFor(id), name]);
  const body = el(
    "div",
    { class: "fields" },
    field("Name", wordField("name", { required: true }), "a–z, 0–9 and -"),
    ofMoment(job),
    field("Host", choice("on", [["", "chosen by the planner"], ...hosts])),
  );
  confirm({
    title: `Clone ${job.id}`,
    lines: ["Another VM that begins with what its disks are, with addresses of its own. It runs on meanwhile."],
    body,
    yes: "Clone it",
    act: (form) => begin({ chore: "clone", job: job.id, name: form.get("name"), snapshot: form.get("snapshot"), on: form.get("on") }),
  });
}

function makeImage(job) {
  const disks = (job.spec.vm?.disks ?? []).map(({ name }) => [name, name]);
  const body = el(
    "div",
    { class: "fields" },
    field("Name", wordField("name", { required: true })),
    field("Disk", choice("disk", disks)),
    ofMoment(job),
  );
  confirm({
    title: `Make an image of a disk of ${job.id}`,
    lines: ["Others can start from it. It is on this VM's host, until it is copied."],
    body,
    yes: "Make it",
    act: (form) =>
      begin({ chore: "take_image", job: job.id, name: form.get("name"), disk: form.get("disk"), snapshot: form.get("snapshot") }),
  });
}

function backUp(job) {
  confirm({
    title: `Back up ${job.id}`,
    lines: ["All its disks, of one moment, are copied into the folder for backups on the machine where `ostler ui` runs."],
    body: keepField(job.id),
    yes: "Back it up",
    act: (form) => begin({ chore: "take_backup", job: job.id, keep: form.get("keep") }),
  });
}

/** How many are kept. */
export const keepField = (whose) =>
  field(
    "Keep at most",
    el("input", { name: "keep", type: "number", min: "1" }),
    `once there is a new one, older backups of ${whose} are deleted until so many are left; empty: all are kept`,
  );
