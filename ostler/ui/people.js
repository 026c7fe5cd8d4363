// Who may do what, by their keys: operators, users of a tenant, readers. Read here, and changed by the command line:
// what lets a person in is signed on purpose, by a key that was compared.

import { el, put, table } from "./dom.js";
import { List } from "./list.js";
import { Rows, byName } from "./table.js";
import { many } from "./words.js";

/** Kinds of people: what they may do, columns with what is in them, and the commands that change them. */
const KINDS = [
  {
    of: "operators",
    title: "Operators",
    may: "may do everything",
    columns: [["Key", ""], ["Whose", ""]],
    cells: ({ key, own }) => [key, key === own ? "this page's" : ""],
    how: "ostler operators add KEY, ostler operators remove KEY",
  },
  {
    of: "users",
    title: "Users",
    may: "run the VMs of their tenant, and see everything",
    columns: [["Name", ""], ["Tenant", ""], ["Key", "mid"]],
    cells: ({ name, tenant, key }) => [name, tenant, key],
    how: "ostler users add KEY --name NAME --tenant TENANT, ostler users remove NAME",
  },
  {
    of: "readers",
    title: "Readers",
    may: "look and do nothing",
    columns: [["Name", ""], ["Sees", ""], ["Key", "mid"]],
    cells: ({ name, sees, key }) => [name, sees === "metrics" ? "/metrics" : sees, key],
    how: "ostler readers add KEY --name NAME, ostler readers remove NAME",
  },
];

export class People {
  constructor() {
    this.kinds = KINDS.map((kind) => {
      const body = el("tbody");
      const words = el("p", { class: "summary" });
      const make = () => makeRow(kind);
      const order = (a, b) => byName(a.name ?? "", b.name ?? "") || byName(a.key, b.key);
      return { ...kind, words, rows: new Rows(body, { make, order }), table: table(kind.title, kind.columns, body) };
    });
    this.list = new List("people", (list) => this.draw(list));
    const sections = this.kinds.flatMap(({ title, words, table: all }) => [el("h2", { text: title }), words, all]);
    this.node = el("section", { "aria-label": "People" }, this.list.node, ...sections);
  }

  age() {
    this.list.age();
  }

  draw({ own, operators, users, readers }) {
    const people = { operators: operators.map((key) => ({ key, own })), users, readers };
    for (const { of, may, how, words, rows } of this.kinds) {
      rows.replace(people[of].map((one) => [one.key, one]));
      const { shown, all } = rows.sift();
      const cut = shown < all ? `, the first ${shown} shown` : "";
      put(words, `${many(all, of.slice(0, -1))}${cut}: ${may}. Changed with: ${how}`);
    }
  }
}

function makeRow({ columns, cells }) {
  const [first, ...others] = columns.map(([title, kind], at) =>
    el(at === 0 ? "th" : "td", { scope: at === 0 ? "row" : null, class: title === "Key" ? `key ${kind}` : kind }),
  );
  const set = (one) => cells(one).forEach((text, at) => put([first, ...others][at], text));
  return { node: el("tr", {}, first, ...others), set };
}
