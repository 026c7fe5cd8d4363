// The VMs: one row each, filtered by text and state, and the form for a new one.

import { ask, choice, confirm, field } from "./asking.js";
import { plugs } from "./cards.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Filter } from "./filter.js";
import { ageOf, hostsByName, isVm, nameOf, on, stateOf, store } from "./store.js";
import { Rows, byName } from "./table.js";
import { age, bytes, mood, shownOf, since, word } from "./words.js";

/** What the state filter offers, and what matches it. */
const KINDS = [
  ["", "Every state", () => true],
  ["alive", "Alive", (job) => !job.is_ended],
  ["running", "Running", (job) => stateOf(job) === "running"],
  ["paused", "Paused", (job) => stateOf(job) === "paused"],
  ["changing", "Changing", (job) => mood(stateOf(job)) === "busy"],
  ["ended", "Ended", (job) => job.is_ended && stateOf(job) !== "lost"],
  ["bad", "Failed or crashed", (job) => ["failed", "crashed"].includes(stateOf(job))],
  ["lost", "Lost: the host is not heard", (job) => stateOf(job) === "lost"],
];

export class Vms {
  constructor() {
    this.filter = new Filter("vms-text", "name, host, tenant, label…", () => this.sift());
    this.kind = el("select", { id: "vms-state", on: { change: () => this.sift() } });
    this.kind.append(...KINDS.map(([value, text]) => el("option", { value, text })));
    this.summary = el("p", { class: "summary", role: "status" });
    // Its form needs to know hosts and images.
    this.add = button("New VM", newVm, { class: "main", disabled: true });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    const body = el("tbody");
    const columns = [
      ["Name", ""],
      ["State", ""],
      ["Host", ""],
      ["vCPUs", "number wide"],
      ["Memory", "number wide"],
      ["Address", "wide"],
      ["For", "number mid"],
      ["Why", "wide"],
    ];
    this.node = el(
      "section",
      { "aria-label": "VMs" },
      el(
        "div",
        { class: "tools" },
        ...this.filter.nodes,
        el("label", { for: "vms-state", class: "unseen", text: "Filter by state" }),
        this.kind,
        this.add,
      ),
      this.summary,
      table("VMs", columns, body),
      this.more,
    );
    this.rows = new Rows(body, {
      make: (id) => makeRow(id),
      order: (a, b) => byName(a.id, b.id),
      matches: (job) => this.matches(job),
    });
    on("jobs", (ids) => this.patch(ids));
    on("beat", () => {
      this.add.disabled = store.hosts.size === 0;
      this.sift();
    });
  }

  patch(ids) {
    for (const id of ids) {
      const job = store.jobs.get(id);
      this.rows.set(id, job && isVm(job) ? job : undefined);
    }
    this.sift();
  }

  matches(job) {
    const kind = KINDS.find(([value]) => value === this.kind.value);
    if (!kind[2](job)) return false;
    const labels = Object.entries(job.labels).map(([key, value]) => `${key}=${value}`);
    const words = [job.id, nameOf(job.host), job.tenant, job.image ?? "", stateOf(job), job.is_protected ? "protected" : "", job.rank ?? "", job.why ?? "", job.resize ?? "", ...job.cards, ...job.nics.map((nic) => `${nic.network ?? ""} ${nic.mac}`), ...labels];
    return this.filter.matches(words);
  }

  sift() {
    const found = this.rows.sift();
    put(this.summary, found.all === 0 ? none() : shownOf(found, "VM"));
    show(this.more, found.shown < found.matching);
  }

  /** What grows old by itself. */
  age() {
    for (const entry of this.rows.seen()) entry.age();
  }

  select(id) {
    for (const [one, is] of [[this.selected, null], [id, "true"]]) {
      const entry = this.rows.get(one);
      if (entry) mark(entry.node, "aria-current", is);
    }
    this.selected = id;
  }
}

function none() {
  return store.isComplete ? "No VM yet" : "";
}

