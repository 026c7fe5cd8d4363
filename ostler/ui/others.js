// Domains on the hosts that are nobody's job: shown, counted, not touched, and adopted on request.

import { ask, confirm, field } from "./asking.js";
import { button, el, mark, put, table } from "./dom.js";
import { ageOf, nameOf, on, store } from "./store.js";
import { Rows, byName } from "./table.js";
import { age, bytes, many } from "./words.js";

export class Others {
  constructor() {
    const body = el("tbody");
    const columns = [["Domain", ""], ["State", ""], ["Host", ""], ["vCPUs", "number mid"], ["Memory", "number mid"], ["Actions", "bare"]];
    this.summary = el("p", { class: "summary", role: "status" });
    this.node = el("section", { "aria-label": "Domains of others" }, this.summary, table("Domains of others", columns, body));
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => byName(a.domain.name, b.domain.name) || byName(a.key, b.key),
    });
    on("hosts", (ids) => this.patch(ids));
    this.patch(new Set());
  }

  get size() {
    return this.rows.sorted.length;
  }

  /** What grows old by itself. */
  age() {
    for (const entry of this.rows.seen()) entry.age();
  }

  patch(ids) {
    const now = new Map();
    for (const id of ids) {
      for (const domain of store.hosts.get(id)?.observed ?? []) {
        const key = `${id} ${domain.uuid}`;
        now.set(key, { key, host: id, domain });
      }
    }
    for (const [key, { row }] of [...this.rows.rows]) {
      if (ids.has(row.host) && !now.has(key)) this.rows.set(key, undefined);
    }
    for (const [key, row] of now) this.rows.set(key, row);
    this.rows.sift();
    const none = "Every domain on the hosts is a job of Ostler's.";
    const some = `${many(this.size, "domain")} that Ostler did not make: counted, and left alone until adopted. An adopted one is released in its own pane.`;
    put(this.summary, this.size === 0 ? none : some);
  }
}

function makeRow() {
  const name = el("th", { scope: "row" });
  const state = el("span", { class: "state" });
  const old = el("span", { class: "old" });
  const [host, vcpus, memory] = ["", "number mid", "number mid"].map((kind) => el("td", { class: kind }));
  let row = null;
  const take = button("Adopt…", () => adopt(row));
  const node = el("tr", {}, name, el("td", {}, state, old), host, vcpus, memory, el("td", { class: "does" }, take));
  const ages = () => {
    const { freshness, age_ms } = ageOf(row.host);
    put(old, freshness === "fresh" ? "" : `as of ${age(age_ms)} ago`);
  };
  const set = (next) => {
    row = next;
    ages();
    const { domain } = next;
    put(name, domain.name);
    put(state, domain.is_active ? "runs" : "off");
    mark(state, "data-mood", domain.is_active ? "good" : "still");
    put(host, nameOf(next.host));
    put(vcpus, domain.resources.vcpus);
    put(memory, bytes(domain.resources.memory_bytes));
    mark(take, "aria-label", `Adopt ${domain.name}`);
    take.disabled = !domain.is_active;
    mark(take, "title", domain.is_active ? null : "only a running domain is adopted: start it first");
  };
  return { node, set, age: ages };
}

function adopt({ host, domain }) {
  const word = { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  const body = el(
    "div",
    { class: "fields" },
    field("Name", el("input", { ...word, name: "name", placeholder: domain.name }), "empty: as the domain is called"),
    field("Tenant", el("input", { ...word, name: "tenant", value: "default" })),
  );
  confirm({
    title: `Adopt ${domain.name}?`,
    lines: [`It becomes a VM of Ostler's on ${nameOf(host)}, in place and without a restart. It can be released again as it was.`],
    body,
    yes: "Adopt",
    act: (form) => {
      const text = (name) => form.get(name).trim() || null;
      return ask({ ask: "adopt", host, domain: domain.uuid, name: text("name"), tenant: text("tenant") });
    },
  });
}
