// Drawing on canvas: only the rows that are in sight. Text of processes is drawn as text.

const ROW = 22; // CSS pixels of a row
const BAR = 14;
const INDENT = 12;
const PALETTE = ["#6aa5e8", "#e8a15b", "#6fbf8b", "#d98cc4", "#b8b04a", "#59b8c7", "#e58a86", "#a394e6", "#9bb36a", "#c9a27e",
  "#7fa8a8", "#c08bd6"];
const OTHERS = "#a9b3bc";
const ON_BAR = "#10161c"; // text on bars of any colour, in both modes

// Colours of the page by name, as its style sheet defines them for the present mode.
function theme() {
  const style = getComputedStyle(document.documentElement);
  const found = {};
  for (const name of ["text", "dim", "line", "back", "card", "blue", "bad", "mark"]) {
    found[name] = style.getPropertyValue(`--${name}`).trim();
  }
  return found;
}

// Give a canvas the size of a rectangle in CSS pixels; return its context, which then counts CSS pixels.
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.direction = "ltr";
  return context;
}

const FONT = "system-ui, 'Liberation Sans', sans-serif";

// Draw text that fits into a width, with an ellipsis if it is cut; return its width.
function fit(context, text, x, y, width) {
  if (width < 8) return 0;
  if (text.length > width) text = text.slice(0, width); // no character is narrower than a pixel
  let size = context.measureText(text).width;
  if (size > width) {
    let [low, high] = [0, text.length];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (context.measureText(text.slice(0, middle) + "…").width <= width) low = middle; else high = middle - 1;
    }
    // Not half of a surrogate pair.
    const code = text.charCodeAt(low - 1);
    text = text.slice(0, code >= 0xd800 && code < 0xdc00 ? low - 1 : low) + "…";
    size = context.measureText(text).width;
  }
  context.fillText(text, x, y);
  return size;
}

// Draw the axis above the rows; return the ticks in µs.
function drawAxis(canvas, page, width, height) {
  const context = sized(canvas, width, height);
  const { view, data, colours, label } = page;
  const ticks = axisTicks(page, width);
  context.font = `11px ${FONT}`;
  context.textBaseline = "middle";
  context.fillStyle = colours.dim;
  for (const at of ticks.at) {
    const x = page.x(at);
    const text = page.isClock ? clock(data, at, ticks.step) : elapsed(at, ticks.step);
    if (x >= label - 1 && x + context.measureText(text).width + 6 < width) context.fillText(text, x + 4, height / 2);
    context.fillRect(Math.round(x), height - 6, 1, 6);
  }
  context.fillStyle = colours.line;
  context.fillRect(0, height - 1, width, 1);
  context.fillStyle = colours.back;
  context.fillRect(0, 0, label, height - 1);
  context.fillStyle = colours.dim;
  fit(context, `${duration(view.to - view.from)} in view`, 10, height / 2, label - 20);
}

function axisTicks(page, width) {
  const { view, label } = page;
  const room = Math.max(1, width - label);
  const step = stepOf(((view.to - view.from) / room) * 92);
  const at = [];
  for (let tick = Math.ceil(view.from / step) * step; tick <= view.to; tick += step) at.push(tick);
  return { step, at };
}

// Draw how many processes ran at each moment, and which part is in view.
function drawOverview(canvas, page, width, height) {
  const context = sized(canvas, width, height);
  const { data, colours, view } = page;
  const bins = Math.max(1, Math.floor(width));
  if (page.bins === undefined || page.bins.length !== bins) page.bins = density(data, bins);
  const most = Math.max(1, ...chunks(page.bins, Math.max));
  context.fillStyle = colours.blue;
  context.globalAlpha = 0.55;
  context.beginPath();
  context.moveTo(0, height);
  for (let i = 0; i < bins; i++) {
    const y = height - (Math.sqrt(page.bins[i] / most)) * (height - 4);
    context.lineTo(i, y);
    context.lineTo(i + 1, y);
  }
  context.lineTo(bins, height);
  context.fill();
  context.globalAlpha = 1;
  const scale = width / (data.max - data.min);
  const from = Math.max(0, (view.from - data.min) * scale);
  const to = Math.min(width, Math.max(from + 3, (view.to - data.min) * scale));
  context.fillStyle = colours.back;
  context.globalAlpha = 0.65;
  context.fillRect(0, 0, from, height);
  context.fillRect(to, 0, width - to, height);
  context.globalAlpha = 1;
  context.strokeStyle = colours.blue;
  context.lineWidth = 1.5;
  context.strokeRect(from + 0.75, 0.75, Math.max(1.5, to - from - 1.5), height - 1.5);
}

