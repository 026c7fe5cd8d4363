// What is asked of whoever has a network made: its kind, and what tells it from others of its kind.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { el, put, show } from "./dom.js";
import { hostsField } from "./pools.js";

/** The kinds with what tells one from others of its kind: `[kind, words, field, label, hint]`. */
const KINDS = [
  ["nat", "out through the host, which gives addresses", "subnet", "Subnet", "such as 10.20.0.0/24"],
  ["isolated", "guests of one host among themselves", "subnet", "Subnet", "empty: the host has no address there"],
  ["bridge", "a bridge that hosts have already", "bridge", "Bridge", "such as br0"],
  ["vlan", "a VLAN of an interface of the hosts", "tag", "Tag", "1 to 4094"],
  ["overlay", "one Ethernet over all hosts that have it", "vni", "Number", "of VXLAN, such as 42; hosts that have it already stay in it"],
];

/** Kinds in which hosts may give addresses to guests. */
const GIVES = ["nat", "isolated"];

export function makeNetwork() {
  const kind = choice("kind", KINDS.map(([value, words]) => [value, `${value}: ${words}`]));
  const what = field("Subnet", wordField("what"), "such as 10.20.0.0/24");
  const uplink = field("Interface", wordField("uplink"), "that carries the VLAN, such as eth1");
  const dhcp = field("Guests have addresses", choice("dhcp", [["yes", "from their host"], ["", "from elsewhere"]]));
  const turn = () => {
    const [, , , label, hint] = KINDS.find(([value]) => value === kind.value);
    put(what.querySelector("label"), label);
    put(what.querySelector(".hint"), hint);
    show(uplink, kind.value === "vlan");
    show(dhcp, GIVES.includes(kind.value));
  };
  kind.addEventListener("change", turn);
  turn();
  const kinds = field("Kind", kind);
  kinds.classList.add("broad");
  const body = el(
    "div",
    { class: "fields" },
    field("Name", wordField("name", { required: true, maxlength: "12" }), "a–z, 0–9 and -, at most 12"),
    kinds,
    what,
    uplink,
    dhcp,
    hostsField("empty: on all"),
  );
  confirm({
    title: "Make a network",
    lines: ["Hosts keep it from then on. One of that name that was made here is changed to this."],
    body,
    yes: "Make it",
    act: (form) =>
      begin({
        chore: "create_network",
        name: form.get("name"),
        kind: kind.value,
        what: form.get("what"),
        uplink: kind.value === "vlan" ? form.get("uplink") : null,
        no_dhcp: GIVES.includes(kind.value) && form.get("dhcp") === "",
        on: form.get("on"),
      }),
  });
}
