// What is known of a tunnel beside how it fares, in a dialog: what its program has written, and what is run for it.

import { get, path } from "./api.js";
import { byId, h, open, put } from "./dom.js";
import { clock, trouble } from "./words.js";

/** From one question for more lines to the next, in milliseconds. */
const EACH = 1000;

/** So many lines are shown: a daemon keeps no more of a tunnel. */
const SHOWN_MAX = 500;

/** Which opening is the latest: what was asked for an earlier one is not shown any more. */
let openings = 0;

const of = (pool, backend, what) => path("pools", pool, "backends", backend, "tunnel", what);

const refused = (error) => h("p", { role: "alert", class: "refused" }, trouble(error));

/** Opens the dialog. `isShown()` is true for as long as it is for this. */
const begin = (title) => {
  const [dialog, body] = [byId("tunnel"), byId("tunnel-body")];
  const own = (openings += 1);
  put(byId("tunnel-head"), title);
  body.replaceChildren(h("p", { role: "status" }, "Asking the daemon…"));
  open(dialog, byId("tunnel-head"));
  return { body, isShown: () => own === openings && dialog.open };
};

/** The lines that are shown, with an end that stays in sight if it is. */
const lines = (name) => {
  const element = h("div", { class: "log", role: "log", "aria-live": "off", "aria-label": `Log of the tunnel of ${name}`, tabindex: "0" });
  const add = (page) => {
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 8;
    const gap = page.gap ? [h("p", { class: "gap" }, "… what was written before is not kept any more")] : [];
    element.append(...gap, ...page.lines.map((line) => h("p", {}, h("time", { datetime: line.time, title: line.time }, clock(line.time)), ` ${line.text}`)));
    while (element.childElementCount > SHOWN_MAX) element.firstElementChild.remove();
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  };
  return { element, add, clear: () => element.replaceChildren() };
};

const pause = () => new Promise((resolve) => setTimeout(resolve, EACH));

/** Opens the dialog with the newest lines of a tunnel's program, and goes on with what it writes while that is open. */
export const log = async (pool, backend) => {
  const { body, isShown } = begin(`${pool}/${backend}: what the program of its tunnel has written`);
  const shown = lines(`${backend} of ${pool}`);
  const [state, problems] = [h("p", { class: "facts" }), h("div")];
  let next = null;
  while (isShown()) {
    try {
      const page = await get(`${of(pool, backend, "logs")}?limit=${SHOWN_MAX}${next === null ? "" : `&after=${next}`}`);
      if (!isShown()) return;
      problems.replaceChildren();
      // The numbers begin anew with the daemon.
      if (next !== null && page.next < next) {
        shown.clear();
        next = null;
        continue;
      }
      if (next === null) body.replaceChildren(problems, shown.element, state);
      shown.add(page);
      put(state, shown.element.childElementCount === 0 ? "Nothing has been written yet. What is written from now on is shown." : "What is written from now on is shown as it comes.");
      next = page.next;
    } catch (error) {
      if (!isShown()) return;
      if (next === null) body.replaceChildren(problems);
      if (problems.textContent !== trouble(error)) problems.replaceChildren(refused(error));
      if (error.status === undefined) throw error;
      // It answers, and does not want to: asked again it would say the same.
      if (error.status >= 400 && error.status < 500) return;
    }
    await pause();
  }
};

/** Opens the dialog with what the daemon runs for a tunnel. */
export const expansion = async (pool, backend) => {
  const { body, isShown } = begin(`${pool}/${backend}: what is run for its tunnel`);
  let shown;
  try {
    const known = await get(of(pool, backend, "explain"));
    shown = [
      h("p", {}, `Provider ${known.provider}, attached to by ${known.attach}. This is its table with all that the provider adds; secrets are not shown.`),
      h("pre", { class: "scroll", tabindex: "0", role: "group", "aria-label": `What is run for the tunnel of ${backend} of ${pool}` }, known.expansion),
    ];
  } catch (error) {
    shown = [refused(error)];
  }
  if (isShown()) body.replaceChildren(...shown);
};
