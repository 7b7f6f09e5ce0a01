// The page: its state, what the reader does, and the address that keeps the state.

const byId = (id) => document.getElementById(id);
const data = decode(JSON.parse(byId("data").textContent));
const LOWERED = data.raw.strings.map((text) => text.toLowerCase());
const MOVES = window.matchMedia("(prefers-reduced-motion: reduce)");
const SPAN_MIN = 20; // µs in view at least
const canvases = { overview: byId("overview"), axis: byId("axis"), rows: byId("rows") };
const scroller = byId("scroller");

const ranked = executables(data);
const colourOf = new Map(ranked.slice(0, PALETTE.length).map(([name], place) => [name, PALETTE[place]]));

const page = {
  data, by: "creator", nested: nest(data, "creator"), folded: new Uint8Array(data.count),
  view: { from: data.from, to: data.to }, rows: [], places: new Int32Array(data.count).fill(-1), selected: -1, hovered: -1, pointed: -1, found: null, lit: null,
  isTight: true, isOnlyMatches: false, isClock: data.to - data.from > 72e8, colours: theme(), label: 260, width: 0,
  x: (us) => page.label + ((us - page.view.from) / (page.view.to - page.view.from)) * (page.width - page.label),
  time: (x) => page.view.from + ((x - page.label) / Math.max(1, page.width - page.label)) * (page.view.to - page.view.from),
  colour: (name) => colourOf.get(name) || OTHERS,
};

// -- showing ---------------------------------------------------------------------------------------------------------

let isWaiting = false;

// Draw everything again before the next frame.
function show() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    draw();
  });
}

function draw() {
  const width = scroller.clientWidth;
  const height = scroller.clientHeight;
  page.width = width;
  page.label = Math.round(Math.min(300, Math.max(120, width * 0.28)));
  drawOverview(canvases.overview, page, width, canvases.overview.clientHeight);
  drawAxis(canvases.axis, page, width, canvases.axis.clientHeight);
  const drawn = drawRows(canvases.rows, page, width, height, scroller.scrollTop);
  const { step } = axisTicks(page, width);
  const range = `${elapsed(page.view.from, step / 10)} to ${elapsed(page.view.to, step / 10)}`;
  byId("status").textContent = `${countOf(page.rows.length, "row", "rows")}, ${WHOLE.format(drawn)} in sight; ${range}`;
}

// Decide again which rows there are. The row `anchor`, or another one in sight, stays where it is.
function arrange(anchor = page.pointed >= 0 ? page.pointed : page.selected) {
  const top = scroller.scrollTop;
  const first = Math.ceil(top / ROW);
  const inSight = page.rows.slice(first, first + Math.ceil(scroller.clientHeight / ROW));
  const before = [...(inSight.includes(anchor) ? [anchor] : []), ...inSight].map((row) => [row, page.places[row] * ROW - top]);
  const only = page.isOnlyMatches && page.found ? page.found.within : null;
  page.rows = shownRows(page.nested, page.folded, page.view, page.isTight, only);
  page.places.fill(-1);
  page.rows.forEach((row, place) => { page.places[row] = place; });
  byId("spacer").style.height = `${page.rows.length * ROW}px`;
  const kept = before.find(([row]) => page.places[row] >= 0);
  if (kept !== undefined) scroller.scrollTop = page.places[kept[0]] * ROW - kept[1];
  show();
  remember();
}

// -- zoom ------------------------------------------------------------------------------------------------------------

let flight = 0;

// Show a range of time; `isSoft` moves there if the reader allows movement.
function look(from, to, isSoft = true) {
  const pad = (data.max - data.min) * 0.02;
  const span = Math.min(Math.max(to - from, SPAN_MIN), data.max - data.min + 2 * pad);
  const middle = (from + to) / 2;
  from = Math.min(Math.max(middle - span / 2, data.min - pad), data.max + pad - span);
  const [target, origin] = [{ from, to: from + span }, { ...page.view }];
  cancelAnimationFrame(flight);
  if (!isSoft || MOVES.matches || document.hidden) {
    page.view = target;
    arrange();
    return;
  }
  const began = performance.now();
  const step = (now) => {
    const part = Math.min(1, Math.max(0, (now - began) / 160));
    const eased = 1 - (1 - part) ** 3;
    page.view = { from: origin.from + (target.from - origin.from) * eased, to: origin.to + (target.to - origin.to) * eased };
    if (part < 1) {
      show();
      flight = requestAnimationFrame(step);
    } else {
      page.view = target;
      arrange();
    }
  };
  flight = requestAnimationFrame(step);
}

function zoom(factor, x = page.label + (page.width - page.label) / 2, isSoft = true) {
  const { from, to } = page.view;
  const at = page.time(Math.max(page.label, x));
  look(at - (at - from) * factor, at + (to - at) * factor, isSoft);
}

