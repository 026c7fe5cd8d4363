// The pools of the hosts: what is promised of each, what is really free, who has it, and what is wrong. Each host's own
// folder is one as well, and is nobody's to declare or to take away.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { Bar, button, el, mark, put, show, table } from "./dom.js";
import { ageOf, nameOf, on, store, wordFor } from "./store.js";
import { Rows, byName } from "./table.js";
import { age, bytes, firsts, shownOf } from "./words.js";

/** A host's own folder, by the name that the commands have for it. */
const OWN = "default";

/** Characters of a pool's id that are shown: as many as the command shows. */
const ID_SHOWN = 8;

/** Less of a pool than this is little. */
const LITTLE = 0.1;

export class Pools {
  /** `matches(words)` is the filter. */
  constructor(matches) {
    const body = el("tbody");
    const columns = [
      ["Pool", ""],
      ["State", ""],
      ["Promised", ""],
      ["Free", "number mid"],
      ["Kind", "mid"],
      ["Hosts", "wide"],
      ["Actions", "bare"],
    ];
    this.summary = el("p", { class: "summary", role: "status" });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    this.node = el("section", { "aria-label": "Pools" }, this.summary, table("Pools", columns, body), this.more);
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => rank(a) - rank(b) || byName(a.name, b.name) || byName(a.key, b.key),
      matches: ({ name, path, hosts }) => matches([name, path ?? "", ...hosts.map(nameOf)]),
    });
    on("hosts", () => this.change());
  }

  /** All of it is looked through, so only while it is shown. */
  change() {
    this.isDue = true;
    if (this.node.isConnected) this.patch();
  }

  age() {
    if (this.isDue) this.patch();
    for (const entry of this.rows.seen()) entry.age();
  }

  patch() {
    this.isDue = false;
    this.rows.replace(known().map((row) => [row.key, row]));
    this.sift();
  }

  sift() {
    const found = this.rows.sift();
    const bad = troubledPools();
    const what = bad === 0 ? "" : bad === 1 ? "; one wants a look" : `; ${bad} want a look`;
    put(this.summary, shownOf(found, "pool") + what);
    show(this.more, found.shown < found.matching);
  }
}

// Declared ones first: there are few of them, and one folder for each host.
const rank = ({ name }) => (name === OWN ? 1 : 0);

/** Every pool once, with all hosts that have it: the same name may be another pool elsewhere. */
function known() {
  const pools = new Map();
  for (const host of store.hosts.values()) {
    const { disk_bytes: capacity } = host.capacity;
    const { disk_bytes: promised } = host.allocation;
    const key = `${OWN} ${host.id}`;
    pools.set(key, { key, name: OWN, id: null, hosts: [host.id], capacity, promised, free: null, path: null, is_shared: false, troubles: [] });
    for (const [name, facts] of Object.entries(host.pools ?? {})) take(pools, host, name, facts);
  }
  return [...pools.values()];
}

function take(pools, host, name, facts) {
  const { id, is_shared, path, unavailable, capacity_bytes: capacity, promised_bytes: promised, free_bytes: free } = facts;
  const key = `${name} ${id}`;
  const pool = pools.get(key) ?? { key, name, id, hosts: [], troubles: [], is_shared, path, capacity, promised, free };
  pool.hosts.push(host.id);
  if (unavailable) pool.troubles.push({ host: host.id, why: unavailable });
  // Whoever can't look does not know.
  else Object.assign(pool, { capacity, promised, free, path });
  pools.set(key, pool);
}

/** How many want a look. */
export const troubledPools = () => known().filter((pool) => problemsOf(pool).length > 0).length;

/** What a person should look at, in words. */
function problemsOf({ capacity, promised, free, hosts, troubles }) {
  // What several hosts say alike is said once.
  const alike = new Map();
  for (const { host, why } of troubles) alike.set(why, [...(alike.get(why) ?? []), nameOf(host)]);
  const told = [...alike].map(([why, names]) => `${firsts(names.sort(byName))}: ${why}`);
  if (troubles.length === hosts.length || capacity === 0) return told;
  if (free !== null && free < capacity * LITTLE) told.push(`almost full: ${bytes(free)} free`);
  if (promised >= capacity * (1 - LITTLE)) told.push(`almost all is promised: ${bytes(Math.max(0, capacity - promised))} left`);
  return told;
}

