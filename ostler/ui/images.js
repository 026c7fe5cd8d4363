// Images on the hosts: which is where, which VMs need it, bringing one, and taking one away.

import { choice, confirm, field, wordField } from "./asking.js";
import { begin } from "./chores.js";
import { button, el, mark, put, show, table } from "./dom.js";
import { Filter } from "./filter.js";
import { List } from "./list.js";
import { hostsField } from "./pools.js";
import { hostsByName, store, wordFor } from "./store.js";
import { Rows, byName } from "./table.js";
import { bytes, firsts, shownOf } from "./words.js";

/** Characters of a digest that are shown: as many as the command shows. */
const DIGEST_SHOWN = 12;

export class Images {
  constructor() {
    const body = el("tbody");
    const columns = [
      ["Image", ""],
      ["Disk", "number mid"],
      ["File", "number wide"],
      ["Hosts", "mid"],
      ["Needed by", ""],
      ["Actions", "bare"],
    ];
    const filter = new Filter("images-text", "name, host, VM…", () => this.sift());
    this.summary = el("p", { class: "summary", role: "status" });
    this.coming = el("ul", { class: "lines" });
    this.more = button("Show more", () => (this.rows.more(), this.sift()));
    this.more.hidden = true;
    this.list = new List("images", (list) => this.draw(list));
    this.node = el(
      "section",
      { "aria-label": "Images" },
      el(
        "div",
        { class: "tools" },
        ...filter.nodes,
        button("Prune…", prune),
        button("Bring one…", bring, { class: "main" }),
      ),
      this.summary,
      this.list.node,
      this.coming,
      table("Images", columns, body),
      this.more,
    );
    this.rows = new Rows(body, {
      make: makeRow,
      order: (a, b) => byName(a.name, b.name) || byName(a.sha256, b.sha256),
      matches: ({ name, hosts, users }) => filter.matches([name, ...hosts, ...users.map(({ job }) => job)]),
    });
  }

  age() {
    this.list.age();
  }

  draw({ images, coming }) {
    this.rows.replace(images.map((image) => [`${image.name} ${image.sha256}`, image]));
    this.coming.replaceChildren(...coming.map(comingOn));
    this.sift();
  }

  sift() {
    const found = this.rows.sift();
    put(this.summary, shownOf(found, "image"));
    show(this.more, found.shown < found.matching);
  }
}

/** One that is on its way to a host, or did not come. */
function comingOn({ name, host, words }) {
  const stop = button("Call off…", () => callOff(name), { class: "quiet", "aria-label": `Call off ${name}` });
  return el("li", {}, `${name} on ${host}: ${words}`, stop);
}

function callOff(name) {
  confirm({
    title: `Call off image ${name}?`,
    lines: ["Hosts fetch it no further, and delete what has come. Where it is already, it is deleted as well."],
    yes: "Call it off",
    isBad: true,
    act: () => begin({ chore: "delete_image", name }),
  });
}

function makeRow() {
  const name = el("span", { class: "name" });
  const digest = el("span", { class: "old" });
  const [disk, file, hosts, users] = ["number mid", "number wide", "mid", ""].map((kind) => el("td", { class: kind }));
  let row = null;
  const copy = button("Copy…", () => copyIt(row));
  const remove = button("Delete…", () => removeIt(row), { class: "bad" });
  const node = el(
    "tr",
    {},
    el("th", { scope: "row" }, name, digest),
    disk,
    file,
    hosts,
    users,
    el("td", { class: "does" }, el("div", { class: "acts" }, copy, remove)),
  );
  const set = (image) => {
    row = image;
    put(name, image.name);
    put(digest, `${image.format ?? "unknown"}, ${image.sha256.slice(0, DIGEST_SHOWN)}`);
    mark(digest, "title", image.sha256);
    put(disk, bytes(image.virtual_bytes));
    put(file, bytes(image.file_bytes));
    const isEverywhere = image.hosts.length === store.hosts.size;
    put(hosts, isEverywhere && store.hosts.size > 2 ? `all ${image.hosts.length}` : firsts(image.hosts));
    put(users, firsts(image.users.map(({ job }) => job)));
    show(copy, !isEverywhere);
    mark(copy, "aria-label", `Copy ${image.name} to other hosts`);
    mark(remove, "aria-label", `Delete ${image.name}`);
  };
  return { node, set };
}

function copyIt({ name, hosts }) {
  const others = hostsByName().filter((host) => !hosts.includes(host.name));
  const to = others.map(({ id, name: host }) => [wordFor(id), host]);
  confirm({
    title: `Copy image ${name}`,
    lines: [`Hosts fetch it from ${firsts(hosts)}.`],
    body: field("To", choice("on", [["", "every host that has it not"], ...to])),
    yes: "Copy it",
    act: (form) => begin({ chore: "copy_image", name, on: form.get("on") }),
  });
}

function removeIt({ name, hosts, file_bytes }) {
  confirm({
    title: `Delete image ${name}?`,
    lines: [
      `Its file (${bytes(file_bytes)}) will be gone from ${firsts(hosts)}. While a VM needs it anywhere, nothing is deleted.`,
    ],
    typed: name,
    yes: "Delete",
    isBad: true,
    act: () => begin({ chore: "delete_image", name }),
  });
}

function prune() {
  confirm({
    title: "Prune images?",
    lines: [
      "Those go that cloning, restoring and backing up have made, that are a day old and that no VM needs any more. What a person has named stays.",
    ],
    yes: "Prune",
    isBad: true,
    act: () => begin({ chore: "prune_images" }),
  });
}

function bring() {
  const body = el(
    "div",
    { class: "fields" },
    field("URL", el("input", { name: "url", type: "url", required: true }), "hosts fetch it from there themselves"),
    field("Name", wordField("name", { required: true })),
    field("SHA-256", wordField("sha256"), "may be empty where the address begins with https"),
    hostsField("empty: to all"),
  );
  confirm({
    title: "Bring an image to hosts",
    lines: ["A qcow2 or raw disk image from the web. One that is a file here is brought with: ostler images import FILE --name NAME"],
    body,
    yes: "Bring it",
    act: (form) => {
      const said = Object.fromEntries(["url", "name", "sha256", "on"].map((one) => [one, form.get(one)]));
      return begin({ chore: "import_image", ...said });
    },
  });
}
