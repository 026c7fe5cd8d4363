// Whether hosts have power, by the devices outside of them. Read here; they are switched with `ostler power`.

import { el, mark, put, show, table } from "./dom.js";
import { List } from "./list.js";
import { nameOf } from "./store.js";
import { Rows, byName } from "./table.js";
import { many, word } from "./words.js";

/** After how long devices are asked again: some take seconds for an answer, and few answer two at a time. */
const REST_MS = 60000;

export class Power {
  constructor() {
    const body = el("tbody");
    this.words = el("p", { class: "summary" });
    this.list = new List("power", (list) => this.draw(list), { rest_ms: REST_MS });
    this.table = table("Power", [["Host", ""], ["Power", ""], ["Devices", "mid"]], body);
    show(this.table, false);
    this.node = el("section", { "aria-label": "Power" }, el("h2", { text: "Power" }), this.words, this.list.node, this.table);
    this.rows = new Rows(body, { make: makeRow, order: (a, b) => byName(nameOf(a.host), nameOf(b.host)) || byName(a.host, b.host) });
  }

  age() {
    this.list.age();
  }

  draw({ hosts, unknown }) {
    this.rows.replace(hosts.map((power) => [power.host, power]));
    this.rows.sift();
    show(this.table, hosts.length > 0);
    const none = "No controller can switch a host: none has a power file, /etc/ostler/power.json on the controller's host.";
    const some = `${many(hosts.length, "host")} can be switched, with: ostler power HOST on, off, cycle or sleep.`;
    const strange = unknown.length > 0 ? ` A power file names ${unknown.join(", ")}: no host or several are called that.` : "";
    put(this.words, `${hosts.length > 0 ? some : none}${strange}`);
  }
}

function makeRow() {
  const name = el("th", { scope: "row" });
  const state = el("span", { class: "state" });
  const why = el("span", { class: "old" });
  const devices = el("td", { class: "mid" });
  const set = (power) => {
    put(name, nameOf(power.host));
    put(state, power.state ? word(power.state) : "not known");
    mark(state, "data-mood", { on: "good", off: "still" }[power.state] ?? "warn");
    put(why, power.problem ?? "");
    put(devices, power.devices.join(", "));
  };
  return { node: el("tr", {}, name, el("td", {}, state, why), devices), set };
}
