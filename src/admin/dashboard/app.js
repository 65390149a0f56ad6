// The page: asks for the figures while it is looked at, follows the events, and says when it has lost the daemon.

import { follow, get } from "./api.js";
import { attribute, byId, h, put, remark } from "./dom.js";
import { explain } from "./explain.js";
import { order, orders, tunnelOrder } from "./orders.js";
import { picture, summary } from "./picture.js";
import { timeline } from "./timeline.js";
import { expansion, log } from "./tunnel.js";
import { clock, problem, sentence, span } from "./words.js";

/** From one question for figures to the next, in milliseconds; longer where answers are large and slow. */
const EACH = 2000;
/** Events that come together are told and shown together. */
const TOGETHER = 150;
/** No more is read out at once. */
const TOLD_MAX = 3;

const state = { pools: [], listeners: [], at: 0, since: null, lost: null, refused: null, streaming: false, view: null };

const title = () => {
  if (state.lost !== null) return `✕ not connected since ${clock(state.lost)} · changeover`;
  if (state.refused !== null) return "✕ not allowed · changeover";
  const { down, uneasy } = state.view ?? { down: 0, uneasy: 0 };
  if (down > 0) return `✕ ${down} of ${state.pools.length} down · changeover`;
  if (uneasy > 0) return `! ${uneasy} of ${state.pools.length} not as preferred · changeover`;
  return state.view === null ? "changeover" : "✓ all pools healthy · changeover";
};

const banner = () => {
  const element = byId("banner");
  const words =
    state.lost !== null
      ? state.since === null
        ? "The daemon cannot be reached. Nothing can be shown yet. The page keeps trying."
        : `The connection to the daemon is lost since ${clock(state.lost)}. What is shown is old: it is from ${clock(state.since)}. The page keeps trying.`
      : state.refused !== null
        ? `${problem(state.refused.code)} The daemon says: ${state.refused.detail}`
        : "";
  // Read out when it changes, and only then.
  put(element, words);
  element.hidden = words === "";
  attribute(document.body, "data-stale", words === "" ? null : "yes");
};

const age = () => {
  const is = state.lost !== null ? "bad" : state.refused !== null ? "warn" : state.since === null ? "unknown" : "good";
  remark(byId("link-mark"), is);
  const way = state.streaming ? "events live" : "events each 2 s";
  const words = {
    bad: () => `not connected for ${span((Date.now() - state.lost) / 1000)}`,
    warn: () => "not allowed",
    unknown: () => "connecting…",
    good: () => `connected, ${way}`,
  };
  put(byId("link-text"), words[is]());
  const now = title();
  if (document.title !== now) document.title = now;
};

const act = { explain, order, tunnelOrder, log, expansion };
const show = picture(byId("picture"), act);

const render = () => {
  state.view = summary(state.pools);
  put(byId("summary"), state.view.text);
  show.update({ pools: state.pools, listeners: state.listeners, at: state.at, wanted: byId("find").value.trim().toLowerCase() });
};

let waiting = [];
const told = (event) => {
  if (waiting.length === 0) {
    setTimeout(() => {
      const lines = waiting.slice(-TOLD_MAX).map((one) => [one.pool, sentence(one)].filter((part) => part !== null).join(": "));
      const rest = waiting.length - lines.length;
      put(byId("told"), `${rest > 0 ? `${rest} events, and then: ` : ""}${lines.join(". ")}`);
      waiting = [];
    }, TOGETHER);
  }
  waiting.push(event);
  soon();
};
const events = timeline(told);

const gone = () => {
  state.lost ??= Date.now();
};

/** Whether what is known of the history is of the daemon that answers now. */
let isCurrent = false;

/** An answer that there is not is no lost connection: a disk may be slow, or a caller may see some of it only. */
const optional = (error) => {
  if (error.status === 0 || error.status === undefined) throw error;
  return null;
};

const history = async () => {
  if (isCurrent && state.streaming) return;
  const was = isCurrent;
  // Before the answer, so that whoever says meanwhile that it is not is heard.
  isCurrent = true;
  try {
    await (was ? events.more() : events.begin());
  } catch (error) {
    isCurrent = false;
    throw error;
  }
};

const ask = async () => {
  const [pools, listeners] = await Promise.all([get("pools"), get("listeners").catch(optional)]);
  [state.pools, state.listeners, state.at, state.since] = [pools.pools, listeners?.listeners ?? [], performance.now(), Date.now()];
  await history().catch(optional);
  events.pools(state.pools.map((pool) => pool.name));
};

let timer = null;
let isAsking = false;
let isWanted = false;

const turn = async () => {
  clearTimeout(timer);
  if (isAsking) {
    isWanted = true;
    return;
  }
  isAsking = true;
  isWanted = false;
  const begun = performance.now();
  try {
    await ask();
    const wasLost = state.lost !== null;
    [state.lost, state.refused] = [null, null];
    render();
    if (wasLost) {
      put(byId("told"), "Connected again; what is shown is as of now.");
      again();
    }
  } catch (error) {
    // Whatever came before may be another daemon's.
    isCurrent = false;
    if (error.status === undefined) throw error;
    // It answers, and does not want to: that is no lost connection.
    if (error.status >= 400 && error.status < 500) [state.refused, state.lost] = [error, null];
    else gone();
  } finally {
    isAsking = false;
    banner();
    age();
    const took = performance.now() - begun;
    if (document.visibilityState === "visible" || state.lost !== null) timer = setTimeout(turn, isWanted ? TOGETHER : Math.max(EACH, 5 * took));
  }
};

let pending = null;
/** The figures anew, for something has happened. */
const soon = () => {
  pending ??= setTimeout(() => {
    pending = null;
    turn();
  }, TOGETHER);
};

const again = follow({
  last: events.newest,
  up: () => {
    state.streaming = true;
    // What came between the last look and the stream is found in the history, and so is that the daemon is a new one.
    isCurrent = false;
    turn();
  },
  down: () => {
    state.streaming = false;
    turn();
  },
  take: events.take,
  gap: () => {
    // What is known no longer joins what comes: the newest are asked for, and older ones from there.
    isCurrent = false;
    events.lose();
    turn();
  },
});

orders(
  (words) => {
    put(byId("told"), words);
    turn();
  },
  () => {
    isCurrent = false;
    events.forget();
    again();
    turn();
  },
);

put(byId("host"), location.host);
byId("find").addEventListener("input", render);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && turn());
window.addEventListener("online", turn);
setInterval(age, 1000);
turn();
