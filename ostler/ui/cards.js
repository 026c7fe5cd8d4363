// The network cards of one VM: what each is plugged into and known by; another one, one less.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { store } from "./store.js";
import { Rows, byName } from "./table.js";

export class Cards {
  constructor() {
    const body = el("tbody");
    this.table = table("Network cards", [["Card", ""], ["Addresses", ""], ["Actions", "bare"]], body);
    this.rows = new Rows(body, { make: () => makeRow(this), order: (a, b) => a.at - b.at || byName(a.mac, b.mac) });
    this.none = el("p", { class: "hint", text: "It has no network card." });
    this.add = button("Attach a card…", () => attach(this.job));
    this.node = el("section", {}, el("h3", { text: "Network cards" }), this.add, this.table, this.none);
  }

  /** Those of this row; `isOurs` when they are Ostler's to change. */
  draw(job, isOurs) {
    this.job = job;
    this.rows.replace(job.nics.map((nic, at) => [nic.mac, { at, isOurs, isEnded: job.is_ended, ...nic }]));
    this.rows.sift();
    show(this.node, isOurs || job.nics.length > 0);
    show(this.add, isOurs);
    show(this.none, job.nics.length === 0);
    show(this.table, job.nics.length > 0);
  }
}

/** A plug for people: `network blue`. */
const plugWords = (plug) => plug.replace("=", " ");

function makeRow(cards) {
  const mac = el("span", { class: "key" });
  const plug = el("span", { class: "old" });
  const addresses = el("td");
  let row = null;
  const gone = button("Detach…", () => detach(cards.job.id, row), { class: "bad" });
  const node = el("tr", {}, el("th", { scope: "row" }, mac, plug), addresses, el("td", { class: "does" }, gone));
  const set = (nic) => {
    row = nic;
    put(mac, nic.mac);
    put(plug, `on ${plugWords(nic.plug)}`);
    put(addresses, nic.addresses ?? (nic.isEnded ? "not running" : "not known yet"));
    show(gone, nic.isOurs);
    mark(gone, "aria-label", `Detach card ${nic.mac}`);
  };
  return { node, set };
}

/** What a card may be plugged into: networks of these hosts; a bridge is typed. */
export function plugs(hosts) {
  const networks = new Set(hosts.flatMap((host) => Object.keys(host.networks ?? {})));
  const named = [...networks].sort(byName).map((name) => [`network=${name}`, `network ${name}`]);
  return [...named, ["user", "out through its host alone, and nothing in"]];
}

function attach({ id: job, host }) {
  const hosts = [store.hosts.get(host)].filter(Boolean);
  const plug = choice("plug", [...plugs(hosts), ["bridge", "a bridge of its host"]]);
  const bridge = field("Bridge", wordField("bridge"), "such as br0");
  const turn = () => show(bridge, plug.value === "bridge");
  plug.addEventListener("change", turn);
  turn();
  const models = [["", "virtio, the fastest"], ["e1000e", "e1000e, for every system"], ["rtl8139", "rtl8139, for old ones"]];
  const body = el(
    "div",
    { class: "fields" },
    field("Plugged into", plug),
    bridge,
    field("What the guest sees", choice("model", models)),
    field("Address on the wire", wordField("mac"), "empty: one by chance"),
  );
  confirm({
    title: `Attach a network card to ${job}`,
    lines: ["A guest that runs has it at once, if its machine has a place for it; else from its next start on."],
    body,
    yes: "Attach it",
    act: (form) => {
      const what = plug.value === "bridge" ? `bridge=${form.get("bridge").trim()}` : plug.value;
      return begin({ chore: "attach_card", job, plug: what, model: form.get("model"), mac: form.get("mac") });
    },
  });
}

function detach(job, { mac, plug }) {
  confirm({
    title: `Detach card ${mac} of ${job}?`,
    lines: [`It is plugged into ${plugWords(plug)}. It is gone once its guest lets go of it, at the latest from its next start on.`],
    yes: "Detach",
    isBad: true,
    act: () => begin({ chore: "detach_card", job, mac }),
  });
}
