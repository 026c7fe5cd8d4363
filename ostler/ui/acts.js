// What can be asked of one VM now, by its state, and the dialogs that ask for it.

import { ask, askAndTell, choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { el } from "./dom.js";
import { ageOf, hostsByName, nameOf } from "./store.js";
import { bytes, sizeOf } from "./words.js";

/** How long a guest may take to shut down, as the command has it. */
const GRACE_MS = 30000;

/** What can be asked of a job now: `[words, act, class]`. */
export function actsOf(job) {
  const plain = (kind) => () => askAndTell({ ask: kind, job: job.id });
  const start = ["Start", plain("start"), "main"];
  const stop = ["Stop", () => askAndTell({ ask: "stop", job: job.id, grace_ms: GRACE_MS }), "main"];
  const force = ["Force stop…", forceStop, ""];
  const migrate = ["Migrate…", migrateTo, ""];
  const resize = job.kind === "vm" ? [["Resize…", resizeIt, ""]] : [];
  const watch = ["Console", (_, pane) => pane.toggleConsole(), ""];
  const screen = job.has_screen ? [["Screen", (_, pane) => pane.showScreen(), ""]] : [];
  const remove = ["Delete…", removeIt, "bad"];
  const protect = job.is_protected ? [["Unprotect…", unprotectIt, ""]] : [["Protect", plain("protect"), ""]];
  const rank = ["Rank…", rankIt, ""];
  const release = job.is_adopted ? [["Release…", releaseIt, ""]] : [];
  switch (job.state) {
    case "running":
      return [
        stop,
        watch,
        ...screen,
        migrate,
        ...resize,
        ["Pause", plain("pause"), ""],
        ["Reboot", plain("reboot"), ""],
        ["Save", plain("save"), ""],
        ["Reset…", resetIt, ""],
        force,
        ...protect,
        rank,
        ...release,
      ];
    case "paused":
      return [["Resume", plain("resume"), "main"], watch, ...screen, stop, ...resize, force, ...protect, rank, ...release];
    case "migrating_out":
      return [["Cancel the migration…", cancelIt, ""], watch];
    case "stopped":
    case "failed":
    case "crashed":
      return [start, watch, ...resize, ...protect, rank, ...(job.is_adopted ? release : [remove])];
    default:
      return [watch, force];
  }
}

function forceStop(job) {
  confirm({
    title: `Force ${job.id} to stop?`,
    lines: ["It ends at once, as by a power cut. What the guest has not written is lost."],
    yes: "Force stop",
    isBad: true,
    act: () => ask({ ask: "stop", job: job.id, grace_ms: 0 }),
  });
}

function resetIt(job) {
  confirm({
    title: `Press the reset button of ${job.id}?`,
    lines: ["The guest begins anew without having shut down."],
    yes: "Reset",
    isBad: true,
    act: () => ask({ ask: "reset", job: job.id }),
  });
}

function resizeIt(job) {
  const now = { vcpus: String(job.vcpus), memory: sizeOf(job.memory_bytes) };
  const cpus = (name, props) => el("input", { name, type: "number", min: "1", max: "255", ...props });
  const body = el(
    "div",
    { class: "fields" },
    field("vCPUs", cpus("vcpus", { value: now.vcpus, required: true })),
    field("Memory", wordField("memory", { value: now.memory, required: true }), "such as 512MiB or 4GiB"),
    field("vCPUs at most", cpus("max_vcpus"), "head-room, from its next start on; empty: as it is"),
    field("Memory at most", wordField("max_memory"), "the same for memory"),
  );
  const line = job.is_ended
    ? "It has them from its next start on."
    : "It has them at once as far as its machine and its guest go, and the rest from its next start on.";
  confirm({
    title: `Resize ${job.id}`,
    lines: [line],
    body,
    yes: "Resize",
    act: (form) => {
      const said = (name) => form.get(name).trim() || null;
      const changed = (name) => (said(name) === now[name] ? null : said(name));
      const most = { max_vcpus: said("max_vcpus"), max_memory: said("max_memory") };
      return ask({ ask: "resize", job: job.id, vcpus: changed("vcpus"), memory: changed("memory"), ...most });
    },
  });
}

function cancelIt(job) {
  confirm({
    title: `Cancel the migration of ${job.id}?`,
    lines: ["It goes on where it is. What was asked for is undone, or tried again by its run."],
    yes: "Cancel the migration",
    act: () => ask({ ask: "cancel_migration", job: job.id }),
  });
}

function unprotectIt(job) {
  confirm({
    title: `Unprotect ${job.id}?`,
    lines: ["Its host lets it be stopped, saved and deleted again."],
    yes: "Unprotect",
    act: () => ask({ ask: "unprotect", job: job.id }),
  });
}

function rankIt(job) {
  const may = choice("may", [["", "for no other's sake"], ["yes", "for one with more that fits nowhere else"]]);
  may.value = job.is_preemptible ? "yes" : "";
  const body = el(
    "div",
    { class: "fields" },
    field("Priority", el("input", { name: "priority", type: "number", min: "1", max: "100", value: job.priority, required: true }), "1 (least) to 100 (most)"),
    field("May be stopped", may),
  );
  confirm({
    title: `How much does ${job.id} matter?`,
    lines: ["When not all can run, those with more are started first."],
    body,
    yes: "Rank it",
    act: (form) => begin({ chore: "rank", job: job.id, priority: form.get("priority"), is_preemptible: form.get("may") !== "" }),
  });
}

function releaseIt(job) {
  confirm({
    title: `Release ${job.id}?`,
    lines: ["It is nobody's job then. Its domain runs on, with the definition that it came with."],
    yes: "Release",
    act: () => ask({ ask: "release", job: job.id }),
  });
}

function removeIt(job) {
  confirm({
    title: `Delete ${job.id}?`,
    lines: [`It and its disks (${bytes(job.disk_bytes)}) on ${nameOf(job.host)} will be gone. There is no way back.`],
    typed: job.id,
    yes: "Delete",
    isBad: true,
    act: () => ask({ ask: "delete", job: job.id, name: job.id }),
  });
}

function migrateTo(job) {
  const hosts = hostsByName().filter((host) => host.id !== job.host);
  const to = el("select", { name: "to" }, el("option", { value: "", text: "the best one, by the planner" }));
  for (const host of hosts) {
    const free = host.capacity.memory_bytes - host.allocation.memory_bytes;
    const { freshness } = ageOf(host.id);
    const known = ["lost", "asleep"].includes(freshness) ? `, ${freshness}` : "";
    const state = known === "" && host.intent === "drain" ? ", drained" : known;
    to.append(el("option", { value: host.id, text: `${host.name} (${bytes(Math.max(0, free))} free${state})` }));
  }
  confirm({
    title: `Migrate ${job.id}`,
    lines: [`It runs on while it moves away from ${nameOf(job.host)}.`],
    body: field("To", to),
    yes: "Migrate",
    act: (form) => ask({ ask: "migrate", job: job.id, to: form.get("to") || null }),
  });
}
