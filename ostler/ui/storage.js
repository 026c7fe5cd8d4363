// Where disks are: the pools of the hosts, and the volumes in them.

import { button, el } from "./dom.js";
import { Filter } from "./filter.js";
import { Pools, addPool } from "./pools.js";
import { Volumes } from "./volumes.js";

export class Storage {
  constructor() {
    const filter = new Filter("storage-text", "pool, host, VM…", () => this.sift());
    const matches = (words) => filter.matches(words);
    this.pools = new Pools(matches);
    this.volumes = new Volumes(matches);
    this.node = el(
      "section",
      { "aria-label": "Storage" },
      el(
        "div",
        { class: "tools" },
        ...filter.nodes,
        button("Add a pool…", addPool, { class: "main" }),
      ),
      this.pools.node,
      this.volumes.node,
    );
  }

  age() {
    this.pools.age();
    this.volumes.age();
  }

  sift() {
    this.pools.sift();
    this.volumes.sift();
  }
}
