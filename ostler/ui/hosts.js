// The hosts: how fresh what is known of them is, what they have promised of what they have, how busy their guests
// keep them, and draining. Below them, Ostler's own services, who grants what starts, and what switches hosts.

import { ask, confirm, read, tellNo } from "./asking.js";
import { Council } from "./council.js";
import { Bar, button, el, mark, put, show, table } from "./dom.js";
import { Load } from "./load.js";
import { Power } from "./power.js";
import { ageOf, isVm, nameOf, on, store } from "./store.js";
import { Rows, byName } from "./table.js";
import { age, bytes, count, many, mood, place, word } from "./words.js";

export class Hosts {
  constructor() {
    const body = el("tbody");
    const columns = [
      ["Host", ""],
      ["State", ""],
      ["vCPUs", ""],
      ["Memory", ""],
      ["Disk", "mid"],
      ["CPUs in use", "wide"],
      ["VMs", "number mid"],
      ["Version", "wider"],
      ["Address", "wide"],
      ["Actions", "bare"],
    ];
    const own = el("tbody");
    const services = [["Service", ""], ["State", ""], ["Host", ""], ["Address", "mid"]];
    this.council = new Council();
    this.power = new Power();
    this.load = new Load(() => {
      for (const { row, set } of this.rows.sorted) set(row);
    });
    this.summary = el("p", { class: "summary", role: "status" });
    this.node = el(
      "section",
      { "aria-label": "Hosts" },
      this.summary,
      this.load.list.node,
      table("Hosts", columns, body),
      el("h2", { text: "Ostler's own services" }),
      table("Ostler's own services", services, own),
      this.council.node,
      this.power.node,
    );
    this.rows = new Rows(body, { make: () => makeRow(this.load), order: (a, b) => byName(a.name, b.name) || byName(a.id, b.id) });
    this.services = new Rows(own, { make: makeService, order: (a, b) => byName(a.id, b.id) });
    on("hosts", (ids) => {
      for (const id of ids) this.rows.set(id, store.hosts.get(id));
      this.sum();
    });
    on("jobs", (ids) => {
      for (const id of ids) {
        const job = store.jobs.get(id);
        this.services.set(id, job && !isVm(job) ? job : undefined);
      }
      this.services.sift();
    });
  }

  /** What grows old by itself. */
  age() {
    for (const rows of [this.rows, this.services]) for (const entry of rows.seen()) entry.age();
    this.sum();
    for (const part of [this.load, this.council, this.power]) part.age();
  }

  sum() {
    const { all } = this.rows.sift();
    const how = (words) => [...store.hosts.keys()].filter((id) => words.includes(ageOf(id).freshness)).length;
    const [silent, asleep] = [how(["stale", "lost"]), how(["asleep"])];
    const heard = silent > 0 ? `${silent} not heard now` : asleep > 0 ? "all others heard" : "all heard";
    put(this.summary, `${many(all, "host")}, ${asleep > 0 ? `${asleep} asleep, ` : ""}${heard}`);
  }
}

/** CPUs: a tenth of one is something. */
const cpus = (n) => n.toFixed(n < 9.95 && n % 1 !== 0 ? 1 : 0);

function makeRow(load) {
  const name = el("span", { class: "name" });
  const id = el("span", { class: "old mid" });
  const state = el("span", { class: "state" });
  const old = el("span", { class: "old" });
  const intent = el("span", { class: "tag" });
  const bars = ["vCPUs", "Memory", "Disk", "CPUs in use"].map((label) => new Bar(label));
  const [vms, version, address] = ["number mid", "wider", "wide"].map((kind) => el("td", { class: kind }));
  let row = null;
  const turn = button("", () => (row.intent === "drain" ? undrain(row) : drain(row)));
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, name, id),
    el("td", {}, state, intent, old),
    el("td", {}, bars[0].node),
    el("td", {}, bars[1].node),
    el("td", { class: "mid" }, bars[2].node),
    el("td", { class: "wide" }, bars[3].node),
    vms,
    version,
    address,
    el("td", { class: "does" }, turn),
  );
  const ages = () => {
    const { freshness, age_ms } = ageOf(row.id);
    put(state, word(freshness));
    mark(state, "data-mood", mood(freshness));
    const words = { fresh: "", stale: `not heard for ${age(age_ms)}`, lost: `not heard for ${age(age_ms)}; its guests may run on`, asleep: `switched off while it was empty, ${age(age_ms)} ago` };
    put(old, words[freshness]);
  };
  const set = (host) => {
    row = host;
    ages();
    put(name, host.name);
    put(id, host.short);
    mark(node, "title", host.accel_reason);
    const drained = host.vms === 0 ? "drained" : "draining";
    put(intent, host.intent === "drain" ? drained : "intended for what a newer agent knows");
    show(intent, host.intent !== null);
    const [used, all] = [host.allocation, host.capacity];
    bars[0].set(used.vcpus, all.vcpus, count);
    bars[1].set(used.memory_bytes, all.memory_bytes, bytes);
    bars[2].set(used.disk_bytes, all.disk_bytes, bytes);
    const use = load.of(host.id);
    show(bars[3].node, use !== null);
    if (use !== null) bars[3].set(use.busy, use.cpus, cpus);
    put(vms, host.vms);
    const how = { kvm: "kvm", tcg: "translated", none: "pretended" }[host.accel] ?? host.accel;
    put(version, `${host.version}, ${how}`);
    put(address, host.urls.length > 0 ? place(host.urls[0]) : "");
    put(turn, host.intent === "drain" ? "Undrain" : "Drain…");
    mark(turn, "aria-label", `${host.intent === "drain" ? "Undrain" : "Drain"} ${host.name}`);
  };
  return { node, set, age: ages };
}

function makeService(id) {
  const state = el("span", { class: "state" });
  const old = el("span", { class: "old" });
  const [host, address] = ["", "mid"].map((kind) => el("td", { class: kind }));
  const node = el("tr", {}, el("th", { scope: "row", text: id }), el("td", {}, state, old), host, address);
  let row = null;
  const ages = () => {
    const { freshness, age_ms } = ageOf(row.host);
    const is = freshness === "lost" ? "lost" : row.state;
    put(state, word(is));
    mark(state, "data-mood", mood(is));
    put(old, freshness === "fresh" ? (row.why ?? "") : `was ${word(row.state)}, ${age(age_ms)} ago`);
  };
  const set = (job) => {
    row = job;
    ages();
    put(host, nameOf(job.host));
    put(address, job.url ? place(job.url) : "");
  };
  return { node, set, age: ages };
}

/** The dry run first; only then can it be asked for. */
async function drain(host) {
  try {
    const { lines, can_all_leave } = await read(`hosts/${encodeURIComponent(host.id)}/drain`);
    const first = can_all_leave
      ? "It takes nothing new from then on, and this is done:"
      : "It takes nothing new from then on. Not everything can leave it now:";
    confirm({
      title: `Drain ${host.name}?`,
      lines: [first],
      body: el("ul", { class: "lines" }, ...lines.map((text) => el("li", { text }))),
      yes: "Drain",
      act: () => ask({ ask: "drain", host: host.id }),
    });
  } catch (error) {
    tellNo(error);
  }
}

function undrain(host) {
  confirm({
    title: `Take ${host.name} into use again?`,
    lines: ["It takes what fits. Guests that have left stay where they are."],
    yes: "Undrain",
    act: () => ask({ ask: "undrain", host: host.id }),
  });
}
