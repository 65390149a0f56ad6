// Making and changing elements. Whatever comes from the daemon becomes text here, and never markup.

const SVG = "http://www.w3.org/2000/svg";

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

/** An element: `h("p", { class: "note" }, "text", element…)`. */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same of SVG. */
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Sets the text of `element` if it is another: what is the same is not touched, and not read out again. */
export const put = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

export const attribute = (element, name, value) => {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
};

/**
 * Makes the children of `parent` those of `items`, in their order. `parts` remembers by key what `make` has made: an object
 * with an `element` and an `update`. What stays is moved only if it must be, so that it keeps the focus.
 */
export const sync = (parent, parts, items, key, make) => {
  const wanted = new Set(items.map(key));
  for (const [name, part] of parts) {
    if (!wanted.has(name)) {
      part.element.remove();
      parts.delete(name);
    }
  }
  let before = parent.firstElementChild;
  for (const item of items) {
    let part = parts.get(key(item));
    if (!part) parts.set(key(item), (part = make(item)));
    if (part.element === before) before = before.nextElementSibling;
    else parent.insertBefore(part.element, before);
    part.update(item);
  }
};

// Each state has a shape of its own, and none goes by colour alone.
const MARKS = {
  good: "M3 8.5l3.2 3.2L13 5",
  bad: "M4 4l8 8M12 4l-8 8",
  warn: "M8 3v6M8 12.2v.6",
  unknown: "M5.5 6a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1.9-1.1 1.8M8 12.6v.4",
  hold: "M5.5 4v8M10.5 4v8",
};

/** A mark for `tone`; the words beside it say what it means. */
export const mark = (tone) =>
  s("svg", { class: `mark ${tone}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, s("path", { d: MARKS[tone] ?? MARKS.unknown }));

/** Puts `tone`'s mark in the place of the one in `holder`. */
export const remark = (holder, tone) => {
  if (holder.dataset.tone === tone) return;
  holder.dataset.tone = tone;
  holder.replaceChildren(mark(tone));
};

const WIDTH = 84;
const HEIGHT = 18;

/** A small curve of samples over time. What it says stands beside it in figures. */
export const sparkline = () => {
  const area = s("path", { class: "area" });
  const line = s("path", { class: "line" });
  const box = { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const element = s("svg", box, area, line);
  const update = (samples, span, now) => {
    const seen = samples.filter((sample) => now - sample.at <= span);
    const top = Math.max(...seen.map((sample) => sample.value ?? 0), 0) || 1;
    const x = (at) => (WIDTH * (1 - (now - at) / span)).toFixed(1);
    const y = (value) => (HEIGHT - 1.5 - (HEIGHT - 3) * (value / top)).toFixed(1);
    // A sample without a value is a gap: nothing was known then.
    const runs = [[]];
    for (const sample of seen) {
      if (sample.value === null) runs.push([]);
      else runs.at(-1).push(sample);
    }
    const drawn = runs.filter((run) => run.length > 1);
    const curve = (run) => run.map((sample) => `${x(sample.at)} ${y(sample.value)}`).join("L");
    attribute(line, "d", drawn.map((run) => `M${curve(run)}`).join("") || null);
    const under = (run) => `M${x(run[0].at)} ${HEIGHT}L${curve(run)}L${x(run.at(-1).at)} ${HEIGHT}Z`;
    attribute(area, "d", drawn.map(under).join("") || null);
  };
  return { element, update };
};

/** Opens a dialog, whose buttons marked `data-close` close it; so does Escape. The focus goes back to where it was. */
export const open = (dialog, focus) => {
  if (!dialog.dataset.wired) {
    dialog.dataset.wired = "yes";
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  if (!dialog.open) dialog.showModal();
  focus?.focus();
};