function makeRow(id) {
  const name = el("a", { href: `#vms/${encodeURIComponent(id)}`, text: id });
  const state = el("span", { class: "state" });
  const old = el("span", { class: "old" });
  const [host, vcpus, memory, address, spent, why] = ["", "number wide", "number wide", "wide", "number mid", "wide why"].map(
    (kind) => el("td", { class: kind }),
  );
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, name),
    el("td", {}, state, old),
    host,
    vcpus,
    memory,
    address,
    spent,
    why,
  );
  let row = null;
  const ages = () => {
    putState(state, old, row);
    put(spent, since(row.since_ms));
  };
  const set = (job) => {
    row = job;
    ages();
    put(host, placeOf(job));
    put(vcpus, job.vcpus);
    put(memory, bytes(job.memory_bytes));
    put(address, job.address ?? "");
    const is = [job.why ?? (job.is_adopted ? "adopted" : null), job.is_protected ? "protected" : null, job.rank, job.resize, job.moving?.passes];
    put(why, is.filter(Boolean).join("; "));
  };
  return { node, set, age: ages };
}

/** The host, and where it goes while it moves. */
export function placeOf(job) {
  const host = nameOf(job.host);
  if (!job.moving) return host;
  const { to, moved_bytes, total_bytes } = job.moving;
  const share = total_bytes > 0 ? ` ${Math.floor((100 * moved_bytes) / total_bytes)} %` : "";
  return `${host} → ${nameOf(to)}${share}`;
}

/** A state as a word with a dot. Of a host that is not heard, it says what was last heard, and when. */
export function putState(state, old, job) {
  const { freshness, age_ms } = ageOf(job.host);
  const is = stateOf(job);
  put(state, word(is));
  mark(state, "data-mood", freshness === "stale" ? "old" : mood(is));
  if (freshness === "lost") put(old, `was ${word(job.state)}, ${age(age_ms)} ago`);
  else put(old, freshness === "stale" ? `as of ${age(age_ms)} ago` : "");
}

function newVm() {
  const images = new Set([...store.hosts.values()].flatMap((host) => host.images));
  const image = el("select", { name: "image" });
  image.append(
    ...[...images].sort(byName).map((name) => el("option", { value: name, text: name })),
    el("option", { value: "", text: "none: an empty machine" }),
  );
  const hosts = hostsByName();
  const pools = [...new Set(hosts.flatMap((host) => Object.keys(host.pools ?? {})))].sort(byName);
  const on = choice("on", [["", "chosen by the planner"], ...hosts.map((host) => [host.id, host.name])]);
  const word = { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  const body = el(
    "div",
    { class: "fields" },
    field("Name", el("input", { ...word, name: "name", required: true }), "a–z, 0–9 and -"),
    field("Image", image),
    field("vCPUs", el("input", { name: "vcpus", type: "number", min: "1", max: "255", value: "1", required: true })),
    field("Memory", el("input", { ...word, name: "memory", value: "128MiB", required: true }), "such as 512MiB or 4GiB"),
    field("vCPUs at most", el("input", { name: "max_vcpus", type: "number", min: "1", max: "255" }), "head-room to grow while it runs; may be empty"),
    field("Memory at most", el("input", { ...word, name: "max_memory" }), "the same for memory"),
    field("Disk", el("input", { ...word, name: "disk" }), "such as 8GiB; empty: as large as the image"),
    field("Host", on),
    field("Tenant", el("input", { ...word, name: "tenant", value: "default" })),
    field("Pool of its disks", choice("pool", [["", "its host's own folder"], ...pools.map((name) => [name, name])])),
    field("Network card", choice("nic", [["", "none"], ...plugs(hosts)])),
    field("When its host is cut off", choice("on_loss", [["", "it runs on there"], ["stop", "it is stopped, and started on another"]])),
    field("Screen", choice("screen", [["", "none"], ["yes", "one, for pictures and viewers"]])),
  );
  confirm({
    title: "New VM",
    body,
    yes: "Run it",
    act: (form) => {
      const text = (name) => form.get(name).trim();
      return ask({
        ask: "run",
        name: text("name"),
        image: text("image") || null,
        vcpus: text("vcpus"),
        memory: text("memory"),
        disk: text("disk") || null,
        max_vcpus: text("max_vcpus") || null,
        max_memory: text("max_memory") || null,
        tenant: text("tenant") || null,
        on: text("on") || null,
        more: { pool: text("pool") || null, nic: text("nic") || null, on_loss: text("on_loss") || null, has_screen: text("screen") !== "" },
      });
    },
  });
}
