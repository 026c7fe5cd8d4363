// What each tenant's VMs may be like, on which hosts, and when and how often they may be started; in the words of
// `ostler policy`. Read here; rules are set with `ostler policy set`.

import { el, put, show, table } from "./dom.js";
import { List } from "./list.js";
import { Rows, byName } from "./table.js";

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

  draw({ rules, hosts_behind }) {
    this.rows.replace(rules.map((row) => [`${row.tenant} ${row.rule}`, row]));
    this.rows.sift();
    show(this.table, rules.length > 0);
    const what = rules.length > 0 ? "What is left out is allowed." : "No policy: every tenant's VMs may be whatever fits.";
    const behind = hosts_behind.length > 0 ? ` Not obeyed yet by ${hosts_behind.join(", ")}: nothing starts there until it is.` : "";
    put(this.words, `${what} Rules are set with: ostler policy set FILE.${behind}`);
  }
}

function makeRow() {
  const cells = [el("th", { scope: "row" }), el("td"), el("td")];
  const set = ({ tenant, rule, allowed }) => [tenant, rule, allowed].forEach((text, at) => put(cells[at], text));
  return { node: el("tr", {}, ...cells), set };
}
