// One VM: what can be asked of it, and everything that is known of it.

import { ask, askAndTell, confirm, field, read, tellNo } from "./asking.js";
import { Console } from "./console.js";
import { Copies } from "./copies.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Snapshots } from "./snapshots.js";
import { ageOf, hostsByName, nameOf, on, stateOf, store } from "./store.js";
import { placeOf, putState } from "./vms.js";
import { age, bytes, moment, since, sizeOf } from "./words.js";

/** How long a guest may take to shut down, as the command has it. */
const GRACE_MS = 30000;

export class Pane {
  constructor(node, said) {
    Object.assign(this, { node, said, id: null });
    on("jobs", (ids) => this.id !== null && ids.has(this.id) && this.change());
    setInterval(() => this.id !== null && this.draw(), 1000);
  }

  /** Shows this VM, or none. */
  open(id) {
    if (id === this.id) return;
    this.console?.close();
    this.id = id;
    show(this.node, id !== null);
    this.node.replaceChildren();
    if (id === null) return;
    this.build();
    this.draw();
    this.look();
    this.title.focus();
  }

  build() {
    this.title = el("h2", { tabindex: "-1", text: this.id });
    this.state = el("span", { class: "state" });
    this.old = el("span", { class: "old" });
    this.tag = el("span", { class: "tag", text: "protected" });
    this.why = el("p", { class: "reason" });
    this.acts = el("div", { class: "acts", role: "group", "aria-label": "What can be asked of it" });
    this.facts = el("dl", { class: "facts" });
    this.screen = el("div");
    this.shown = el("div");
    this.volumes = el("div");
    this.snapshots = new Snapshots();
    this.copies = new Copies();
    // What they ask for is known once its host has told of it.
    for (const { node } of [this.snapshots, this.copies]) show(node, false);
    this.explained = el("ul", { class: "lines", "aria-live": "polite" });
    this.past = el("div");
    this.spec = el("pre", { tabindex: "0", "aria-label": "Specification" });
    this.rest = el(
      "div",
      {},
      this.facts,
      section("Why", button("Explain", () => this.explain()), this.explained),
      section("Volumes", this.volumes),
      this.snapshots.node,
      this.copies.node,
      section("What has happened", this.past),
      el("details", {}, el("summary", { text: "Specification" }), this.spec),
    );
    this.node.append(
      el("div", { class: "head" }, this.title, button("Close", () => (location.hash = "#vms"), { class: "quiet" })),
      el("p", { class: "now" }, this.state, this.tag, this.old),
      this.why,
      this.acts,
      this.screen,
      this.shown,
      this.rest,
    );
    this.drawn = null;
  }

  get job() {
    return store.jobs.get(this.id);
  }

