// The picture: listeners → pools → backends, with lines between them, and the figures of each.

import { attribute, h, put, remark, s, sparkline, sync } from "./dom.js";
import { bytes, clock, count, duty, healthTone, list, millis, poolState, rate, redundancy, span, tunnelState, tunnelWhy } from "./words.js";

/** Curves show so much of the past, in milliseconds. */
const SPAN = 120_000;

/** So many backends of a pool are shown at first: those that need a look, then those that serve, then the others. */
const SHOWN_MAX = 40;

/** Samples of one figure over time; a count that went down, or that nobody asked for a while, is a gap. */
const history = () => {
  const samples = [];
  let before = null;
  const add = (at, value) => {
    while (samples.length > 0 && at - samples[0].at > SPAN * 1.2) samples.shift();
    samples.push({ at, value });
  };
  const grown = (at, total) => {
    const took = before === null ? 0 : (at - before.at) / 1000;
    const value = took > 0 && took < 30 && total >= before.total ? (total - before.total) / took : null;
    before = { at, total };
    add(at, value);
    return value;
  };
  return { samples, add, grown };
};

const figure = (name) => {
  const value = h("span", { class: "value" });
  const curve = sparkline();
  const element = h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value), h("dd", {}, curve.element));
  return { element, value, curve };
};

/** A hidden end of a button's words, so that each has a name of its own. */
const unseen = (text) => h("span", { class: "unseen" }, text);

/** The tunnel that leads to a backend: how it fares, and what can be done about it. Hidden while there is none. */
const tunnelPart = (pool, name, act) => {
  const holder = h("span", { class: "holder" });
  const [state, facts, note] = [h("span", { class: "tunnel-state" }), h("p", { class: "facts" }), h("p", { class: "note" })];
  const button = (word, rest, onclick) => h("button", { type: "button", "aria-haspopup": "dialog", onclick }, word, unseen(` ${rest} ${name} of ${pool}`));
  const order = (word, what) => button(word, "the tunnel of", () => act.tunnelOrder(pool, name, what));
  const element = h(
    "div",
    { class: "tunnel", role: "group", "aria-label": `Tunnel of ${name} of ${pool}` },
    h("div", { class: "line" }, holder, h("div", { class: "who" }, state, facts)),
    note,
    h(
      "div",
      { class: "buttons" },
      order("Start", "start"),
      order("Stop", "stop"),
      order("Restart", "restart"),
      button("Log", "of the tunnel of", () => act.log(pool, name)),
      button("Explain", "the tunnel of", () => act.expansion(pool, name)),
    ),
  );
  const update = (tunnel) => {
    element.hidden = tunnel === null;
    if (tunnel === null) return;
    const [tone, means] = tunnelState(tunnel.state);
    remark(holder, tone);
    attribute(element, "data-tunnel", tunnel.state);
    put(state, `Tunnel ${tunnel.state}`);
    attribute(state, "title", means);
    const up = tunnel.uptime_seconds === null ? null : `up for ${span(tunnel.uptime_seconds)}`;
    const words = [tunnel.provider, tunnel.attach, tunnel.pid === null ? null : `process ${tunnel.pid}`, count(tunnel.restarts, "restart"), up];
    put(facts, words.filter((text) => text !== null).join(" · "));
    const why = tunnelWhy(tunnel);
    put(note, why);
    note.hidden = why === "";
  };
  return { element, update };
};

const backendPart = (pool, name, act) => {
  const health = h("span", { class: "holder" });
  const [state, facts, note, lag] = [h("span", { class: "state" }), h("p", { class: "facts" }), h("p", { class: "note" }), h("p", { class: "facts" })];
  const [sessions, moved, latency] = [figure("sessions"), figure("throughput"), figure("latency")];
  const past = { sessions: history(), moved: history(), latency: history() };
  let last = null;
  const orders = h("button", { type: "button", "aria-haspopup": "dialog", onclick: () => act.order(pool, name) }, "Orders…", unseen(` for backend ${name} of ${pool}`));
  const tunnel = tunnelPart(pool, name, act);
  const element = h(
    "li",
    { class: "backend", "data-backend": `${pool}/${name}` },
    h("div", { class: "line" }, health, h("div", { class: "who" }, h("h4", {}, name), state), orders),
    facts,
    h("dl", { class: "figures" }, sessions.element, moved.element, latency.element),
    lag,
    note,
    tunnel.element,
  );
  const update = ({ backend, tiers, at }) => {
    const [word, means] = duty(backend);
    remark(health, healthTone(backend.health));
    attribute(element, "data-health", backend.health);
    attribute(element, "data-duty", backend.active ? "serves" : backend.eligible ? "stands-by" : "out");
    put(state, `${backend.health}, ${word}`);
    attribute(state, "title", means);
    const tier = tiers.length > 1 ? `tier ${tiers.indexOf(backend.priority) + 1} of ${tiers.length} (priority ${backend.priority})` : `priority ${backend.priority}`;
    const words = [backend.role, backend.address, tier, `weight ${backend.weight}`, backend.admin_state];
    put(facts, words.filter((text) => text !== null).join(" · "));
    // The same moment may be shown again, by another choice of what is shown.
    if (at !== last) {
      last = at;
      past.sessions.add(at, backend.sessions);
      // Of one that is down only the last good answer's is known.
      const slow = backend.health === "unhealthy" ? null : backend.latency_ms;
      past.latency.add(at, slow);
      put(moved.value, rate(past.moved.grown(at, backend.bytes_to_backend + backend.bytes_to_client)));
      put(sessions.value, backend.sessions.toLocaleString("en"));
      put(latency.value, millis(slow));
      for (const [name, shown] of Object.entries({ sessions, moved, latency })) shown.curve.update(past[name].samples, SPAN, at);
    }
    const behind = backend.lag_bytes === null ? "lag not known" : `lag ${bytes(backend.lag_bytes)}, ${(backend.lag_seconds ?? 0).toFixed(1)} s`;
    put(lag, backend.role === "standby" ? `${behind}${backend.timeline === null ? "" : ` · timeline ${backend.timeline}`}` : "");
    lag.hidden = lag.textContent === "";
    const why = backend.reason || (backend.health === "unhealthy" ? backend.last_error : "") || "";
    put(note, why);
    note.hidden = why === "";
    tunnel.update(backend.tunnel ?? null);
  };
  return { element, update };
};

