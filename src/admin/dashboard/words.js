// What the daemon's words mean, in words for people; and figures with their units.

/** States of a pool: how it is told, and in what tone. */
const POOL_STATES = {
  unknown: ["unknown", "No verdicts yet", "the first answers of its backends are still out"],
  healthy: ["good", "Healthy", "the preferred backends serve, and all are fit"],
  degraded: ["warn", "Degraded", "the preferred backends serve, but not all are fit"],
  failover_in_progress: ["warn", "Failing over", "what served is lost, and who comes next is being decided"],
  failover_complete: ["warn", "Failed over", "others than the preferred backends serve"],
  recovery_in_progress: ["warn", "Recovering", "others serve, and preferred ones are fit again"],
  down: ["bad", "Down", "nothing serves"],
};

export const poolState = (state) => POOL_STATES[state] ?? ["unknown", state, ""];

const REDUNDANCY = {
  none: "no healthy backend",
  single: "one healthy backend, no redundancy",
  dual: "two healthy backends",
  multi: "more than two healthy backends",
};

export const redundancy = (word) => REDUNDANCY[word] ?? word;

export const healthTone = (health) => ({ healthy: "good", unhealthy: "bad" })[health] ?? "unknown";

/** What a backend does now: tone, word, and what that means. */
export const duty = (backend) => {
  if (backend.active) return ["serves", "gets new clients"];
  if (backend.admin_state === "maintenance") return ["in maintenance", "gets no new clients, as ordered"];
  if (backend.admin_state === "drain") return ["drained", "gets no new clients, as ordered"];
  if (backend.eligible) return ["stands by", "is fit, and gets no new clients now"];
  return ["out", "gets no new clients"];
};

/** States of a tunnel: in what tone, and what they mean. */
const TUNNEL_STATES = {
  connected: ["good", "checks come through it"],
  connecting: ["warn", "it has not led anywhere yet"],
  reconnecting: ["warn", "it led somewhere, and is set up anew"],
  disconnected: ["hold", "it is not wanted now, by order"],
  failed: ["bad", "it cannot be set up as things are"],
};

export const tunnelState = (state) => TUNNEL_STATES[state] ?? ["unknown", ""];

/** Why a tunnel is not up, and when it is tried again; empty if there is nothing to say. */
export const tunnelWhy = ({ reason, next_retry: retry }) => [reason, retry === null ? null : `tried again at ${clock(retry)}`].filter(Boolean).join("; ");

/** Problems by their codes; what the daemon says of the case stands below. */
const PROBLEMS = {
  not_authorized: "You may not do this. The daemon takes orders only from those who prove that they may: nothing has changed.",
  not_authenticated: "The daemon does not know who you are: there is no token, or it is wrong or has expired. Nothing has changed.",
  rate_limited: "Too many orders, or wrong tokens, in a short time. Nothing has changed; wait a moment.",
  no_eligible_backend: "Nothing, or not the one that you chose, is fit to serve. Nothing has changed.",
  conflict: "It is so already, or makes no sense as things stand. Nothing has changed.",
  pool_not_found: "There is no such pool any more. Nothing has changed.",
  backend_not_found: "There is no such backend any more. Nothing has changed.",
  invalid_body: "The daemon does not take one of the fields. Nothing has changed.",
  store_busy: "Too many changes wait to be kept. Nothing has changed; try again.",
  draining: "The daemon is going down, and takes no more orders.",
  starting: "The daemon has only just started, and its first verdicts are still out.",
  unreachable: "The daemon was not reached, or did not answer in time. It is not known whether the order was carried out: look before you give it again.",
};

export const problem = (code) => PROBLEMS[code] ?? "The daemon refused. Nothing has changed.";

/** Why something that was asked for cannot be shown. */
export const trouble = (error) => `${error.status === 0 ? "The daemon was not reached." : problem(error.code)} ${error.detail ?? error.message}`;

