// The volumes: whose disks they are, where, how large, and what was deleted from pools of late. What is nobody's may go,
// and what is in a pool's trash may come back.

import { confirm } from "./asking.js";
import { begin, beginAndTell } from "./chores.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { List } from "./list.js";
import { on, store } from "./store.js";
import { Rows, byName } from "./table.js";
import { bytes, shownOf } from "./words.js";

/** What the commands call volumes of no VM. */
const NOBODYS = "nobody's";

export class Volumes {
  /** `matches(words)` is the filter. */
  constructor(matches) {
    const body = el("tbody");
    const columns = [
      ["VM", ""],
      ["Disk", ""],
      ["Pool", ""],
      ["Size", "number"],
      ["Takes", "number mid"],
      ["Snapshots", "wide"],
      ["Host", "mid"],
      ["State", "wide"],
      ["Actions", "bare"],
    ];
    this.summary = el("p", { class: "summary", role: "status" });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    this.list = new List("volumes", ({ volumes }) => this.draw(volumes));
    this.node = el(
      "section",
      { "aria-label": "Volumes" },
      el("h2", { text: "Volumes" }),
      this.summary,
      this.list.node,
      table("Volumes", columns, body),
      this.more,
    );
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => byName(a.vm, b.vm) || byName(a.entry ?? "", b.entry ?? "") || byName(keyOf(a), keyOf(b)),
      matches: ({ vm, pool, host, state }) => matches([vm, pool, host, state]),
    });
    this.jobs = new Set();
    on("jobs", (ids) => this.follow(ids));
  }

  age() {
    this.list.age();
  }

  /** VMs that come or go have volumes, or had some. */
  follow(ids) {
    for (const id of ids) {
      const isThere = store.jobs.has(id);
      if (isThere === this.jobs.has(id)) continue;
      if (isThere) this.jobs.add(id);
      else this.jobs.delete(id);
      this.list.expire();
    }
  }

  draw(volumes) {
    this.rows.replace(volumes.map((volume) => [keyOf(volume), volume]));
    this.sift();
  }

  sift() {
    const found = this.rows.sift();
    put(this.summary, `${shownOf(found, "volume")}. They come and go with their VMs, and those of a pool are in its trash for a day then.`);
    show(this.more, found.shown < found.matching);
  }
}

const keyOf = ({ vm, pool, disk, host, entry }) => JSON.stringify([vm, pool, disk, host, entry ?? null]);

function makeRow() {
  const name = el("span", { class: "name" });
  const how = el("span", { class: "old narrow" });
  const [disk, pool, size, used, snapshots, host] = ["", "", "number", "number mid", "wide", "mid"].map((kind) => el("td", { class: kind }));
  const state = el("td", { class: "wide" });
  let row = null;
  const remove = button("Delete…", () => removeIt(row), { class: "bad" });
  const restore = button("Take back", () => beginAndTell({ chore: "restore_volumes", pool: row.pool, entry: row.entry }));
  const acts = el("td", { class: "does" }, el("div", { class: "acts" }, restore, remove));
  const node = el("tr", {}, el("th", { scope: "row" }, name, how), disk, pool, size, used, snapshots, host, state, acts);
  const set = (volume) => {
    row = volume;
    const { vm, entry } = volume;
    put(name, vm);
    put(disk, volume.disk);
    put(pool, volume.pool);
    put(size, bytes(volume.bytes));
    put(used, volume.used_bytes === undefined ? "" : bytes(volume.used_bytes));
    put(snapshots, volume.snapshots.join(", "));
    put(host, volume.host);
    for (const one of [state, how]) put(one, entry ? `deleted: ${entry}` : volume.state);
    show(restore, Boolean(entry));
    show(remove, !entry && volume.state === NOBODYS);
    mark(restore, "aria-label", `Take back the volumes ${entry} of ${vm}`);
    mark(remove, "aria-label", `Delete the volumes of ${vm} in ${volume.pool}`);
  };
  return { node, set };
}

function removeIt({ vm, pool }) {
  confirm({
    title: `Delete the volumes of ${vm} in ${pool}?`,
    lines: ["No VM has that name any more. They are kept in the trash of the pool for a day, and can be taken back."],
    yes: "Delete",
    isBad: true,
    act: () => begin({ chore: "delete_volumes", pool, vm }),
  });
}