function pan(part) {
  const span = page.view.to - page.view.from;
  look(page.view.from + span * part, page.view.to + span * part);
}

function lookAt(row) {
  const { from, to } = { from: page.nested.from[row], to: page.nested.to[row] };
  const pad = Math.max((to - from) * 0.06, SPAN_MIN / 2);
  look(from - pad, to + pad);
}

// -- selection, folding ----------------------------------------------------------------------------------------------

function select(row, isMoved = true) {
  page.selected = row;
  page.pointed = -1;
  if (row >= 0 && isMoved) reveal(row);
  fill(byId("details"), row);
  byId("panel").hidden = row < 0;
  show();
  remember();
}

// Bring a row into sight: unfold what is above it, and scroll.
function reveal(row) {
  for (let above = page.nested.above[row]; above >= 0; above = page.nested.above[above]) page.folded[above] = 0;
  if (page.places[row] < 0) arrange(-1);
  if (page.places[row] < 0) {
    // It did not run in the period that is in view.
    const span = page.view.to - page.view.from;
    const middle = (data.start[row] + Math.min(data.end[row], data.start[row] + span)) / 2;
    look(middle - span / 2, middle + span / 2, false);
  }
  if (page.places[row] < 0) return;
  const y = page.places[row] * ROW;
  if (y < scroller.scrollTop) scroller.scrollTop = y - ROW;
  else if (y + 2 * ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = y + 2 * ROW - scroller.clientHeight;
}

function fold(row, isFolded) {
  if (row < 0 || page.nested.size[row] < 2) return;
  page.folded[row] = isFolded ? 1 : 0;
  arrange(row);
}

function foldAll(isFolded) {
  for (let row = 0; row < data.count; row++) page.folded[row] = isFolded && page.nested.size[row] > 1 ? 1 : 0;
  if (isFolded && page.selected >= 0) {
    let top = page.selected;
    while (page.nested.above[top] >= 0) top = page.nested.above[top];
    page.selected = top;
  }
  arrange(-1);
  if (page.selected >= 0) select(page.selected);
}

// Fill an element with the details of a process, as text.
function fill(element, row) {
  element.replaceChildren();
  if (row < 0) return;
  const title = document.createElement("h2");
  title.textContent = `${data.name(row)} ${data.raw.pid[row]}`;
  const list = document.createElement("dl");
  for (const [label, text] of details(data, row, page.by)) {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = label;
    value.textContent = text;
    if (label === "exit" && data.raw.failed[row]) value.className = "bad";
    list.append(term, value);
  }
  element.append(title, list);
}

// -- search ----------------------------------------------------------------------------------------------------------

function find(query) {
  page.found = search(data, page.nested, query, LOWERED);
  byId("found").textContent = page.found === null ? "" : countOf(page.found.rows.length, "match", "matches");
  arrange();
}

// Select the next match, or with -1 the one before.
function step(direction) {
  if (page.found === null || !page.found.rows.length) return;
  const { place } = page.nested;
  const now = page.selected < 0 ? (direction > 0 ? -1 : Infinity) : place[page.selected];
  const { rows } = page.found;
  const next = direction > 0 ? rows.find((row) => place[row] > now) : rows.findLast((row) => place[row] < now);
  const row = next === undefined ? (direction > 0 ? rows[0] : rows[rows.length - 1]) : next;
  select(row);
  byId("found").textContent = `${WHOLE.format(rows.indexOf(row) + 1)} of ${countOf(rows.length, "match", "matches")}`;
}

// -- the address keeps what is shown ---------------------------------------------------------------------------------

let writing = 0;
let isReading = false;

function remember() {
  if (isReading) return;
  clearTimeout(writing);
  writing = setTimeout(() => {
    const state = new URLSearchParams();
    if (byId("search").value) state.set("q", byId("search").value);
    if (page.view.from !== data.from || page.view.to !== data.to) {
      state.set("t", `${(page.view.from / 1e6).toFixed(6)},${(page.view.to / 1e6).toFixed(6)}`);
    }
    if (page.selected >= 0) state.set("row", page.selected);
    if (page.by !== "creator") state.set("by", page.by);
    if (!page.isTight) state.set("all", "1");
    if (page.isOnlyMatches) state.set("only", "1");
    const folded = [];
    for (let row = 0; row < data.count && folded.length < 200; row++) if (page.folded[row]) folded.push(row);
    if (folded.length && folded.length < 200) state.set("fold", folded.join("."));
    const text = state.toString();
    if (location.hash.slice(1) !== text) history.replaceState(null, "", text ? `#${text}` : "#");
  }, 300);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  isReading = true;
  byId("search").value = state.get("q") || "";
  byId("only").checked = page.isOnlyMatches = state.has("only");
  byId("tight").checked = page.isTight = !state.has("all");
  byId("by").value = page.by = state.get("by") === "parent" ? "parent" : "creator";
  page.nested = nest(data, page.by);
  page.folded.fill(0);
  for (const row of (state.get("fold") || "").split(".")) if (row && Number(row) < data.count) page.folded[Number(row)] = 1;
  const [from, to] = (state.get("t") || "").split(",").map((part) => Number(part) * 1e6);
  // An address can contain any numbers; times far away from the data cannot be distinguished.
  const isNear = Math.max(Math.abs(from), Math.abs(to)) < 10 * (data.max - data.min);
  page.view = to - from >= SPAN_MIN / 2 && isNear ? { from, to } : { from: data.from, to: data.to };
  page.selected = -1;
  find(byId("search").value);
  const row = Number(state.get("row") || -1);
  if (row >= 0 && row < data.count) select(row);
  else if (page.found && page.found.rows.length) reveal(page.found.rows[0]);
  isReading = false;
}

// -- mouse -----------------------------------------------------------------------------------------------------------

const tip = byId("tip");

function rowAt(event) {
  const box = scroller.getBoundingClientRect();
  const place = Math.floor((event.clientY - box.top + scroller.scrollTop) / ROW);
  return place >= 0 && place < page.rows.length ? page.rows[place] : -1;
}

function hover(event) {
  const row = event === null ? -1 : rowAt(event);
  if (row !== page.hovered) {
    page.hovered = row;
    fill(tip, row);
    show();
  }
  tip.hidden = row < 0;
  if (row < 0) return;
  const [x, y] = [event.clientX + 16, event.clientY + 18];
  tip.style.left = `${Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${y + tip.offsetHeight + 8 < innerHeight ? y : Math.max(4, event.clientY - tip.offsetHeight - 12)}px`;
}

let grip = null;

scroller.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || event.offsetX > scroller.clientWidth) return;
  const box = scroller.getBoundingClientRect();
  grip = { x: event.clientX, y: event.clientY, view: { ...page.view }, top: scroller.scrollTop, isMoved: false,
    isLabel: event.clientX - box.left < page.label };
});
window.addEventListener("pointermove", (event) => {
  if (grip === null) return;
  const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
  if (!grip.isMoved && Math.hypot(dx, dy) < 4) return;
  grip.isMoved = true;
  hover(null);
  if (grip.isLabel || event.pointerType !== "mouse") return;
  const span = grip.view.to - grip.view.from;
  const shift = (dx / Math.max(1, page.width - page.label)) * span;
  look(grip.view.from - shift, grip.view.to - shift, false);
  scroller.scrollTop = grip.top - dy;
});
window.addEventListener("pointerup", (event) => {
  const [was, box] = [grip, scroller.getBoundingClientRect()];
  grip = null;
  if (was === null || was.isMoved) return;
  const row = rowAt(event);
  const x = event.clientX - box.left;
  if (row >= 0 && x < page.label && x < indentOf(page, row) + 13) fold(row, !page.folded[row]);
  else select(row === page.selected ? -1 : row, false);
});
scroller.addEventListener("dblclick", (event) => {
  const row = rowAt(event);
  if (row < 0) return;
  select(row);
  lookAt(row);
});
scroller.addEventListener("pointermove", (event) => { if (grip === null) hover(event); });
scroller.addEventListener("pointerleave", () => hover(null));
scroller.addEventListener("scroll", () => { hover(null); show(); });
scroller.addEventListener("wheel", (event) => {
  const box = scroller.getBoundingClientRect();
  if (event.ctrlKey || event.metaKey || event.altKey) {
    event.preventDefault();
    page.pointed = rowAt(event);
    hover(null);
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.006), event.clientX - box.left, false);
  } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    event.preventDefault();
    const span = page.view.to - page.view.from;
    const shift = ((event.deltaX || event.deltaY) / Math.max(1, page.width - page.label)) * span;
    look(page.view.from + shift, page.view.to + shift, false);
  }
}, { passive: false });