const KINDS = {
  "backend.healthy": ["good", "is healthy"],
  "backend.unhealthy": ["bad", "is unhealthy"],
  "backend.registered": ["unknown", "is registered"],
  "backend.removed": ["unknown", "is removed"],
  "backend.admin_state": ["hold", "has a new admin state"],
  "backend.lagging": ["warn", "lags"],
  "backend.primary_refused": ["warn", "takes writes, and is not believed"],
  "pool.failover": ["warn", "failover"],
  "pool.failback": ["good", "failback"],
  "pool.primary_changed": ["warn", "has another primary"],
  "pool.split_brain": ["bad", "split brain"],
  "pool.degraded": ["warn", "is degraded"],
  "pool.down": ["bad", "is down"],
  "pool.recovered": ["good", "serves again"],
  "pool.paused": ["hold", "is paused"],
  "pool.resumed": ["good", "goes on"],
  "pool.unpinned": ["good", "is pinned no more"],
  "latency.high": ["warn", "answers slowly"],
  "tunnel.connecting": ["unknown", "tunnel is being set up"],
  "tunnel.connected": ["good", "tunnel is up"],
  "tunnel.reconnecting": ["warn", "tunnel is set up anew"],
  "tunnel.disconnected": ["hold", "tunnel is stopped"],
  "tunnel.failed": ["bad", "tunnel has failed"],
  "config.rejected": ["bad", "new configuration rejected"],
  "config.reloaded": ["good", "configuration reloaded"],
  "admin.action": ["hold", "order"],
  "webhook.failed": ["warn", "webhook not delivered"],
  "daemon.started": ["good", "daemon started"],
  "daemon.stalled": ["warn", "daemon stood still"],
  "daemon.stopping": ["warn", "daemon is stopping"],
};

export const kinds = () => Object.keys(KINDS);

export const eventTone = (event) => {
  if (event.status === "failed") return "bad";
  return KINDS[event.kind]?.[0] ?? "unknown";
};

/** An event in one line. */
export const sentence = (event) => {
  if (event.kind === "admin.action") {
    const { action, result } = event.detail;
    return `${event.actor} ordered ${action ?? "something"}: ${result === "done" ? "done" : `refused (${result})`}`;
  }
  if (typeof event.detail.message === "string" && event.detail.message !== "") return event.detail.message;
  const parts = [KINDS[event.kind]?.[1] ?? event.kind];
  if (event.from || event.to) parts.push(`from ${event.from ?? "nobody"} to ${event.to ?? "nobody"}`);
  if (event.reason) parts.push(`(${event.reason})`);
  if (event.status) parts.push(event.status);
  return parts.join(" ");
};

export const list = (names, none = "nobody") => (names.length === 0 ? none : names.join(", "));

/** Who serves, as a sentence without its end. */
export const serve = (names) => `${list(names)} ${names.length > 1 ? "serve" : "serves"}`;

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const scaled = (value, step, units) => {
  let unit = 0;
  while (value >= step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
};

export const bytes = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);

export const rate = (value) => (value === null ? "–" : `${scaled(value, 1000, ["B", "kB", "MB", "GB"])}/s`);

export const millis = (value) => {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10_000 ? 0 : 1)} s`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ms`;
};

/** A span of seconds, as two units at most. */
export const span = (seconds) => {
  const whole = Math.max(0, Math.round(seconds));
  const [d, hr, min] = [Math.floor(whole / 86_400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (d > 0) return `${d} d ${hr} h`;
  if (hr > 0) return `${hr} h ${min} min`;
  if (min > 0) return `${min} min ${whole % 60} s`;
  return `${whole} s`;
};

const two = (number) => String(number).padStart(2, "0");

/** The time of day here, with the date unless it is today. */
export const clock = (time, now = new Date()) => {
  const at = new Date(time);
  const hours = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === now.toDateString()) return hours;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${hours}`;
};
