// How busy guests keep the CPUs of the hosts, as two looks of `ostler top` tell.

import { show } from "./dom.js";
import { List } from "./list.js";

/** After how long it is measured again: each time all hosts are asked twice. */
const REST_MS = 30000;

export class Load {
  /** `told()` is called when there is something new. */
  constructor(told) {
    this.hosts = new Map();
    this.list = new List("top", ({ hosts }) => {
      this.hosts = new Map(hosts.map((host) => [host.id, host]));
      told();
    }, { rest_ms: REST_MS });
    // A table with all else in it is not kept waiting for, and does not move when this has come.
    show(this.list.words, false);
  }

  age() {
    this.list.age();
  }

  /** `{ busy, cpus }` of a host; nothing, where it is not known. */
  of(id) {
    const known = this.hosts.get(id);
    return known === undefined ? null : { busy: known.busy_cpus, cpus: known.cpus ?? null };
  }
}
