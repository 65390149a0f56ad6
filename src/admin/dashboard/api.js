// Asking the daemon, with the token if there is one; and following its events.

const STORED = "changeover.token";

/** An answer takes no longer than this, in milliseconds, or the daemon counts as lost. */
const TIMEOUT = 8000;

/** The stream says something every 15 s; after so long a silence it is opened again. */
const SILENCE = 40_000;

const WAIT_MIN = 500;
const WAIT_MAX = 10_000;

/** A stream that lasted so long was a good one: the next wait is short again. */
const GOOD = 5000;

/** What the stream says of itself. It ends after `dropped` and `end`, and is opened again; after `gap` it goes on. */
const NOTICES = new Set(["dropped", "gap", "end"]);

let token = sessionStorage.getItem(STORED) ?? "";

export const hasToken = () => token !== "";
export const isTokenKept = () => sessionStorage.getItem(STORED) !== null;

/** From now on `value` is sent; kept with the tab only if that is wanted. */
export const setToken = (value, keep) => {
  token = value.trim();
  if (keep && token !== "") sessionStorage.setItem(STORED, token);
  else sessionStorage.removeItem(STORED);
};

const headers = (more) => (token === "" ? more : { ...more, Authorization: `Bearer ${token}` });

/** The daemon said no: `code` and `detail` are its own; `status` is 0 if it did not say anything. */
export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    Object.assign(this, { status, code, detail });
  }
}

const refusal = async (answer) => {
  const said = await answer.json().catch(() => ({}));
  const all = (said.errors ?? []).map((fault) => fault.message).join("; ");
  return new Refused(answer.status, said.code ?? `http_${answer.status}`, said.detail ?? (all || said.title || answer.statusText));
};

const ask = async (method, path, body) => {
  const type = body === undefined ? {} : { "Content-Type": "application/json" };
  const asked = { method, headers: headers(type), cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) };
  if (body !== undefined) asked.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(`api/v1/${path}`, asked);
    if (answer.ok) return answer.status === 204 ? null : await answer.json();
  } catch (error) {
    throw new Refused(0, "unreachable", error.name === "TimeoutError" ? `no answer within ${TIMEOUT / 1000} s` : "no connection");
  }
  throw await refusal(answer);
};

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);

/** A path from `parts`, each of which may hold anything. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

/** Reads Server-Sent Events from `body`, and gives each as `{ id, event, data }` to `take`. */
const read = async (body, heard, take) => {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { id: null, event: "message", data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (line === "") {
        if (event.data.length > 0) take({ ...event, data: event.data.join("\n") });
        event = { id: event.id, event: "message", data: [] };
      } else if (field === "data") event.data.push(text);
      else if (field === "event") event.event = text;
      else if (field === "id") event.id = text;
    }
  }
};

/**
 * Follows the events, for ever. `last()` says which was had last; `up()` is called when a stream is open and `down()` when
 * it has ended; `take(event)` gets each event, and `gap()` is called when some are missing before those that follow. A stream
 * that ends is opened again, after a wait that grows. Returns what opens it again at once, as with another token. A daemon
 * without the stream is asked for it again, seldom.
 */
export const follow = ({ last, up, down, take, gap }) => {
  let wait = WAIT_MIN;
  let stop = new AbortController();
  let wake = () => {};
  const once = async () => {
    stop = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(), SILENCE);
    };
    heard();
    let since = null;
    try {
      const id = last();
      const asked = headers({ Accept: "text/event-stream", ...(id === null ? {} : { "Last-Event-ID": String(id) }) });
      const answer = await fetch("api/v1/events/stream", { headers: asked, cache: "no-store", signal: stop.signal });
      if (!answer.ok) {
        await answer.body?.cancel();
        wait = WAIT_MAX;
        return;
      }
      since = performance.now();
      up();
      await read(answer.body, heard, (event) => {
        if (event.event === "gap") gap();
        else if (!NOTICES.has(event.event)) take(JSON.parse(event.data));
      });
    } catch {
      // Whatever ended it, it is opened again.
    } finally {
      clearTimeout(silence);
      if (since !== null) {
        if (performance.now() - since > GOOD) wait = WAIT_MIN;
        down();
      }
    }
  };
  const run = async () => {
    for (;;) {
      await once();
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, wait * (0.75 + Math.random() / 2));
      });
      wait = Math.min(wait * 2, WAIT_MAX);
    }
  };
  run();
  return () => {
    wait = WAIT_MIN;
    stop.abort();
    wake();
  };
};
