// Orders: what is to be done, what would happen, and what the daemon says to it. And the token that allows them.

import { get, hasToken, isTokenKept, path, post, Refused, setToken } from "./api.js";
import { byId, h, open, put } from "./dom.js";
import { list, poolState, problem, serve } from "./words.js";

/** What happens to established sessions, by policy. */
const SESSIONS = {
  keep: "kept until they end by themselves",
  drain: "left to end by themselves, and closed when the drain's time is over",
  close: "closed at once",
};

const POOL_ORDERS = [
  ["failover", "Fail over: new clients go to another backend, and nowhere else until a failback"],
  ["failback", "Fail back: release what a failover has bound, and serve by the rules again"],
  ["pause", "Pause: new clients wait, and sessions go on"],
  ["resume", "Resume: those who wait go on, in the order of their arrival"],
];

const BACKEND_ORDERS = [
  ["drain", "Drain: no new clients, and its sessions end"],
  ["maintenance", "Maintenance: the same, marked as being worked on"],
  ["ready", "Ready: it may serve again once it is fit"],
  ["failover-to", "Fail over to it: new clients of the pool go there, and nowhere else until a failback"],
];

const TUNNEL_ORDERS = [
  ["tunnel-start", "Start: run its program if it was stopped, and try it now if it has failed"],
  ["tunnel-stop", "Stop: end its program, and leave it so until it is started"],
  ["tunnel-restart", "Restart: end its program, and start it anew"],
];

const VERBS = { failover: "Fail over", failback: "Fail back", pause: "Pause", resume: "Resume", drain: "Drain", maintenance: "Take into maintenance", ready: "Set ready", "failover-to": "Fail over", "tunnel-start": "Start the tunnel of", "tunnel-stop": "Stop the tunnel of", "tunnel-restart": "Restart the tunnel of" };

/** The order that is being prepared: the pool's name, the backend's or null, and which one. */
let current = null;
/** Which preview is the latest: answers come in any order. */
let asked = 0;

const others = (known, without) => known.evidence.filter((backend) => backend.eligible && backend.name !== without && !known.serving.includes(backend.name));

const many = (known, names) => known.evidence.filter((backend) => names.includes(backend.name)).reduce((sum, backend) => sum + backend.sessions, 0);

const whenAlone = (known) => {
  const next = known.if_active_failed?.to ?? [];
  if (next.length > 0) return [`New clients go to ${list(next)} instead.`];
  const rules = (known.if_active_failed?.rules ?? []).map((applied) => `${applied.sentence} ${applied.detail}`);
  return ["!Nothing else is fit: new clients would be served by nobody.", ...rules];
};

/** Where new clients go without `backend`. */
const without = (known, backend) => {
  const stay = known.serving.filter((name) => name !== backend);
  if (!known.serving.includes(backend)) return [`${backend} gets no new clients now; those go to ${list(known.serving)}, as before.`];
  if (stay.length > 0) return [`New clients go to ${list(stay)}, and no more to ${backend}.`];
  return whenAlone(known);
};

const leaving = (known, config, backend) => {
  const policy = config.failover?.sessions?.drained ?? "drain";
  const sessions = many(known, [backend]);
  const end = sessions === 0 ? `${backend} has no sessions.` : `Its sessions (${sessions}): ${SESSIONS[policy] ?? policy} (failover.sessions.drained = "${policy}").`;
  return [...without(known, backend), end];
};

const tunnelled = (known, backend, what) => {
  const tunnel = known.evidence.find((one) => one.name === backend)?.tunnel ?? null;
  if (tunnel === null) return ["!There is no such tunnel any more."];
  const isStopped = tunnel.state === "disconnected";
  if (what === "tunnel-start") {
    if (isStopped) return [`It is set up. ${backend} gets clients by the rules once its checks come through.`];
    if (tunnel.state === "connected" || tunnel.state === "connecting") return [`It is ${tunnel.state} already: there is nothing to start.`];
    return ["It is tried again now, and not only when that is due."];
  }
  if (isStopped) return [what === "tunnel-stop" ? "It is stopped already." : "It is stopped: it is to be started."];
  const sessions = many(known, [backend]);
  const end = sessions === 0 ? `${backend} has no sessions.` : `Its sessions (${sessions}) go through the tunnel, and may end with it.`;
  if (what === "tunnel-restart") return ["Until checks come through it again:", ...without(known, backend), end];
  return [...without(known, backend), end, "It stays stopped, also over restarts of the daemon, until it is started."];
};

