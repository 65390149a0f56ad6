// The time line: events, newest first, each with its evidence.

import { get } from "./api.js";
import { byId, h, mark, put, sync } from "./dom.js";
import { clock, count, eventTone, kinds, millis, sentence } from "./words.js";

const PAGE = 200;
/** So many are remembered, and so many shown. */
const KEPT_MAX = 2000;
const SHOWN_STEP = 100;
const END = `This is as far back as the page goes: it remembers the newest ${KEPT_MAX} events. \`changeover events --until\` shows older ones.`;
/** Events of one history have their numbers in the order of their times, but for this many milliseconds. */
const SLACK = 1000;

/** What of an event's `detail` stands elsewhere. */
const ELSEWHERE = new Set(["message"]);

const plain = (value) => {
  if (value === null) return "–";
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map(plain).join(", ");
  return Object.entries(value).map(([name, inner]) => `${name} ${plain(inner)}`).join(", ");
};

const facts = (event) => {
  const own = ["pool", "backend", "from", "to", "reason", "status", "actor"].map((name) => [name, event[name]]);
  const took = event.duration_ms === null ? [] : [["took", millis(event.duration_ms)]];
  const more = Object.entries(event.detail).filter(([name]) => !ELSEWHERE.has(name));
  return [["kind", event.kind], ...own, ...took, ...more, ["time", event.time], ["id", event.id]].filter(([, value]) => value !== null && value !== undefined);
};

/** Such that come one after the other are one line: a busy machine makes many, and they must not hide the others. */
const REPEATS = new Set(["daemon.stalled"]);

/** Events with how many like them came before, and since when. */
const folded = (list) => {
  const lines = [];
  for (const event of list) {
    const line = lines.at(-1);
    if (line !== undefined && REPEATS.has(event.kind) && line.event.kind === event.kind) [line.more, line.since] = [line.more + 1, event.time];
    else lines.push({ event, more: 0, since: event.time });
  }
  return lines;
};

const eventPart = ({ event }) => {
  const about = [event.pool, event.backend].filter((name) => name !== null).join("/");
  const evidence = event.detail.evidence;
  const again = h("span", { class: "kind" });
  const rows = facts(event).flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, plain(value))]);
  const element = h(
    "li",
    { class: `event ${eventTone(event)}`, "data-id": event.id, "data-kind": event.kind },
    h("time", { datetime: event.time, title: event.time }, clock(event.time)),
    h("span", { class: "holder" }, mark(eventTone(event))),
    h(
      "div",
      { class: "what" },
      h("p", {}, about === "" ? "" : h("strong", {}, `${about} `), sentence(event), h("span", { class: "kind" }, event.kind), again),
      typeof evidence === "string" && !sentence(event).includes(evidence) ? h("p", { class: "evidence" }, `evidence: ${evidence}`) : null,
    ),
    h("details", {}, h("summary", {}, "Details", h("span", { class: "unseen" }, ` of event ${event.id}`)), h("dl", { class: "all" }, ...rows)),
  );
  const update = ({ more, since }) => put(again, more === 0 ? "" : `and ${count(more, "more", "more")} like it since ${clock(since)}`);
  return { element, update };
};

const options = (select, values) => {
  const known = new Set([...select.options].map((option) => option.value));
  const fresh = values.filter((value) => !known.has(value)).sort();
  for (const value of fresh) select.append(h("option", { value }, value));
};

