// The networks of the hosts: what each is, where it is and is not, and who is plugged into it; taking one away.

import { choice, confirm, field } from "./asking.js";
import { begin } from "./chores.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Filter } from "./filter.js";
import { makeNetwork } from "./newnetwork.js";
import { Plugs } from "./plugs.js";
import { ageOf, nameOf, on, store, wordFor } from "./store.js";
import { Rows, byName } from "./table.js";
import { age, firsts, shownOf } from "./words.js";

export class Networks {
  constructor() {
    const body = el("tbody");
    const columns = [
      ["Network", ""],
      ["State", ""],
      ["What", ""],
      ["Bridge", "wide"],
      ["Hosts", "mid"],
      ["VMs", "number mid"],
      ["Actions", "bare"],
    ];
    const filter = new Filter("networks-text", "network, host, VM, address…", () => this.sift());
    const matches = (words) => filter.matches(words);
    this.plugs = new Plugs(matches);
    this.summary = el("p", { class: "summary", role: "status" });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    this.node = el(
      "section",
      { "aria-label": "Networks" },
      el(
        "div",
        { class: "tools" },
        ...filter.nodes,
        button("Make one…", makeNetwork, { class: "main" }),
      ),
      this.summary,
      table("Networks", columns, body),
      this.more,
      this.plugs.node,
    );
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => byName(a.name, b.name) || byName(a.what, b.what),
      matches: ({ name, what, on }) => matches([name, what, ...on.map(({ host }) => nameOf(host))]),
    });
    // Who is plugged in is counted in the rows.
    for (const kind of ["hosts", "jobs"]) on(kind, () => this.change());
  }

  /** All of it is looked through, so only while it is shown. */
  change() {
    this.isDue = true;
    if (this.node.isConnected) this.patch();
  }

  age() {
    if (this.isDue) this.patch();
    for (const entry of this.rows.seen()) entry.age();
    this.plugs.age();
  }

  patch() {
    this.isDue = false;
    this.rows.replace(known().map((row) => [`${row.name} ${row.what}`, row]));
    this.sift();
  }

  sift() {
    const found = this.rows.sift();
    put(this.summary, shownOf(found, "network"));
    show(this.more, found.shown < found.matching);
    this.plugs.sift();
  }
}

/** Hosts have the same network when its name and this are the same, as the command has it. */
function whatOf({ kind, vlan, vni, bridge, subnet }) {
  if (kind === "vlan" && vlan !== undefined) return `${kind} ${vlan}`;
  if (kind === "overlay" && vni !== undefined) return `${kind} ${vni}`;
  if (kind === "bridge") return `${kind} ${bridge ?? ""}`;
  return subnet ? `${kind} ${subnet}` : kind;
}

function known() {
  const networks = new Map();
  for (const { id: host, networks: all } of store.hosts.values()) {
    for (const [name, facts] of Object.entries(all ?? {})) {
      const what = whatOf(facts);
      const key = `${name} ${what}`;
      if (!networks.has(key)) networks.set(key, { name, what, on: [], vms: 0 });
      networks.get(key).on.push({ host, facts });
    }
  }
  const at = new Map();
  for (const row of networks.values()) for (const { host } of row.on) at.set(`${host} ${row.name}`, row);
  for (const { host, nics } of store.jobs.values()) {
    const used = new Set(nics.map(({ network }) => network).filter(Boolean));
    for (const name of used) {
      const row = at.get(`${host} ${name}`);
      if (row) row.vms += 1;
    }
  }
  return [...networks.values()];
}

function makeRow() {
  const name = el("span", { class: "name" });
  const by = el("span", { class: "old" });
  const state = el("span", { class: "state" });
  const why = el("span", { class: "old" });
  const [what, bridge, hosts, vms] = ["", "wide", "mid", "number mid"].map((kind) => el("td", { class: kind }));
  let row = null;
  const remove = button("Remove…", () => removeIt(row), { class: "bad" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, name, by),
    el("td", {}, state, why),
    what,
    bridge,
    hosts,
    vms,
    el("td", { class: "does" }, remove),
  );
  const ages = () => {
    const down = row.on.filter(({ facts }) => !facts.is_up);
    const up = row.on.length - down.length;
    put(state, down.length === 0 ? "up" : up === 0 ? "not up" : `up on ${up} of ${row.on.length}`);
    const isOld = row.on.every(({ host }) => ageOf(host).freshness !== "fresh");
    mark(state, "data-mood", isOld ? "old" : down.length === 0 ? "good" : up === 0 ? "bad" : "warn");
    const told = down.map(({ host, facts }) => `${nameOf(host)}: ${facts.trouble ?? "not started"}`);
    const youngest = Math.min(...row.on.map(({ host }) => ageOf(host).age_ms));
    put(why, [...told, ...(isOld ? [`as of ${age(youngest)} ago`] : [])].join("; "));
  };
  const set = (network) => {
    row = network;
    ages();
    const isOurs = network.on.some(({ facts }) => facts.revision !== undefined);
    put(name, network.name);
    put(by, isOurs ? "" : "made by others");
    put(what, network.what);
    put(bridge, firsts([...new Set(network.on.map(({ facts }) => facts.bridge).filter(Boolean))]));
    const names = network.on.map(({ host }) => nameOf(host)).sort(byName);
    const isEverywhere = names.length === store.hosts.size && names.length > 2;
    put(hosts, isEverywhere ? `all ${names.length}` : firsts(names));
    put(vms, network.vms);
    show(remove, isOurs);
    mark(remove, "aria-label", `Remove ${network.name}, ${network.what}`);
  };
  return { node, set, age: ages };
}

function removeIt({ name, what, on }) {
  const words = on.map(({ host }) => [wordFor(host), nameOf(host)]).sort(([, a], [, b]) => byName(a, b));
  // Elsewhere the same name may be another network, and that one stays.
  const all = words.map(([word]) => word).join(",");
  confirm({
    title: `Remove network ${name}?`,
    lines: [`${what} is taken off its hosts. While a VM there needs it, it is taken off none.`],
    body: words.length > 1 ? field("From", choice("on", [[all, `all ${words.length} hosts that have it`], ...words])) : null,
    yes: "Remove",
    isBad: true,
    act: (form) => begin({ chore: "remove_network", name, on: form.get("on") ?? all }),
  });
}
