// Who is plugged into networks: the cards of VMs, running or not, with the addresses that they are known to have.

import { button, el, mark, put, show, table } from "./dom.js";
import { isVm, nameOf, on, store } from "./store.js";
import { Rows, byName } from "./table.js";
import { shownOf } from "./words.js";

export class Plugs {
  /** `matches(words)` is the filter. */
  constructor(matches) {
    const body = el("tbody");
    const columns = [["VM", ""], ["Network", ""], ["Host", "mid"], ["On the wire", "mid key"], ["Addresses", ""]];
    this.summary = el("p", { class: "summary", role: "status" });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    this.node = el(
      "section",
      { "aria-label": "Who is plugged in" },
      el("h2", { text: "Who is plugged in" }),
      this.summary,
      table("Who is plugged in", columns, body),
      this.more,
    );
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => byName(a.job.id, b.job.id) || a.at - b.at,
      matches: ({ job, nic }) => matches([job.id, nic.network, nameOf(job.host), nic.mac, nic.addresses ?? ""]),
    });
    // How many cards each VM had.
    this.had = new Map();
    on("jobs", (ids) => this.patch(ids));
  }

  age() {
    for (const entry of this.rows.seen()) entry.age();
  }

  patch(ids) {
    for (const id of ids) {
      const job = store.jobs.get(id);
      const nics = job && isVm(job) ? job.nics : [];
      const last = Math.max(nics.length, this.had.get(id) ?? 0);
      for (let at = 0; at < last; at += 1) {
        const nic = nics[at];
        this.rows.set(`${id} ${at}`, nic?.network ? { job, nic, at } : undefined);
      }
      if (nics.length > 0) this.had.set(id, nics.length);
      else this.had.delete(id);
    }
  }

  sift() {
    const found = this.rows.sift();
    put(this.summary, shownOf(found, "card"));
    show(this.more, found.shown < found.matching);
  }
}

function makeRow() {
  const link = el("a");
  const [network, host, mac, addresses] = ["", "mid", "mid key", ""].map((kind) => el("td", { class: kind }));
  const node = el("tr", {}, el("th", { scope: "row" }, link), network, host, mac, addresses);
  let row = null;
  const ages = () => put(host, nameOf(row.job.host));
  const set = (next) => {
    row = next;
    const { job, nic } = next;
    ages();
    put(link, job.id);
    mark(link, "href", `#vms/${encodeURIComponent(job.id)}`);
    put(network, nic.network);
    put(mac, nic.mac);
    put(addresses, nic.addresses ?? (job.is_ended ? "not running" : "not known yet"));
  };
  return { node, set, age: ages };
}
