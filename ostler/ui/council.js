// Arbiters, who grant what starts, and witnesses beside them: where they are, and how. Read here; they are changed
// with `ostler arbiters` and `ostler witnesses`.

import { el, mark, put, show, table } from "./dom.js";
import { List } from "./list.js";
import { Rows } from "./table.js";
import { place } from "./words.js";

export class Council {
  constructor() {
    const body = el("tbody");
    this.words = el("p", { class: "summary" });
    this.list = new List("arbiters", (list) => this.draw(list));
    const columns = [["Seat", ""], ["State", ""], ["Host", ""], ["Trust", "number mid"], ["Address", "wide"]];
    this.table = table("Arbiters and witnesses", columns, body);
    show(this.table, false);
    this.node = el(
      "section",
      { "aria-label": "Arbiters and witnesses" },
      el("h2", { text: "Arbiters and witnesses" }),
      this.words,
      this.list.node,
      this.table,
    );
    this.rows = new Rows(body, { make: makeRow, order: (a, b) => rank(a) - rank(b) || a.slot - b.slot });
  }

  age() {
    this.list.age();
  }

  draw({ arbiters, k, witnesses, witnesses_k, change }) {
    this.rows.replace([...arbiters, ...witnesses].map((row) => [`${row.seat} ${row.slot} ${row.key}`, row]));
    this.rows.sift();
    show(this.table, true);
    const words = [ofArbiters(arbiters, k)];
    if (witnesses.length > 0) words.push(`Of ${present(witnesses).length} witnesses ${answering(witnesses)} answer, and a VM that may be lost needs ${witnesses_k}.`);
    if (change) words.push(`A change is under way since trust version ${change.since}: ${change.waiting_for.join("; ") || "nothing is waited for"}.`);
    put(this.words, words.join(" "));
  }
}

const rank = ({ seat }) => (seat === "arbiter" ? 0 : 1);
const present = (rows) => rows.filter((row) => row.is_present);
const answering = (rows) => present(rows).filter((row) => row.trouble === null).length;

function ofArbiters(arbiters, k) {
  const [n, answer] = [present(arbiters).length, answering(arbiters)];
  return answer >= k
    ? `A ticket needs ${k} of ${n}; ${answer} answer, so ${answer - k} more may be lost.`
    : `A ticket needs ${k} of ${n} and ${answer} answer: nothing starts until others are back.`;
}

function makeRow() {
  const state = el("span", { class: "state" });
  const why = el("span", { class: "old" });
  const [seat, host, trust, address] = [["th", "seat"], ["td", ""], ["td", "number mid"], ["td", "wide"]].map(([tag, kind]) => el(tag, { class: kind }));
  mark(seat, "scope", "row");
  const node = el("tr", {}, seat, el("td", {}, state, why), host, trust, address);
  const set = (row) => {
    put(seat, `${row.seat} ${row.slot}${row.is_present ? "" : " (is to come)"}`);
    const [word, mood] = row.trouble !== null ? ["silent", "bad"] : row.is_ready ? ["ready", "good"] : ["waits", "busy"];
    put(state, word);
    mark(state, "data-mood", mood);
    put(why, row.trouble ?? row.waiting_for.join(", "));
    put(host, row.host ?? "-");
    put(trust, row.trust_version ?? "-");
    put(address, place(row.url));
  };
  return { node, set };
}
