// One VM: what can be asked of it, and everything that is known of it.

import { actsOf } from "./acts.js";
import { read, tellNo } from "./asking.js";
import { Cards } from "./cards.js";
import { Console } from "./console.js";
import { Copies } from "./copies.js";
import { Disks } from "./disks.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Log } from "./log.js";
import { Snapshots } from "./snapshots.js";
import { ageOf, nameOf, on, stateOf, store } from "./store.js";
import { placeOf, putState } from "./vms.js";
import { age, bytes, moment, since } from "./words.js";

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
    this.disks = new Disks();
    this.cards = new Cards();
    this.snapshots = new Snapshots();
    this.copies = new Copies();
    this.log = new Log(this.id);
    // What they ask for is known once its host has told of it.
    for (const { node } of [this.disks, this.snapshots, this.copies]) show(node, false);
    this.explained = el("ul", { class: "lines", "aria-live": "polite" });
    this.past = el("div");
    this.agent = el("p", { class: "hint" });
    this.spec = el("pre", { tabindex: "0", "aria-label": "Specification" });
    this.rest = el(
      "div",
      {},
      this.facts,
      section("Why", button("Explain", () => this.explain()), this.explained),
      this.disks.node,
      this.cards.node,
      this.snapshots.node,
      this.copies.node,
      section("What has happened", this.past),
      this.log.node,
      el("details", {}, el("summary", { text: "Specification" }), this.agent, this.spec),
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
    this.cards.draw(job, isOurs(job));
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
    const others = job.cards.filter((words) => !job.nics.some(({ mac }) => words.startsWith(mac)));
    const facts = [
      ["Host", placeOf(job)],
      ["In this state for", `${since(job.since_ms)}, since ${moment(job.since_ms)}`],
      ["vCPUs, memory, disk", `${job.vcpus}, ${bytes(job.memory_bytes)}, ${bytes(job.disk_bytes)}`],
      // Those that came with an adopted one, or that its guest has not let go of.
      ...(others.length > 0 ? [["Other network cards", others.join("; ")]] : []),
      ["Image", job.image ?? "none"],
      ["Rank", job.rank ?? `priority ${job.priority}, as most have`],
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
    put(this.agent, `Its agent answers at ${agent}.`);
    const vm = job.spec.vm ?? job.spec["one-off"]?.vm;
    const { job: row } = this;
    this.disks.draw(job, row?.host, Boolean(row) && isOurs(row));
    this.snapshots.draw(job);
    this.copies.draw(job);
    // Only what has disks of its own has something to keep or to copy.
    const hasOwn = (vm?.disks ?? []).length > 0 && !row?.is_adopted;
    show(this.disks.node, Boolean(vm));
    show(this.snapshots.node, hasOwn);
    show(this.copies.node, hasOwn && Boolean(job.spec.vm));
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

/** Whether its disks and cards are Ostler's to change: a one-off has what it has, an adopted one came with them. */
const isOurs = (job) => job.kind === "vm" && !job.is_adopted;

function section(title, ...children) {
  return el("section", {}, el("h3", { text: title }), ...children);
}
