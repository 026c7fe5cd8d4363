// What the page knows, as the feed told it. Views hear of changes once a frame, by what has changed,
// so that they patch rows and rebuild nothing.

import { byName } from "./table.js";

const listeners = { cluster: [], source: [], hosts: [], jobs: [], runs: [], chores: [], quota: [], beat: [] };
const dirty = { hosts: new Set(), jobs: new Set(), runs: new Set(), chores: new Set() };
const touched = new Set();
let isDue = false;

/** Rows by their id. */
export const store = {
  cluster: { name: null, is_without_controller: false, backups: null },
  source: { kind: "nobody", words: "" },
  hosts: new Map(),
  jobs: new Map(),
  runs: new Map(),
  chores: new Map(),
  quota: [],
  /** How much of a limit can be used with how many arbiters, in words; null: always all. */
  usable: null,
  silent: new Map(),
  beat: { fresh_age_ms: 0, runs_age_ms: null, runs_trouble: null },
  // When the last beat came, by this page's clock.
  beatAt: null,
  isComplete: false,
};

/** Calls `f` with the set of ids that have changed; of `cluster`, `source`, `quota`, `beat` with none. */
export function on(kind, f) {
  listeners[kind].push(f);
}

/** Forgets everything: a new stream tells all of it anew. */
export function begin() {
  store.isComplete = false;
  store.unseen = {
    hosts: new Set(store.hosts.keys()),
    jobs: new Set(store.jobs.keys()),
    runs: new Set(store.runs.keys()),
    chores: new Set(store.chores.keys()),
  };
}

/** Takes news. */
export function take(all) {
  for (const news of all) one(news);
  due();
}

function one(news) {
  switch (news.news) {
    case "cluster":
    case "source":
      store[news.news] = news;
      touched.add(news.news);
      break;
    case "host":
      set("hosts", news.id, news);
      break;
    case "job":
      set("jobs", news.id, news);
      break;
    case "run":
      set("runs", news.id, news);
      break;
    case "chore":
      set("chores", news.id, news);
      break;
    case "chore_gone":
      drop("chores", news.id);
      break;
    case "host_gone":
      drop("hosts", news.id);
      break;
    case "job_gone":
      drop("jobs", news.id);
      break;
    case "quota":
      store.quota = news.rows;
      store.usable = news.usable;
      touched.add("quota");
      break;
    case "beat":
      takeBeat(news);
      break;
    case "complete":
      complete();
      break;
    default:
      // A newer server has more to say; what is known here stays right.
      break;
  }
}

function set(kind, id, row) {
  store[kind].set(id, row);
  store.unseen?.[kind].delete(id);
  dirty[kind].add(id);
}

function drop(kind, id) {
  store[kind].delete(id);
  dirty[kind].add(id);
}

// What was known from the stream before and was not told again is gone. Runs come later.
function complete() {
  for (const kind of ["hosts", "jobs"]) {
    for (const id of store.unseen?.[kind] ?? []) drop(kind, id);
  }
  store.unseen = undefined;
  store.isComplete = true;
  touched.add("beat");
}

function takeBeat(news) {
  const before = store.silent;
  store.silent = new Map(news.silent.map(([id, freshness, age_ms]) => [id, { freshness, age_ms }]));
  store.beat = news;
  store.beatAt = performance.now();
  touched.add("beat");
  const freshness = (silent, id) => silent.get(id)?.freshness ?? "fresh";
  for (const id of new Set([...before.keys(), ...store.silent.keys()])) {
    if (freshness(before, id) !== freshness(store.silent, id)) dirty.hosts.add(id);
  }
}

function due() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(tell);
}

function tell() {
  isDue = false;
  // A host's name and freshness are shown with each of its VMs.
  if (dirty.hosts.size > 0) {
    for (const job of store.jobs.values()) if (dirty.hosts.has(job.host)) dirty.jobs.add(job.id);
  }
  const changed = Object.entries(dirty).map(([kind, ids]) => [kind, new Set(ids)]);
  for (const ids of Object.values(dirty)) ids.clear();
  const plain = new Set(touched);
  touched.clear();
  for (const kind of plain) for (const f of listeners[kind]) f();
  for (const [kind, ids] of changed) {
    if (ids.size > 0) for (const f of listeners[kind]) f(ids);
  }
}

/** How long nothing has come from the feed, in milliseconds. */
export const quiet = () => (store.beatAt === null ? Infinity : performance.now() - store.beatAt);

/** A host heard within this is fresh. */
const FRESH_MS = 5000;

/** How fresh what is known of a host is: `{ freshness, age_ms }`. It goes on ageing while nothing comes. */
export function ageOf(host) {
  const told = store.silent.get(host) ?? { freshness: "fresh", age_ms: store.beat.fresh_age_ms };
  const age_ms = told.age_ms + (Number.isFinite(quiet()) ? quiet() : 0);
  const isOld = told.freshness === "fresh" && age_ms > FRESH_MS + 1000;
  return { freshness: isOld ? "stale" : told.freshness, age_ms };
}

/** A host's name, or the beginning of its id. */
export const nameOf = (host) => store.hosts.get(host)?.name ?? host.slice(0, 10);

/** A host as a command takes it: by its name where no other is called that, else by its id. */
export function wordFor(host) {
  const name = nameOf(host);
  const isOnly = [...store.hosts.values()].filter((one) => one.name === name).length === 1;
  return isOnly && /^[\w.-]+$/.test(name) ? name : host;
}

/** The hosts in the order of their names. */
export const hostsByName = () => [...store.hosts.values()].sort((a, b) => byName(a.name, b.name));

/** What to call a job's state: a host that is not heard says nothing of its guests. */
export function stateOf(job) {
  const { freshness } = ageOf(job.host);
  return freshness === "lost" ? "lost" : job.state;
}

/** Jobs that are VMs. */
export const isVm = (job) => job.kind !== "service" && job.kind !== "budget";
