// What each tenant's VMs may be like, and on which hosts. Read here; rules are set with `ostler policy set`.

import { el, put, show, table } from "./dom.js";
import { List } from "./list.js";
import { Rows, byName } from "./table.js";
import { bytes } from "./words.js";

/** How the rules of those without an entry are called, as the command calls them. */
const DEFAULT = "(default)";

export class Policy {
  constructor() {
    const body = el("tbody");
    this.words = el("p", { class: "summary" });
    this.list = new List("policy", (list) => this.draw(list));
    this.table = table("Policy", [["Tenant", ""], ["Rule", ""], ["Allowed", ""]], body);
    this.node = el("section", { "aria-label": "Policy" }, el("h2", { text: "Policy" }), this.words, this.list.node, this.table);
    this.rows = new Rows(body, { make: makeRow, order: (a, b) => byName(a.tenant, b.tenant) || byName(a.rule, b.rule) });
    show(this.table, false);
  }

  age() {
    this.list.age();
  }

  draw({ policy, hosts_behind }) {
    const all = [[DEFAULT, policy.default], ...Object.entries(policy.tenants ?? {})].filter(([, rules]) => rules);
    const rows = all.flatMap(([tenant, rules]) => rulesOf(rules).map(([rule, allowed]) => ({ tenant, rule, allowed })));
    this.rows.replace(rows.map((row) => [`${row.tenant} ${row.rule}`, row]));
    this.rows.sift();
    show(this.table, rows.length > 0);
    const what = rows.length > 0 ? "What is left out is allowed." : "No policy: every tenant's VMs may be whatever fits.";
    const behind = hosts_behind.length > 0 ? ` Not obeyed yet by ${hosts_behind.join(", ")}: nothing starts there until it is.` : "";
    put(this.words, `${what} Rules are set with: ostler policy set FILE.${behind}`);
  }
}

/** Each rule as the command has it. */
function rulesOf({ vm_max, images, host_labels, networks, host_hardware }) {
  const list = (names) => names.join(", ") || "none";
  const rules = [
    vm_max && ["vm_max", `at most ${sizeOf(vm_max)}, head-room included`],
    images && ["images", list(images)],
    host_labels && ["host_labels", list(Object.entries(host_labels).map(([key, value]) => `${key}=${value}`))],
    networks && ["networks", list(networks)],
    host_hardware && ["host_hardware", list(host_hardware)],
  ].filter(Boolean);
  return rules.length > 0 ? rules : [["-", "whatever fits"]];
}

function sizeOf({ vcpus, memory_bytes, disk_bytes }) {
  const words = [
    vcpus !== undefined && `${vcpus} vcpus`,
    memory_bytes !== undefined && `${bytes(memory_bytes)} of memory`,
    disk_bytes !== undefined && `${bytes(disk_bytes)} of disk`,
  ];
  return words.filter(Boolean).join(", ");
}

function makeRow() {
  const cells = [el("th", { scope: "row" }), el("td"), el("td")];
  const set = ({ tenant, rule, allowed }) => [tenant, rule, allowed].forEach((text, at) => put(cells[at], text));
  return { node: el("tr", {}, ...cells), set };
}
