// The answer to "why is my traffic there?", in a dialog.

import { get, path } from "./api.js";
import { byId, h, mark, open } from "./dom.js";
import { clock, duty, healthTone, list, millis, poolState, serve, span, trouble, tunnelWhy } from "./words.js";

const ago = (time, now) => `${clock(time)}, ${span((new Date(now) - new Date(time)) / 1000)} ago`;

const rules = (applied, now) =>
  h(
    "ul",
    { class: "rules" },
    ...applied.map(({ sentence, detail, at, by, ordered_at: ordered }) => {
      const who = by === null ? "" : `; ordered by ${by}${clock(ordered) === clock(at) ? "" : ` at ${ago(ordered, now)}`}`;
      const when = at === null ? "" : ` [${new Date(at) > new Date(now) ? clock(at) : ago(at, now)}${who}]`;
      return h("li", {}, h("strong", {}, sentence), detail === "" && when === "" ? null : h("p", {}, `${detail}${when}`));
    }),
  );

const cells = (tag, texts) => texts.map((text) => h(tag, tag === "th" ? { scope: "col" } : {}, text));

/** What is to be said of a backend's tunnel, if it is not up. */
const cutOff = ({ tunnel }) => {
  if (!tunnel || tunnel.state === "connected") return null;
  const why = tunnelWhy(tunnel);
  return `its tunnel: ${tunnel.state}${why === "" ? "" : ` (${why})`}`;
};

const evidence = (backends, now) => {
  const row = (backend) => {
    const [word] = duty(backend);
    const health = h("td", {}, mark(healthTone(backend.health)), ` ${backend.health} for ${span((new Date(now) - new Date(backend.since)) / 1000)}`);
    const checked = backend.last_check === null ? "never" : `${span((new Date(now) - new Date(backend.last_check)) / 1000)} ago`;
    const lag = backend.lag_seconds === null ? "" : `${backend.lag_seconds.toFixed(1)} s`;
    const rest = [backend.priority, backend.admin_state, word, backend.role ?? "–", backend.consecutive_failures, backend.consecutive_successes, millis(backend.latency_ms), lag || "–", checked, backend.sessions];
    return h("tr", {}, h("th", { scope: "row" }, backend.name), health, ...cells("td", rest.map(String)));
  };
  const heads = ["Backend", "Health", "Priority", "Admin", "Now", "Role", "Fails", "OKs", "Latency", "Lag", "Checked", "Sessions"];
  const said = backends
    .map((backend) => [backend.name, [backend.reason, backend.meaning, cutOff(backend), backend.last_error].filter((text, at, all) => text && !all.slice(0, at).some((said) => said?.includes(text)))])
    .filter(([, texts]) => texts.length > 0)
    .map(([name, texts]) => h("li", {}, h("strong", {}, name), `: ${texts.join(" · ")}`));
  return [
    h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Evidence, a table that scrolls" }, h("table", {}, h("thead", {}, h("tr", {}, ...cells("th", heads))), h("tbody", {}, ...backends.map(row)))),
    said.length === 0 ? null : h("ul", { class: "rules" }, ...said),
  ];
};

const atRunTime = ({ registered, patched, pushed = [] }) => {
  const by = ({ by: actor, at }) => `, by ${actor} [${clock(at)}]`;
  const lines = [
    ...registered.map((entry) => `backend ${entry.name} is registered${by(entry)}`),
    ...patched.map((entry) => {
      const whose = entry.backend === null ? "" : `${entry.backend}: `;
      return `${whose}${entry.key} = ${JSON.stringify(entry.value)} (the file: ${entry.file === null ? "nothing" : JSON.stringify(entry.file)})${by(entry)}`;
    }),
  ];
  const verdicts = pushed.map(({ backend, health, reason, until }) => `${backend} is reported ${health}${reason === null ? "" : ` (${reason})`}, until ${clock(until)}`);
  const part = (title, said) => (said.length === 0 ? [] : [h("h3", {}, title), h("ul", { class: "rules" }, ...said.map((line) => h("li", {}, line)))]);
  return [...part("Set at run time, and goes before the file", lines), ...part("Verdicts that were pushed, and hold for their time", verdicts)];
};

const page = (known) => {
  const [tone, words, means] = poolState(known.state);
  const serves = known.serving.length === 0 ? "Nobody serves" : serve(known.serving);
  const since = known.since === null ? "" : `, since ${ago(known.since, known.time)}`;
  const prospect = known.if_active_failed;
  return [
    h("p", { class: "lead" }, mark(tone), ` ${serves}${since}. The pool is ${words.toLowerCase()}${means === "" ? "" : `: ${means}`}.`),
    h("h3", {}, "By which rule"),
    rules(known.rules, known.time),
    h("h3", {}, "On which evidence"),
    ...evidence(known.evidence, known.time),
    ...atRunTime(known.runtime),
    ...(prospect === null
      ? []
      : [
          h("h3", {}, `If ${list(known.serving)} failed now`),
          h("p", {}, prospect.to.length === 0 ? "Nobody would serve." : `${list(prospect.to)} would serve.`),
          rules(prospect.rules, known.time),
        ]),
    h("p", { class: "facts" }, `As of ${clock(known.time)}.`),
  ];
};

/** Opens the dialog for `pool`, and fills it. */
export const explain = async (pool) => {
  const body = byId("explain-body");
  byId("explain-head").textContent = `${pool}: why is its traffic there?`;
  body.replaceChildren(h("p", { role: "status" }, "Asking the daemon…"));
  open(byId("explain"), byId("explain-head"));
  let shown;
  try {
    shown = page(await get(`${path("pools", pool)}/explain`));
  } catch (error) {
    shown = [h("p", { role: "alert", class: "refused" }, trouble(error))];
  }
  body.replaceChildren(...shown.filter((part) => part !== null));
};