/** The time line; `told(event)` is called for each event that came while the page was open. */
export const timeline = (told) => {
  const [parent, older, byPool, byKind] = [byId("timeline"), byId("older"), byId("by-pool"), byId("by-kind")];
  const parts = new Map();
  let events = new Map();
  let most = SHOWN_STEP;
  let isAll = false;
  /** Whether older ones would have to go as soon as they came. */
  let isFull = false;
  let isFetching = false;
  /** How often everything was forgotten: an answer to a question from before is not shown any more. */
  let turns = 0;

  const fits = (event) => (byPool.value === "" || event.pool === byPool.value) && (byKind.value === "" || event.kind === byKind.value || event.kind.startsWith(`${byKind.value}.`));
  const show = () => {
    const found = folded([...events.values()].filter(fits).sort((a, b) => b.id - a.id));
    // Numbers may begin anew with the daemon; with the time they name one event.
    sync(parent, parts, found.slice(0, most), ({ event }) => `${event.id} ${event.time}`, eventPart);
    put(byId("events-count"), found.length === 0 ? "None yet of what is chosen." : "");
    older.hidden = (isAll || isFull) && found.length <= most;
    put(byId("older-end"), older.hidden && isFull ? END : "");
    options(byPool, [...events.values()].map((event) => event.pool).filter((pool) => pool !== null));
    options(byKind, [...events.values()].map((event) => event.kind));
  };
  const newest = () => (events.size === 0 ? null : Math.max(...events.keys()));
  /** Whether `event` is of another history: a daemon whose disk was taken away begins its numbers anew, and nothing of the old ones is true. */
  const isOther = (event) => {
    const [known, last] = [events.get(event.id), events.get(newest())];
    if (known !== undefined) return known.time !== event.time;
    return last !== undefined && event.id < last.id && Date.parse(event.time) > Date.parse(last.time) + SLACK;
  };
  /** What is known does not join what comes, or is not true any more; and so is an answer to what was asked before. */
  const lose = () => {
    turns += 1;
    [events, isAll, isFull] = [new Map(), false, false];
  };
  const keep = (list) => {
    if (list.some(isOther)) lose();
    for (const event of list) events.set(event.id, event);
    if (events.size <= KEPT_MAX) return;
    events = new Map([...events].sort(([a], [b]) => b - a).slice(0, KEPT_MAX));
    isAll = false;
  };
  const take = (event) => {
    if (events.get(event.id)?.time === event.time) return;
    keep([event]);
    show();
    if (!REPEATS.has(event.kind)) told(event);
  };
  /** The newest anew. */
  const begin = async () => {
    const asked = turns;
    const { events: page } = await get(`events?limit=${PAGE}`);
    if (asked !== turns) return;
    const fresh = events.size === 0 ? [] : page.filter((event) => events.get(event.id)?.time !== event.time);
    // All are new: between them and what is known there may be others, which nobody would ask for.
    if (fresh.length === PAGE) lose();
    keep(page);
    isAll ||= page.length < PAGE;
    show();
    fresh.filter((event) => !REPEATS.has(event.kind)).forEach(told);
  };
  /** What has come since, for a daemon without the stream. */
  const more = async () => {
    const had = newest();
    if (had === null) return begin();
    const asked = turns;
    const { events: page } = await get(`events?limit=${PAGE}&after=${had}`);
    if (asked === turns) page.forEach(take);
    return undefined;
  };
  const fetchOlder = async () => {
    const found = [...events.values()].filter(fits);
    most += SHOWN_STEP;
    // What is known already is not waited for.
    show();
    if (found.length < most && !isFetching) {
      isFetching = true;
      const of = (name, value) => (value === "" ? "" : `&${name}=${encodeURIComponent(value)}`);
      const kind = byKind.value.includes(".") ? byKind.value : "";
      const oldest = found.reduce((time, event) => (time === "" || event.time < time ? event.time : time), "");
      const asked = turns;
      const page = await get(`events?limit=${PAGE}${of("pool", byPool.value)}${of("kind", kind)}${of("until", oldest)}`).catch(() => null);
      isFetching = false;
      if (page !== null && asked === turns) {
        const before = events.size;
        keep(page.events);
        isFull = page.events.some((event) => !events.has(event.id));
        isAll = !isFull && (events.size === before || page.events.length < PAGE);
      }
    }
    show();
  };
  /** Somebody else looks now, who may not see the same. */
  const forget = () => {
    lose();
    most = SHOWN_STEP;
    byPool.replaceChildren(byPool.options[0]);
    show();
  };
  for (const select of [byPool, byKind]) {
    select.addEventListener("change", () => {
      [most, isAll, isFull] = [0, false, false];
      fetchOlder();
    });
  }
  older.addEventListener("click", fetchOlder);
  const groups = ["pool", "backend", "tunnel", "config", "daemon"].map((group) => h("option", { value: group }, `${group}.*`));
  byKind.append(...groups);
  options(byKind, kinds());
  return { begin, more, forget, lose, take, newest, pools: (names) => options(byPool, names) };
};