const ready = (known, config, backend) => {
  const own = known.evidence.find((one) => one.name === backend);
  if (own === undefined) return ["!There is no such backend any more."];
  if (own.admin_state === "ready") return ["It is ready already: nothing would change."];
  if (own.health !== "healthy") return [`It is ${own.health}: it gets no clients before its checks pass.`];
  const serving = known.evidence.filter((one) => known.serving.includes(one.name));
  const isBetter = serving.length > 0 && serving.every((one) => own.priority < one.priority);
  if (serving.length === 0) return [`${backend} is healthy and nobody serves: clients go to it as far as the rules let them.`];
  if (serving.some((one) => own.priority === one.priority)) return [`New clients are shared with ${list(known.serving)}.`];
  if (!isBetter) return [`It stands by: ${serve(known.serving)}.`];
  const { failback, failback_after: after } = config.failover ?? {};
  if (failback === "manual") return [`It is preferred, but failback is manual: ${serve(known.serving)} until a failback is ordered.`];
  return [`It is preferred: new clients go to it again once it has been fit for ${after ?? "its stable time"}, unless the pool is pinned.`];
};

const failover = (known, seen, to) => {
  const sessions = byId("order-sessions")?.value ?? "keep";
  const target = to === "" ? (seen.to.length > 0 ? `${list(seen.to)}, the best of the others` : "") : to;
  const had = many(known, known.serving);
  return [
    target === "" ? "!Nothing else is fit: the daemon would refuse." : `New clients go to ${target} and nowhere else, also if it fails, until a failback is ordered.`,
    known.serving.length === 0 ? "Nobody serves now." : `The sessions of ${list(known.serving)} (${had}): ${SESSIONS[sessions]}.`,
    `By itself the daemon ${seen.should_failover ? "would fail over" : "would not"}: ${seen.reason}.`,
  ];
};

const failback = (known, pool) => {
  const [, words] = poolState(known.state);
  const fit = known.evidence.filter((one) => one.eligible);
  const best = Math.min(...fit.map((one) => one.priority));
  const preferred = fit.filter((one) => one.priority === best).map((one) => one.name);
  const isCluster = known.evidence.some((one) => one.role !== null);
  const where = isCluster ? "It follows its primary again, whichever server proves to be it." : preferred.length === 0 ? "Nothing is fit." : `New clients go to ${list(preferred)}, the best tier that is fit.`;
  return [pool.pinned === null ? "The pool is not pinned." : `The pool is pinned to ${pool.pinned} no more.`, where, `Now ${serve(known.serving)}, and the pool is ${words.toLowerCase()}.`];
};

const isOfTunnel = (what) => what.startsWith("tunnel-");

/** What would happen, as sentences; one that begins with "!" is a warning. */
const preview = async ({ pool, backend, what }) => {
  const about = (...parts) => path("pools", pool, ...parts);
  const [known, state] = await Promise.all([get(about("explain")), get(about())]);
  if (what === "failover" || what === "failover-to") {
    fillTargets(known);
    const seen = await post(about("evaluate"));
    const to = what === "failover-to" ? backend : (byId("order-to")?.value ?? "");
    const own = known.evidence.find((one) => one.name === to);
    return [...failover(known, seen, to), ...(own && !own.eligible ? [`!${to} is not fit (${own.reason || own.health}): the daemon would refuse.`] : [])];
  }
  if (isOfTunnel(what)) return tunnelled(known, backend, what);
  if (what === "failback") return failback(known, state);
  if (what === "pause") return [`New clients wait, for the pool's hold time at most, and are refused after that. The sessions (${many(known, known.evidence.map((one) => one.name))}) go on.`];
  if (what === "resume") return [state.paused ? `Those who wait (${state.held}) go on.` : "The pool is not paused: the daemon would refuse, or nothing would change."];
  const config = await get(about("failover-config"));
  return what === "ready" ? ready(known, config, backend) : leaving(known, config, backend);
};

const fillTargets = (known) => {
  const select = byId("order-to");
  if (select === null || select.options.length > 1) return;
  select.append(...others(known, null).map((backend) => h("option", { value: backend.name }, `${backend.name} (priority ${backend.priority})`)));
};

const field = (id, label, control) => h("p", {}, h("label", { for: id }, label), " ", control);

const fields = (what) => {
  const all = [];
  const again = { onchange: () => foresee() };
  if (what === "failover") all.push(field("order-to", "To", h("select", { id: "order-to", ...again }, h("option", { value: "" }, "the best of the others"))));
  if (what === "failover" || what === "failover-to") {
    const policies = Object.entries(SESSIONS).map(([value, means]) => h("option", { value }, `${value}: ${means}`));
    all.push(field("order-sessions", "Sessions of those that serve now", h("select", { id: "order-sessions", ...again }, ...policies)));
    all.push(field("order-reason", "Reason, for the history (may be left out)", h("input", { id: "order-reason", maxlength: 200, autocomplete: "off" })));
  }
  if (what === "pause") all.push(field("order-timeout", "For how long, as 30s or 5m (left out: until resumed)", h("input", { id: "order-timeout", maxlength: 20, autocomplete: "off" })));
  return all;
};

const say = (element, sentences) =>
  element.replaceChildren(...sentences.map((text) => (text.startsWith("!") ? h("p", { class: "refused" }, `Warning: ${text.slice(1)}`) : h("p", {}, text))));

