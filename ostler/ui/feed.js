// The stream from `ostler ui`: opened again whenever it ends, and called cut when no beat comes.

import { begin, quiet, take } from "./store.js";

/** A beat comes every second; after this much silence the feed is cut, whatever the socket says. */
export const CUT_MS = 4000;

/** First and longest rest before it is opened again, in milliseconds. */
const RETRY = [250, 4000];

let rest = RETRY[0];
let opened = null;

/** Where a stream of the page's server is. */
export function streamUrl(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = "ws:";
  return url;
}

/** Follows for as long as the page is there. `told` is called after each message, and when it ends. */
export function follow(told) {
  const socket = new WebSocket(streamUrl("feed"));
  opened = socket;
  begin();
  let isOver = false;
  const over = () => {
    if (isOver) return;
    isOver = true;
    clearInterval(watch);
    told();
    setTimeout(() => follow(told), rest);
    rest = Math.min(rest * 2, RETRY[1]);
  };
  socket.addEventListener("message", (event) => {
    if (isOver) return;
    rest = RETRY[0];
    take(JSON.parse(event.data));
    told();
  });
  socket.addEventListener("close", over);
  const openedAt = performance.now();
  // A server that has gone without a word leaves the socket open for long.
  const watch = setInterval(() => {
    const isSilent = Math.min(quiet(), performance.now() - openedAt) > CUT_MS;
    if (isSilent) {
      socket.close();
      over();
    }
  }, 1000);
}

/** True while beats come. */
export const isLive = () => opened?.readyState === WebSocket.OPEN && quiet() <= CUT_MS;
