// What each tenant may have, and what it has. Limits are set with `ostler quota set`. Below, what its VMs may be like.

import { Bar, el, put, table } from "./dom.js";
import { Policy } from "./policy.js";
import { on, store } from "./store.js";
import { Rows, byName } from "./table.js";
import { bytes, count } from "./words.js";

/** What stands in a limit that leaves an amount free. */
const UNLIMITED = { vcpus: 2 ** 32 - 1, bytes: 2 ** 64 };

export class Quota {
  constructor() {
    const body = el("tbody");
    const columns = [["Tenant", ""], ["VMs", "number"], ["vCPUs", ""], ["Memory", ""], ["Disk", "mid"]];
    this.hint = el("p", { class: "summary" });
    this.policy = new Policy();
    this.node = el("section", { "aria-label": "Quota" }, this.hint, table("Quota", columns, body), this.policy.node);
    this.rows = new Rows(body, { make: makeRow, order: (a, b) => byName(a.tenant, b.tenant) });
    on("quota", () => this.patch());
    on("cluster", () => this.patch());
    this.patch();
  }

  /** Sums are of what grows old elsewhere. */
  age() {
    this.policy.age();
  }

  patch() {
    const tenants = new Set(store.quota.map((row) => row.tenant));
    for (const known of [...this.rows.rows.keys()]) if (!tenants.has(known)) this.rows.set(known, undefined);
    for (const row of store.quota) this.rows.set(row.tenant, row);
    this.rows.sift();
    const none = "Without a trust document there are no tenants' limits.";
    const how = "Limits are set with: ostler quota set TENANT --vms N --vcpus N --memory SIZE --disk SIZE";
    const hint = store.usable === null ? how : `${how}. Each arbiter books its part of a VM: ${store.usable}.`;
    put(this.hint, store.cluster.name === null ? none : hint);
  }
}

function makeRow(tenant) {
  const vms = el("td", { class: "number" });
  const bars = ["vCPUs", "Memory", "Disk"].map((label) => new Bar(`${label} of ${tenant}`));
  const node = el(
    "tr",
    {},
    el("th", { scope: "row", text: tenant }),
    vms,
    el("td", {}, bars[0].node),
    el("td", {}, bars[1].node),
    el("td", { class: "mid" }, bars[2].node),
  );
  const set = ({ used, limit, vms: running }) => {
    // A limit that says nothing of VMs has no number of them.
    put(vms, limit?.vms === undefined ? running : `${running} of ${limit.vms}`);
    const of = (amount, most) => (limit === null || amount >= most ? null : amount);
    bars[0].set(used.vcpus, of(limit?.vcpus, UNLIMITED.vcpus), count);
    bars[1].set(used.memory_bytes, of(limit?.memory_bytes, UNLIMITED.bytes), bytes);
    bars[2].set(used.disk_bytes, of(limit?.disk_bytes, UNLIMITED.bytes), bytes);
  };
  return { node, set };
}