const foresee = async () => {
  const own = (asked += 1);
  let sentences;
  try {
    sentences = await preview(current);
  } catch (error) {
    sentences = [`!It cannot be said: ${error.detail ?? error.message}`];
  }
  if (own === asked) say(byId("order-would"), sentences);
};

const choose = (what) => {
  current = { ...current, what };
  const { pool, backend } = current;
  byId("order-fields").replaceChildren(...fields(what));
  byId("order-answer").replaceChildren();
  byId("order-would").replaceChildren(h("p", {}, "Asking the daemon…"));
  const whom = backend === null ? pool : what === "failover-to" ? `${pool} to ${backend}` : `${pool}/${backend}`;
  put(byId("order-do"), `${VERBS[what]} ${whom}`);
  foresee();
};

const showToken = () => {
  put(byId("order-token"), hasToken() ? "Your token is sent with the order." : "No token was given: over TCP the daemon will refuse, and nothing will change.");
  put(byId("token-open"), hasToken() ? "Token: given" : "Token: none");
};

/** Opens the dialog with the orders `all`, of which `first` is chosen. */
const offer = (title, pool, backend, all, first) => {
  current = { pool, backend, what: null };
  const choices = all.map(([what, words]) => h("label", { class: "choice" }, h("input", { type: "radio", name: "order-what", value: what, checked: what === first, onchange: () => choose(what) }), h("span", {}, words)));
  byId("order-choices").replaceChildren(...choices);
  put(byId("order-head"), title);
  showToken();
  choose(first);
  open(byId("order"), byId("order-choices").querySelector("input:checked"));
};

/** Opens the dialog with the orders for `pool`, or for its `backend`. */
export const order = (pool, backend) => {
  if (backend === null) offer(`Orders for pool ${pool}`, pool, null, POOL_ORDERS, "failover");
  else offer(`Orders for backend ${backend} of ${pool}`, pool, backend, BACKEND_ORDERS, "drain");
};

/** Opens the dialog with the orders for the tunnel of `backend`, of which `what` (`start`, `stop`, `restart`) is chosen. */
export const tunnelOrder = (pool, backend, what) =>
  offer(`Orders for the tunnel of ${backend} of ${pool}`, pool, backend, TUNNEL_ORDERS, `tunnel-${what}`);

/** What `value` of a field says, if anything. */
const said = (id) => {
  const value = byId(id)?.value.trim() ?? "";
  return value === "" ? undefined : value;
};

const request = ({ pool, backend, what }) => {
  const moves = { sessions: said("order-sessions"), reason: said("order-reason") };
  if (what === "failover") return [path("pools", pool, "failover"), { to: said("order-to"), ...moves }];
  if (what === "failover-to") return [path("pools", pool, "failover"), { to: backend, ...moves }];
  if (what === "pause") return [path("pools", pool, "pause"), { timeout: said("order-timeout") }];
  if (backend === null) return [path("pools", pool, what), {}];
  if (isOfTunnel(what)) return [path("pools", pool, "backends", backend, "tunnel", what.slice("tunnel-".length)), {}];
  return [path("pools", pool, "backends", backend, what), {}];
};

const send = async (done) => {
  const button = byId("order-do");
  if (button.disabled) return;
  const answer = byId("order-answer");
  button.disabled = true;
  answer.replaceChildren(h("p", {}, "Sent; waiting for the answer…"));
  const words = button.textContent;
  try {
    const came = await post(...request(current));
    const kept = came?.durable === false ? " It is in force, but would not outlive a restart of the daemon." : "";
    answer.replaceChildren(h("p", { class: "done" }, `Done: ${words}.${kept}`));
    done(`Done: ${words}.`);
    foresee();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    answer.replaceChildren(h("p", { class: "refused" }, problem(error.code)), h("p", { class: "facts" }, `The daemon says: ${error.detail} (${error.code})`));
  } finally {
    button.disabled = false;
  }
};

/** Wires both dialogs. `done(words)` is called after an order that was carried out, `changed()` after another token. */
export const orders = (done, changed) => {
  // Only its button gives an order: no Enter that was meant for something else.
  byId("order-form").addEventListener("submit", (event) => event.preventDefault());
  byId("order-do").addEventListener("click", () => send(done));
  const askToken = () => {
    byId("token-field").value = "";
    byId("token-keep").checked = isTokenKept();
    open(byId("token"), byId("token-field"));
  };
  byId("token-open").addEventListener("click", askToken);
  byId("order-token-open").addEventListener("click", askToken);
  const use = (value, keep) => {
    setToken(value, keep);
    byId("token-field").value = "";
    byId("token").close();
    showToken();
    changed();
  };
  byId("token-forget").addEventListener("click", () => use("", false));
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    use(byId("token-field").value, byId("token-keep").checked);
  });
  showToken();
};