/** As the command calls it. */
function stateOf({ hosts, troubles }) {
  if (troubles.length === 0) return "available";
  return troubles.length === hosts.length ? "unavailable" : `unavailable on ${troubles.length}`;
}

function makeRow() {
  const name = el("span", { class: "name" });
  const where = el("span", { class: "old mid" });
  const whose = el("span", { class: "old narrow" });
  const state = el("span", { class: "state" });
  const why = el("span", { class: "old" });
  const bar = new Bar("Promised");
  const [free, kind, hosts] = ["number mid", "mid seat", "wide"].map((kind) => el("td", { class: kind }));
  let row = null;
  const remove = button("Remove…", () => removeIt(row), { class: "bad" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, name, where, whose),
    el("td", {}, state, why),
    el("td", {}, bar.node),
    free,
    kind,
    hosts,
    el("td", { class: "does" }, remove),
  );
  const ages = () => {
    const problems = problemsOf(row);
    const [is, freshest] = [stateOf(row), freshestOf(row.hosts)];
    put(state, is);
    const mood = is === "unavailable" ? "bad" : problems.length > 0 ? "warn" : "good";
    mark(state, "data-mood", freshest.freshness === "fresh" ? mood : "old");
    const old = freshest.freshness === "fresh" ? [] : [`as of ${age(freshest.age_ms)} ago`];
    put(why, [...problems, ...old].join("; "));
  };
  const set = (pool) => {
    row = pool;
    ages();
    put(name, pool.name);
    put(where, pool.id === null ? "the host's own folder" : `${pool.path}, ${pool.id.replaceAll("-", "").slice(0, ID_SHOWN)}`);
    const isSeen = pool.troubles.length < pool.hosts.length;
    show(bar.node, isSeen);
    bar.set(pool.promised, pool.capacity, bytes);
    mark(bar.rail, "aria-label", `Promised of ${pool.name}`);
    put(free, pool.free === null || !isSeen ? "" : bytes(pool.free));
    put(kind, pool.is_shared ? "shared" : "own");
    const names = firsts(pool.hosts.map(nameOf).sort(byName));
    for (const one of [hosts, whose]) put(one, names);
    show(remove, pool.id !== null);
    mark(remove, "aria-label", `Remove ${pool.name} of ${names}`);
  };
  return { node, set, age: ages };
}

/** The one of these hosts that was heard last. */
function freshestOf(hosts) {
  const ages = hosts.map(ageOf);
  return ages.reduce((best, one) => (one.age_ms < best.age_ms ? one : best), ages[0]);
}

/** Which hosts are meant, as a command takes them. */
export const hostsField = (hint) =>
  field("Hosts", wordField("on", { placeholder: "all" }), `${hint}; several with commas between them`);

export function addPool() {
  const body = el(
    "div",
    { class: "fields" },
    field("Name", wordField("name", { required: true }), "a–z, 0–9 and -"),
    field("Directory", wordField("path", { required: true, placeholder: "/srv/…" }), "by its whole path, there on each host"),
    field("Kind", choice("shared", [["", "each host has one of its own"], ["yes", "shared: all of them mount the same"]])),
    field("What is there", choice("create", [["", "it is a pool already"], ["yes", "make a new pool of it"]])),
    hostsField("empty: on all"),
  );
  confirm({
    title: "Add a pool",
    lines: ["The directory must be there: hosts mount nothing. One that is shared is proved to be the same on each."],
    body,
    yes: "Add it",
    act: (form) =>
      begin({
        chore: "add_pool",
        name: form.get("name"),
        path: form.get("path"),
        shared: form.get("shared") !== "",
        create: form.get("create") !== "",
        on: form.get("on"),
      }),
  });
}

function removeIt({ name, hosts, path }) {
  const words = hosts.map((id) => [wordFor(id), nameOf(id)]).sort(([, a], [, b]) => byName(a, b));
  // Elsewhere the same name may be another pool, and that one stays.
  const all = words.map(([word]) => word).join(",");
  confirm({
    title: `Remove pool ${name}?`,
    lines: [`It is declared no longer. What is in ${path} stays there, and comes back when it is added again.`],
    body: words.length > 1 ? field("From", choice("on", [[all, `all ${words.length} hosts that have it`], ...words])) : null,
    yes: "Remove",
    isBad: true,
    act: (form) => begin({ chore: "remove_pool", name, on: form.get("on") ?? all }),
  });
}