  /** The row has changed: what was looked at more closely has, too. */
  change() {
    const { job } = this;
    this.draw();
    const word = job ? `${job.id} is ${stateOf(job)} on ${placeOf(job)}` : `${this.id} is gone`;
    if (word !== this.word && this.word) put(this.said, word);
    this.word = word;
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.look(), 300);
  }

  draw() {
    const { job } = this;
    show(this.rest, Boolean(job));
    show(this.tag, Boolean(job?.is_protected));
    if (!job) {
      put(this.state, store.isComplete ? "gone" : "…");
      mark(this.state, "data-mood", "still");
      put(this.old, "");
      put(this.why, "");
      this.acts.replaceChildren();
      this.drawn = null;
      return;
    }
    putState(this.state, this.old, job);
    const reason =
      stateOf(job) === "lost"
        ? "Its host is not heard, which says nothing of the guest: it may well run on."
        : [job.why, job.resize, job.moving?.passes].filter(Boolean).join("; ");
    put(this.why, reason);
    show(this.why, Boolean(reason));
    this.drawFacts(job);
    const acts = actsOf(job).map(([text]) => text).join();
    if (this.drawn !== acts) {
      // A button that has the focus keeps it if it is still there.
      const focused = document.activeElement?.parentElement === this.acts ? document.activeElement.textContent : null;
      this.acts.replaceChildren(
        ...actsOf(job).map(([text, act, kind]) => button(text, () => act(this.job ?? job, this), { class: kind })),
      );
      for (const one of this.acts.children) if (one.textContent === focused) one.focus();
      this.drawn = acts;
    }
  }

  drawFacts(job) {
    const { age_ms } = ageOf(job.host);
    const facts = [
      ["Host", placeOf(job)],
      ["In this state for", `${since(job.since_ms)}, since ${moment(job.since_ms)}`],
      ["vCPUs, memory, disk", `${job.vcpus}, ${bytes(job.memory_bytes)}, ${bytes(job.disk_bytes)}`],
      ["Network cards", job.cards.join("; ") || (job.is_ended ? "not running" : "none seen")],
      ["Image", job.image ?? "none"],
      ["Tenant", job.tenant],
      ["Labels", Object.entries(job.labels).map(([key, value]) => `${key}=${value}`).join(", ") || "none"],
      ["Kind", job.is_adopted ? `${job.kind}, adopted` : job.kind],
      ["Heard", `${age(age_ms)} ago`],
    ];
    if (this.facts.children.length !== facts.length * 2) {
      this.facts.replaceChildren(...facts.flatMap(([term]) => [el("dt", { text: term }), el("dd")]));
    }
    facts.forEach(([, words], at) => put(this.facts.children[2 * at + 1], words));
  }

  /** Reads what the feed does not carry. */
  async look() {
    const id = this.id;
    if (id === null || !this.job) return;
    try {
      const [known, past] = await Promise.all([read(`jobs/${id}`), read(`jobs/${id}/events`)]);
      if (id !== this.id) return;
      this.drawSpec(known);
      this.drawPast(past.events);
    } catch (error) {
      if (id === this.id) this.past.replaceChildren(el("p", { class: "hint", text: error.message }));
    }
    // What does not run wants an explanation before anybody asks for it.
    const hasEnded = this.job?.is_ended && this.job.state !== "stopped";
    if (id === this.id && hasEnded && this.explained.children.length === 0) await this.explain();
  }

  drawSpec({ job: { job }, agent }) {
    put(this.spec, JSON.stringify(job, null, 2));
    this.snapshots.draw(job);
    this.copies.draw(job);
    const vm = job.spec.vm ?? job.spec["one-off"]?.vm;
    // Only what has disks of its own has something to keep or to copy.
    const hasOwn = (vm?.disks ?? []).length > 0 && !this.job?.is_adopted;
    show(this.snapshots.node, hasOwn);
    show(this.copies.node, hasOwn && Boolean(job.spec.vm));
    if (!vm) return;
    const disks = table("Volumes", [["Name", ""], ["Size", "number"], ["From", ""]]);
    for (const disk of vm.disks ?? []) {
      const size = el("td", { class: "number", text: bytes(disk.size_bytes) });
      const from = el("td", { text: disk.image ?? "empty" });
      disks.tBodies[0].append(el("tr", {}, el("th", { scope: "row", text: disk.name }), size, from));
    }
    const has = (vm.disks ?? []).length > 0;
    const cards = (vm.nics ?? []).map((nic) => [nic.network, nic.bridge ?? nic.name, nic.mac].filter(Boolean).join(" "));
    this.volumes.replaceChildren(
      has ? disks : el("p", { class: "hint", text: "It has no disk." }),
      el("p", { class: "hint", text: `Network cards: ${cards.join(", ") || "none"}. Its agent answers at ${agent}.` }),
    );
  }

  drawPast(events) {
    if (events.length === 0) {
      const text = "Its host remembers nothing of it in the agent's present life.";
      this.past.replaceChildren(el("p", { class: "hint", text }));
      return;
    }
    const rows = table("What has happened", [["When", ""], ["Host", ""], ["What", ""]]);
    for (const event of events) {
      const cells = [nameOf(event.host), event.words].map((text) => el("td", { text }));
      rows.tBodies[0].append(el("tr", {}, el("th", { scope: "row", text: moment(event.at_ms) }), ...cells));
    }
    this.past.replaceChildren(rows);
  }

  async explain() {
    const id = this.id;
    try {
      const { lines } = await read(`jobs/${id}/why`);
      if (id === this.id) this.explained.replaceChildren(...lines.map((text) => el("li", { text })));
    } catch (error) {
      tellNo(error);
    }
  }

  /** What its screen shows at this moment; asked for again, what it shows then. */
  showScreen() {
    const src = `jobs/${encodeURIComponent(this.id)}/screenshot?at=${Date.now()}`;
    const image = el("img", { class: "shot", alt: `The screen of ${this.id}`, src });
    const { shown } = this;
    image.addEventListener("error", () => shown.replaceChildren(el("p", { class: "hint", text: "Its screen cannot be seen now." })));
    shown.replaceChildren(image, button("Hide the screen", () => shown.replaceChildren(), { class: "quiet" }));
  }

  toggleConsole() {
    if (this.console) {
      this.console.close();
      return;
    }
    this.console = new Console(this.id, () => (this.console = null));
    this.screen.replaceChildren(this.console.node);
    this.console.focus();
  }
}

function section(title, ...children) {
  return el("section", {}, el("h3", { text: title }), ...children);
}

/** What can be asked of a job now: `[words, act, class]`. */
function actsOf(job) {
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
        ...release,
      ];
    case "paused":
      return [["Resume", plain("resume"), "main"], watch, ...screen, stop, ...resize, force, ...protect, ...release];
    case "migrating_out":
      return [["Cancel the migration…", cancelIt, ""], watch];
    case "stopped":
    case "failed":
    case "crashed":
      return [start, watch, ...resize, ...protect, ...(job.is_adopted ? release : [remove])];
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
  const word = { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  const body = el(
    "div",
    { class: "fields" },
    field("vCPUs", el("input", { name: "vcpus", type: "number", min: "1", max: "255", value: now.vcpus, required: true })),
    field("Memory", el("input", { ...word, name: "memory", value: now.memory, required: true }), "such as 512MiB or 4GiB"),
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
      const changed = (name) => (form.get(name).trim() === now[name] ? null : form.get(name).trim());
      return ask({ ask: "resize", job: job.id, vcpus: changed("vcpus"), memory: changed("memory") });
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
