// Where disks are: the pools of the hosts, and the volumes in them.

import { button, el } from "./dom.js";
import { Pools, addPool } from "./pools.js";
import { Volumes } from "./volumes.js";

export class Storage {
  constructor() {
    this.text = el("input", {
      type: "search",
      id: "storage-text",
      placeholder: "pool, host, VM…",
      on: { input: () => this.sift() },
    });
    const matches = (words) => {
      const text = this.text.value.trim().toLowerCase();
      return text === "" || words.some((one) => one.toLowerCase().includes(text));
    };
    this.pools = new Pools(matches);
    this.volumes = new Volumes(matches);
    this.node = el(
      "section",
      { "aria-label": "Storage" },
      el(
        "div",
        { class: "tools" },
        el("label", { for: "storage-text", class: "unseen", text: "Filter by text" }),
        this.text,
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