// In the overview: drag over a range to show it, click to go there.
let brush = null;
const overviewTime = (event) => {
  const box = canvases.overview.getBoundingClientRect();
  return data.min + Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (data.max - data.min);
};
canvases.overview.addEventListener("pointerdown", (event) => {
  brush = { at: overviewTime(event), x: event.clientX };
  canvases.overview.setPointerCapture(event.pointerId);
});
canvases.overview.addEventListener("pointermove", (event) => {
  if (brush === null || Math.abs(event.clientX - brush.x) < 4) return;
  const at = overviewTime(event);
  look(Math.min(brush.at, at), Math.max(brush.at, at), false);
});
canvases.overview.addEventListener("pointerup", (event) => {
  if (brush !== null && Math.abs(event.clientX - brush.x) < 4) {
    const half = (page.view.to - page.view.from) / 2;
    look(brush.at - half, brush.at + half);
  }
  brush = null;
});

// -- keyboard --------------------------------------------------------------------------------------------------------

function move(by) {
  if (!page.rows.length) return;
  const now = page.selected >= 0 && page.places[page.selected] >= 0 ? page.places[page.selected] : by > 0 ? -1 : page.rows.length;
  select(page.rows[Math.min(page.rows.length - 1, Math.max(0, now + by))]);
}

const screenful = () => Math.max(1, Math.floor(scroller.clientHeight / ROW) - 1);
const row = () => page.selected;
const KEYS = {
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  PageDown: () => move(screenful()),
  PageUp: () => move(-screenful()),
  Home: () => move(-Infinity),
  End: () => move(Infinity),
  ArrowRight: () => {
    if (row() < 0) return;
    if (page.folded[row()]) fold(row(), false);
    else if (page.nested.size[row()] > 1) move(1);
  },
  ArrowLeft: () => {
    if (row() < 0) return;
    if (!page.folded[row()] && page.nested.size[row()] > 1) fold(row(), true);
    else if (page.nested.above[row()] >= 0) select(page.nested.above[row()]);
  },
  Enter: () => { if (row() >= 0) lookAt(row()); },
  "+": () => zoom(0.6),
  "=": () => zoom(0.6),
  "-": () => zoom(1 / 0.6),
  0: () => look(data.min, data.max),
  a: () => pan(-0.25),
  d: () => pan(0.25),
  f: () => foldAll(true),
  u: () => foldAll(false),
  n: () => step(1),
  N: () => step(-1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target;
  if (event.key === "Escape" && !byId("help").open) {
    if (at === byId("search") || page.found !== null) {
      byId("search").value = "";
      find("");
    } else if (page.lit !== null) light(null);
    else select(-1);
    scroller.focus();
    return;
  }
  if (at instanceof HTMLInputElement || at instanceof HTMLSelectElement || at instanceof HTMLButtonElement) {
    if (at === byId("search") && event.key === "Enter") step(event.shiftKey ? -1 : 1);
    if (at instanceof HTMLInputElement && at.type === "search") return;
    if (["Enter", " ", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight"].includes(event.key)) return;
  }
  if (byId("help").open) return;
  if (event.key === "/") byId("search").focus();
  else if (event.key === "?") byId("help").showModal();
  else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
  else return;
  event.preventDefault();
});

// -- the bar above ---------------------------------------------------------------------------------------------------

// Show one executable in colour and the others faint; null: all in colour.
function light(name) {
  page.lit = name;
  for (const chip of byId("legend").querySelectorAll("button")) {
    chip.setAttribute("aria-pressed", String(chip.dataset.name === name));
  }
  show();
}

for (const [name, count] of ranked.slice(0, PALETTE.length)) {
  const [chip, swatch, number] = [document.createElement("button"), document.createElement("i"), document.createElement("small")];
  swatch.style.background = page.colour(name);
  number.textContent = WHOLE.format(count);
  const label = document.createElement("bdi");
  label.textContent = name;
  chip.append(swatch, label, number);
  chip.dataset.name = name;
  chip.type = "button";
  chip.title = `${name}: ${countOf(count, "process", "processes")}`;
  chip.addEventListener("click", () => light(page.lit === name ? null : name));
  byId("legend").append(chip);
}
if (ranked.length > PALETTE.length) {
  const rest = document.createElement("span");
  const swatch = document.createElement("i");
  swatch.style.background = OTHERS;
  rest.append(swatch, `${WHOLE.format(ranked.length - PALETTE.length)} others`);
  byId("legend").append(rest);
}

byId("search").addEventListener("input", (event) => {
  find(event.target.value);
  if (page.found && page.found.rows.length) reveal(page.found.rows[0]);
});
byId("only").addEventListener("change", (event) => { page.isOnlyMatches = event.target.checked; arrange(); });
byId("tight").addEventListener("change", (event) => { page.isTight = event.target.checked; arrange(); });
byId("clock").addEventListener("change", (event) => { page.isClock = event.target.checked; show(); });
byId("by").addEventListener("change", (event) => {
  page.by = event.target.value;
  page.nested = nest(data, page.by);
  find(byId("search").value);
  if (page.selected >= 0) select(page.selected);
});
for (const [id, act] of Object.entries({ in: KEYS["+"], out: KEYS["-"], fit: KEYS[0], fold: KEYS.f, unfold: KEYS.u,
  next: KEYS.n, before: KEYS.N })) {
  byId(id).addEventListener("click", act);
}
byId("ask").addEventListener("click", () => byId("help").showModal());
byId("close").addEventListener("click", () => { select(-1); scroller.focus(); });

new ResizeObserver(show).observe(scroller);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { page.colours = theme(); show(); });
window.addEventListener("hashchange", recall);
byId("clock").checked = page.isClock;
recall();
