// How things are called: sizes, ages, moments, states. As the commands call them.

/** Bytes with the largest unit that leaves no long fraction. */
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  const digits = n < 10 && n % 1 !== 0 ? 1 : 0;
  return `${n.toFixed(digits)} ${units[at]}`;
}

/** Bytes as a command takes them, without losing one. */
export function sizeOf(n) {
  const units = ["", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n !== 0 && n % 1024 === 0 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${n}${units[at]}`;
}

/** A count. */
export const count = (n) => String(n);

/** How many there are of something: `1 VM`, `2 VMs`. */
export const many = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

/** How many of a list match what is looked for, and how many of these are shown: what `Rows.sift` says. */
export function shownOf({ shown, matching, all }, one) {
  const words = matching === all ? many(all, one) : `${matching} of ${many(all, one)}`;
  return shown < matching ? `${words}, the first ${shown} shown` : words;
}

/** Names that are told of a long list. */
const TOLD_MAX = 8;

/** The first of a list, and how many more there are. */
export const firsts = (all) =>
  all.length > TOLD_MAX ? `${all.slice(0, TOLD_MAX).join(", ")} and ${all.length - TOLD_MAX} more` : all.join(", ");

/** An age: `3 s`, `12 min`, `5 h`, `2 d`. */
export function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** How long ago a moment of some wall clock was. */
export const since = (ms) => age(Date.now() - ms);

/** A moment, in the person's own time zone. */
export function moment(ms) {
  const at = new Date(ms);
  const pad = (n) => String(n).padStart(2, "0");
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `${day} ${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

/** A state's word for people. */
export const word = (state) => state.replaceAll("_", " ");

/** What a state means to the eye: good, busy, still, bad. */
export function mood(state) {
  switch (state) {
    case "running":
    case "succeeded":
    case "fresh":
      return "good";
    case "failed":
    case "crashed":
    case "stuck":
    case "refused":
    case "lost":
      return "bad";
    case "stopped":
    case "rolled_back":
    case "interrupted":
    case "asleep":
      return "still";
    case "paused":
    case "stale":
      return "warn";
    default:
      return "busy";
  }
}

/** Where a url leads, without its scheme. */
export const place = (url) => url.replace(/^[a-z]+:\/\//, "");
