// The page: which view is shown, how the feed is, and what needs a person.

import { Backups } from "./backups.js";
import { Chores, openChores } from "./chores.js";
import { el, mark, put, show } from "./dom.js";
import { follow, isLive } from "./feed.js";
import { Hosts } from "./hosts.js";
import { Images } from "./images.js";
import { Networks } from "./networks.js";
import { Others } from "./others.js";
import { Pane } from "./pane.js";
import { People } from "./people.js";
import { troubledPools } from "./pools.js";
import { Quota } from "./quota.js";
import { Runs, stuckRuns } from "./runs.js";
import { Storage } from "./storage.js";
import { ageOf, isVm, on, quiet, store } from "./store.js";
import { Vms } from "./vms.js";
import { age, place } from "./words.js";

const at = (id) => document.getElementById(id);

const views = {
  vms: new Vms(),
  hosts: new Hosts(),
  storage: new Storage(),
  networks: new Networks(),
  images: new Images(),
  backups: new Backups(),
  runs: new Runs(),
  commands: new Chores(),
  quota: new Quota(),
  people: new People(),
  others: new Others(),
};
const pane = new Pane(at("pane"), at("said"));

/** Titles, and what stands beside each: a count, and whether it needs a person. */
const TABS = [
  ["vms", "VMs", () => [[...store.jobs.values()].filter(isVm).length, false]],
  ["hosts", "Hosts", () => hostsBadge()],
  ["storage", "Storage", () => poolsBadge()],
  ["networks", "Networks", () => ["", false]],
  ["images", "Images", () => ["", false]],
  ["backups", "Backups", () => ["", false]],
  ["runs", "Runs", () => (stuckRuns() > 0 ? [`${stuckRuns()} stuck`, true] : [openRuns() || "", false])],
  ["commands", "Commands", () => [openChores() || "", false]],
  ["quota", "Quota", () => ["", false]],
  ["people", "People", () => ["", false]],
  ["others", "Others", () => [views.others.size || "", false]],
];

const links = TABS.map(([name, title, badge]) => {
  const words = el("span", { class: "count" });
  const link = el("a", { href: `#${name}` }, title, words);
  at("tabs").append(el("li", {}, link));
  return { name, link, words, badge };
});

function hostsBadge() {
  const lost = [...store.hosts.keys()].filter((id) => ageOf(id).freshness === "lost").length;
  return lost > 0 ? [`${lost} lost`, true] : [store.hosts.size, false];
}

function poolsBadge() {
  const troubled = troubledPools();
  return troubled > 0 ? [`${troubled} to look at`, true] : ["", false];
}

const openRuns = () => [...store.runs.values()].filter((run) => !run.is_ended).length;

function drawTabs() {
  for (const { words, badge } of links) {
    const [text, isBad] = badge();
    put(words, text);
    mark(words, "data-mood", isBad ? "bad" : null);
  }
}

let shown = views.vms;

/** The address says what is shown: `#vms`, `#vms/web-1`, `#runs/ID`, `#commands/ID`. */
function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = Object.hasOwn(views, name) ? name : "vms";
  const id = rest.length > 0 ? decodeURIComponent(rest.join("/")) : null;
  shown = views[view];
  if (at("main").firstElementChild !== shown.node) at("main").replaceChildren(shown.node);
  shown.age();
  for (const link of links) mark(link.link, "aria-current", link.name === view ? "page" : null);
  // Not all of them are seen on a narrow screen.
  links.find((link) => link.name === view).link.scrollIntoView({ block: "nearest", inline: "nearest" });
  const vm = view === "vms" ? id : null;
  pane.open(vm);
  views.vms.select(vm);
  if (id !== null) shown.open?.(id);
  const title = links.find((link) => link.name === view).link.firstChild.textContent;
  document.title = `${vm ?? title} · Ostler${store.cluster.name ? ` · ${store.cluster.name}` : ""}`;
}

/** Younger than this is what everybody takes for now: monitors tell ages every 2 s. */
const OLD_MS = 5000;

function drawFeed() {
  const { kind, words } = store.source;
  const silence = Number.isFinite(quiet()) ? age(quiet()) : "some time";
  const beat = store.beat.fresh_age_ms + (Number.isFinite(quiet()) ? quiet() : 0);
  let [text, banner, isBad] = ["", "", false];
  if (!isLive()) {
    const wasLive = store.beatAt !== null;
    text = wasLive ? "cut" : "connecting…";
    banner = wasLive ? "The feed is cut: nothing comes from `ostler ui` any more." : "";
    isBad = true;
  } else if (kind === "monitor") {
    text = `live, from monitor ${place(words)}${beat > OLD_MS ? `, ${age(beat)} old` : ""}`;
  } else if (kind === "agents") {
    text = `live, straight from the agents`;
    // Where there is no monitor, nobody misses one.
    banner = store.cluster.is_without_controller ? "" : `No monitor is followed (${words}). The agents themselves are.`;
  } else {
    text = "nobody is followed";
    banner = `The feed is cut: nobody tells what happens${words ? ` (${words})` : ""}. Each row tells how old it is.`;
    isBad = true;
  }
  put(at("feed"), text);
  mark(at("feed"), "data-kind", isLive() ? kind : "cut");
  put(at("banner-words"), banner);
  put(at("banner-age"), isBad && quiet() > OLD_MS ? `What is shown is ${silence} old.` : "");
  mark(at("banner"), "data-mood", isBad ? "bad" : "warn");
  show(at("banner"), banner !== "");
  mark(document.body, "data-is-cut", isBad ? "true" : null);
}

on("cluster", () => {
  put(at("cluster"), store.cluster.name ?? "");
  route();
});
on("source", drawFeed);
on("beat", () => (drawTabs(), drawFeed()));
on("hosts", drawTabs);
on("jobs", drawTabs);
on("chores", drawTabs);
on("runs", () => (drawTabs(), routeToRun()));

// A run that was just asked for is opened as soon as it is heard of.
function routeToRun() {
  const [name, id] = location.hash.slice(1).split("/");
  if (name === "runs" && id && id !== routeToRun.opened && store.runs.has(id)) {
    routeToRun.opened = id;
    views.runs.open(id);
  }
}

at("skip").addEventListener("click", () => at("main").focus());
addEventListener("hashchange", route);
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, select, textarea, dialog");
  if (event.key === "Escape" && !isTyping && pane.id !== null) location.hash = "#vms";
  if (event.key === "/" && !isTyping) {
    location.hash = "#vms";
    views.vms.text.focus();
    event.preventDefault();
  }
});
setInterval(() => (drawFeed(), shown.age()), 1000);
route();
follow(drawFeed);