const listenerPart = (name) => {
  const [where, figures] = [h("p", { class: "facts" }), h("p", { class: "facts" })];
  const element = h("li", { class: "listener", "data-listener": name }, h("h4", {}, name), where, figures);
  const update = (listener) => {
    put(where, listener.binds.join(", ") + (listener.target === "any" ? "" : ` · for ${listener.target}`));
    const refused = Object.entries(listener.rejected).map(([reason, number]) => `${number.toLocaleString("en")} refused (${reason})`);
    const held = listener.held > 0 ? [`${listener.held.toLocaleString("en")} waiting`] : [];
    put(figures, [`${count(listener.connections, "client")}, ${listener.accepted.toLocaleString("en")} so far`, ...held, ...refused].join(" · "));
  };
  return { element, update };
};

/** Those that need a look first, then those that serve; the order of the file otherwise. */
const first = (backends, most) => {
  if (backends.length <= most) return backends;
  const weight = (backend) => (backend.active ? 0 : backend.eligible ? 2 : 1);
  const chosen = new Set([...backends].sort((a, b) => weight(a) - weight(b)).slice(0, most));
  return backends.filter((backend) => chosen.has(backend));
};

/** Lines from the listeners to the pool, and on to the backends, behind the boxes. */
const draw = (lines, row) => {
  const frame = row.getBoundingClientRect();
  attribute(lines, "viewBox", `0 0 ${frame.width} ${frame.height}`);
  const middle = (element, side) => {
    const box = element.getBoundingClientRect();
    return [box[side] - frame.left, box.top - frame.top + Math.min(box.height / 2, 44)];
  };
  const pool = row.querySelector(".pool-box");
  const serves = row.dataset.serves === "yes";
  const curves = [];
  const curve = ([x1, y1], [x2, y2], kind) => {
    const half = (x1 + x2) / 2;
    curves.push(s("path", { class: kind, d: `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}` }));
    if (kind === "serves") curves.push(s("circle", { class: kind, cx: x2 - 1, cy: y2, r: 4 }));
  };
  for (const listener of row.querySelectorAll(".listener")) curve(middle(listener, "right"), middle(pool, "left"), serves ? "serves" : "out");
  for (const backend of row.querySelectorAll(".backend")) curve(middle(pool, "right"), middle(backend, "left"), backend.dataset.duty);
  lines.replaceChildren(...curves);
};