function drawRows(canvas, page, width, height, top) {
  const context = sized(canvas, width, height);
  const { rows, colours, label } = page;
  const first = Math.max(0, Math.floor(top / ROW));
  const last = Math.min(rows.length, Math.ceil((top + height) / ROW));
  const y = (i) => i * ROW - top;
  context.textBaseline = "middle";
  for (let i = first; i < last; i++) {
    if (rows[i] === page.selected || rows[i] === page.hovered) {
      context.fillStyle = rows[i] === page.selected ? colours.mark : colours.card;
      context.fillRect(0, y(i), width, ROW);
    }
  }
  context.save();
  context.beginPath();
  context.rect(label, 0, width - label, height);
  context.clip();
  context.fillStyle = colours.line;
  for (const at of axisTicks(page, width).at) context.fillRect(Math.round(page.x(at)), 0, 1, height);
  drawForks(context, page, first, last, y);
  for (let i = first; i < last; i++) drawBar(context, page, rows[i], y(i), width);
  context.restore();
  for (let i = first; i < last; i++) drawLabel(context, page, rows[i], y(i));
  context.fillStyle = colours.line;
  context.fillRect(label - 1, 0, 1, height);
  if (!rows.length) {
    context.font = `13px ${FONT}`;
    context.fillStyle = colours.dim;
    context.fillText("Nothing here. Zoom out (−), or clear the search (Escape).", label + 16, 24);
  }
  return last - first;
}

// A faint line from a process down to each of its children, at the moment of the fork.
function drawForks(context, page, first, last, y) {
  const { nested, data, colours } = page;
  context.fillStyle = colours.dim;
  context.globalAlpha = 0.35;
  const places = page.places;
  const drawn = new Set();
  for (let i = first; i < last; i++) {
    const row = page.rows[i];
    const above = nested.above[row];
    if (above < 0 || places[above] < 0) continue;
    const x = Math.round(page.x(data.start[row]));
    if (x < page.label) continue;
    const from = y(places[above]) + ROW / 2 + BAR / 2;
    // Children of one moment share a line, of which the longest is drawn.
    const key = `${above} ${x} ${Math.floor(i / 64)}`;
    if (drawn.has(key) && i + 1 < last && data.start[row] === data.start[page.rows[i + 1]]) continue;
    drawn.add(key);
    context.fillRect(x, Math.max(-1, from), 1, y(i) + ROW / 2 - BAR / 2 - Math.max(-1, from));
  }
  context.globalAlpha = 1;
}