const poolPart = (name, act) => {
  const listeners = h("ul", { class: "listeners", "aria-label": `Listeners of ${name}` });
  const backends = h("ul", { class: "backends", "aria-label": `Backends of ${name}` });
  const lines = s("svg", { class: "lines", "aria-hidden": "true" });
  const holder = h("span", { class: "holder" });
  const state = h("p", { class: "pool-state" });
  const [serving, facts, last] = [h("p", { class: "serving" }), h("ul", { class: "badges" }), h("p", { class: "facts" })];
  const explain = h("button", { type: "button", "aria-haspopup": "dialog", onclick: () => act.explain(name) }, "Explain", unseen(` why traffic of ${name} goes where it goes`));
  const orders = h("button", { type: "button", "aria-haspopup": "dialog", onclick: () => act.order(name, null) }, "Orders…", unseen(` for pool ${name}`));
  let all = false;
  let shown = null;
  const more = h("button", { type: "button", class: "more", onclick: () => ((all = !all), update(shown)) });
  const box = h("div", { class: "pool-box" }, h("div", { class: "line" }, holder, h("h3", {}, name)), state, serving, facts, last, h("div", { class: "buttons" }, explain, orders));
  const element = h("article", { class: "pool", "data-pool": name, "aria-label": `Pool ${name}` }, lines, listeners, box, h("div", {}, backends, more));
  const parts = { listeners: new Map(), backends: new Map() };
  const update = (item) => {
    shown = item;
    const { pool, at, found } = item;
    const [tone, words, means] = poolState(pool.state);
    remark(holder, tone);
    attribute(element, "data-state", pool.state);
    attribute(element, "data-tone", tone);
    attribute(element, "data-serves", pool.active.length > 0 ? "yes" : "no");
    put(state, means === "" ? words : `${words}: ${means}.`);
    put(serving, pool.active.length > 0 ? `New clients go to ${list(pool.active)}.` : "New clients go to nobody.");
    const badges = [
      pool.paused ? ["hold", "paused: new clients wait"] : null,
      pool.held > 0 ? ["warn", `${count(pool.held, "client")} waiting`] : null,
      pool.pinned === null ? null : ["hold", `pinned to ${pool.pinned}, by order`],
      [{ none: "bad", single: "warn" }[pool.redundancy] ?? "good", redundancy(pool.redundancy)],
    ].filter((badge) => badge !== null);
    if (facts.dataset.badges !== JSON.stringify(badges)) {
      facts.dataset.badges = JSON.stringify(badges);
      facts.replaceChildren(...badges.map(([kind, text]) => h("li", { class: `badge ${kind}` }, text)));
    }
    const { time, from, to, reason } = pool.last_failover;
    put(last, time === undefined ? "" : `Last change ${clock(time)}: from ${list(from ?? [])} to ${list(to ?? [])} (${reason}).`);
    last.hidden = time === undefined;
    sync(listeners, parts.listeners, item.listeners, (listener) => listener.name, (listener) => listenerPart(listener.name));
    const tiers = [...new Set(pool.backends.map((backend) => backend.priority))].sort((a, b) => a - b);
    const chosen = first(found, all ? Infinity : SHOWN_MAX).map((backend) => ({ backend, tiers, at }));
    sync(backends, parts.backends, chosen, ({ backend }) => backend.name, ({ backend }) => backendPart(name, backend.name, act));
    more.hidden = found.length <= SHOWN_MAX;
    put(more, all ? `Show ${SHOWN_MAX} of ${name}` : `Show all ${found.length.toLocaleString("en")} backends of ${name}`);
  };
  return { element, update, draw: () => draw(lines, element) };
};

/** The backends of `pool` that `wanted` finds: all of them, if it finds the pool. */
const find = (pool, wanted) => {
  const has = (text) => text.toLowerCase().includes(wanted);
  return wanted === "" || has(pool.name) ? pool.backends : pool.backends.filter((backend) => has(backend.name) || has(backend.address));
};

/**
 * The picture in `parent`; `act.explain(pool)` and `act.order(pool, backend)` are called by its buttons. Its `update` takes
 * the pools and listeners of one moment, and what is looked for.
 */
export const picture = (parent, act) => {
  const parts = new Map();
  const empty = h("p", { class: "empty" });
  const drawAll = () => parts.forEach((part) => part.draw());
  new ResizeObserver(drawAll).observe(parent);
  const update = ({ pools, listeners, at, wanted }) => {
    const items = pools.map((pool) => {
      const own = listeners.filter((listener) => listener.pool === pool.name);
      return { pool, at, found: find(pool, wanted), listeners: own };
    });
    const shown = items.filter(({ found }) => found.length > 0);
    sync(parent, parts, shown, ({ pool }) => pool.name, ({ pool }) => poolPart(pool.name, act));
    put(empty, pools.length === 0 ? "There are no pools." : "Nothing of that name.");
    if (shown.length === 0) parent.append(empty);
    else empty.remove();
    drawAll();
  };
  return { update };
};

/** All pools in one line. */
export const summary = (pools) => {
  const backends = pools.flatMap((pool) => pool.backends);
  const down = pools.filter((pool) => pool.state === "down").length;
  const uneasy = pools.filter((pool) => !["healthy", "down"].includes(pool.state)).length;
  const healthy = backends.filter((backend) => backend.health === "healthy").length;
  const isCut = ({ tunnel }) => Boolean(tunnel) && !["connected", "disconnected"].includes(tunnel.state);
  const cut = backends.filter(isCut).length;
  const sum = (values) => values.reduce((all, value) => all + value, 0);
  const parts = [
    count(pools.length, "pool"),
    ...(down > 0 ? [`${down} down`] : []),
    ...(uneasy > 0 ? [`${uneasy} not as preferred`] : []),
    `${healthy.toLocaleString("en")} of ${count(backends.length, "backend")} healthy`,
    ...(cut > 0 ? [`${count(cut, "tunnel")} not up`] : []),
    count(sum(backends.map((backend) => backend.sessions)), "session"),
    `${count(sum(pools.map((pool) => pool.held)), "client")} waiting`,
  ];
  return { text: parts.join(" · "), down, uneasy };
};