function drawBar(context, page, row, top, width) {
  const { data, nested, colours, label } = page;
  const isDim = page.found !== null && !page.found.own[row];
  const y = top + (ROW - BAR) / 2;
  const from = page.x(data.start[row]);
  const to = Math.max(from + 2, page.x(data.end[row]));
  const alpha = isDim ? 0.22 : 1;
  if (page.folded[row] && nested.size[row] > 1) {
    const [a, b] = [Math.max(label, page.x(nested.begin[row])), Math.min(width, page.x(nested.to[row]))];
    context.globalAlpha = alpha * 0.35;
    context.fillStyle = colours.dim;
    context.fillRect(a, y + BAR - 1, Math.max(2, b - a), 4);
  }
  let right = to;
  if (to >= label && from <= width) {
    for (let image = data.first[row]; image < data.first[row + 1]; image++) {
      const isLast = image === data.last(row);
      const a = Math.max(label - 2, image === data.first[row] ? from : page.x(data.raw.image_start[image]));
      const b = Math.min(width + 2, isLast ? to : page.x(data.raw.image_start[image + 1]));
      if (b < label || a > width) continue;
      if (b - a < 0.5 && !isLast) continue;
      const isDimmed = page.lit !== null && page.lit !== data.executable[image];
      // Before its first exec, a process runs the program of the one that forked it.
      context.globalAlpha = (isLast || image > data.first[row] ? 1 : 0.45) * (isDimmed ? 0.2 : 1) * alpha;
      context.fillStyle = page.colour(data.executable[image]);
      context.fillRect(a, y, Math.max(isLast ? 2 : 1, b - a), BAR);
      if (image > data.first[row] && b - a > 3) {
        context.globalAlpha = alpha;
        context.fillStyle = colours.back;
        context.fillRect(Math.round(a) - 1, y, 1, BAR);
      }
    }
    context.globalAlpha = alpha;
    if (data.isRunning(row) && to <= width + 2) {
      // An open end: it ran on.
      context.fillStyle = colours.dim;
      context.beginPath();
      context.moveTo(to + 1, y);
      context.lineTo(to + 6, y + BAR / 2);
      context.lineTo(to + 1, y + BAR);
      context.fill();
      right = to + 6;
    }
    if (data.raw.failed[row]) {
      context.fillStyle = colours.bad;
      context.fillRect(to - 1, y - 2, 3, BAR + 4);
      right = to + 3;
    }
    context.font = `11px ${FONT}`;
    const inside = Math.max(from, label) + 5;
    const room = Math.min(to, width) - inside - 3;
    context.fillStyle = isDim ? colours.dim : ON_BAR;
    const text = data.command(row);
    const isLit = page.lit === null || page.lit === data.executable[data.last(row)];
    if (room > 40 && isLit) fit(context, text, inside, y + BAR / 2 + 0.5, room);
    else if (right < width - 40) {
      let x = right + 5;
      if (data.raw.failed[row]) {
        context.fillStyle = colours.bad;
        x += fit(context, data.text(data.raw.ending[row]), x, y + BAR / 2 + 0.5, width - x) + 8;
      }
      context.fillStyle = colours.dim;
      context.globalAlpha = alpha * (isLit ? 1 : 0.4);
      fit(context, text, x, y + BAR / 2 + 0.5, Math.min(360, width - x - 6));
    }
    if (room > 40 && data.raw.failed[row] && right < width - 40) {
      context.fillStyle = colours.bad;
      fit(context, data.text(data.raw.ending[row]), right + 5, y + BAR / 2 + 0.5, width - right - 6);
    }
  } else {
    // Out of sight: an arrow says on which side.
    context.fillStyle = colours.dim;
    context.globalAlpha = alpha * 0.8;
    const isLeft = to < label;
    const x = isLeft ? label + 4 : width - 4;
    context.beginPath();
    context.moveTo(x, y + BAR / 2);
    context.lineTo(x + (isLeft ? 5 : -5), y + 3);
    context.lineTo(x + (isLeft ? 5 : -5), y + BAR - 3);
    context.fill();
  }
  context.globalAlpha = 1;
}

// Where the triangle of a row begins; deep rows do not leave the column.
function indentOf(page, row) {
  return 8 + Math.min(page.nested.depth[row] * INDENT, Math.max(0, page.label * 0.45));
}

function drawLabel(context, page, row, top) {
  const { data, nested, colours, label } = page;
  const middle = top + ROW / 2 + 0.5;
  let x = indentOf(page, row);
  const isMatch = page.found !== null && page.found.own[row];
  context.globalAlpha = page.found !== null && !isMatch ? 0.45 : 1;
  if (nested.size[row] > 1) {
    context.fillStyle = colours.dim;
    context.beginPath();
    if (page.folded[row]) {
      context.moveTo(x + 1, middle - 4.5);
      context.lineTo(x + 6.5, middle);
      context.lineTo(x + 1, middle + 4.5);
    } else {
      context.moveTo(x - 0.5, middle - 2.5);
      context.lineTo(x + 8.5, middle - 2.5);
      context.lineTo(x + 4, middle + 3);
    }
    context.fill();
  }
  x += 13;
  context.font = `11px ${FONT}`;
  const pid = String(data.raw.pid[row]);
  const right = label - 10 - context.measureText(pid).width;
  context.fillStyle = colours.dim;
  context.fillText(pid, right, middle);
  const room = right - x - 8;
  const note = page.folded[row] ? `+${WHOLE.format(nested.size[row] - 1)}` : "";
  context.font = `11px ${FONT}`;
  const noteSize = note ? context.measureText(note).width + 6 : 0;
  context.font = `${isMatch || row === page.selected ? "bold " : ""}12.5px ${FONT}`;
  context.fillStyle = data.raw.failed[row] ? colours.bad : colours.text;
  const size = fit(context, data.name(row), x, middle, room - noteSize);
  if (note) {
    context.font = `11px ${FONT}`;
    context.fillStyle = colours.dim;
    if (page.folded[row] && nested.isFailed[row]) context.fillStyle = colours.bad;
    fit(context, note, x + size + 6, middle, room - size);
  }
  context.globalAlpha = 1;
}
