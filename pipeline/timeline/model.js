// The processes of the page: decoding, nesting, search and text. Knows no DOM and no drawing.

// Return the columns as arrays by process; times are µs after the begin of the timeline.
function decode(raw) {
  const count = raw.pid.length;
  const first = new Uint32Array(count + 1);
  for (let row = 0; row < count; row++) first[row + 1] = first[row] + raw.images[row];
  const end = new Float64Array(count);
  for (let row = 0; row < count; row++) {
    // A process that runs has no end: its bar continues to the end of the timeline.
    end[row] = raw.end[row] === null ? Math.max(raw.duration, raw.start[row]) : Math.max(raw.end[row], raw.start[row]);
  }
  const base = (path) => path.slice(path.lastIndexOf("/") + 1) || path;
  const text = (number) => (number < 0 ? "" : raw.strings[number]);
  const data = {
    raw, count, first, end, text,
    start: Float64Array.from(raw.start),
    // Each image's executable by its last part, as the legend names it.
    executable: raw.image_path.map((path, image) => base(text(path)) || text(raw.image_name[image])),
    isRunning: (row) => raw.end[row] === null,
    last: (row) => first[row + 1] - 1,
  };
  data.name = (row) => text(raw.image_name[data.last(row)]);
  data.command = (row) => text(raw.image_command[data.last(row)]);
  data.from = 0;
  data.to = Math.max(raw.duration, 1);
  // What began before the timeline is cut: old processes would leave a few pixels to the others.
  data.min = data.from;
  data.max = data.to;
  return data;
}

// Reduce a long array in pieces, because a call has a limited number of arguments.
function chunks(values, reduce) {
  const found = [];
  for (let at = 0; at < values.length; at += 8192) found.push(reduce(...values.subarray(at, at + 8192)));
  return found;
}

// Return the processes in the order of rows: depth first, siblings by their start. `by` is "creator" or "parent".
function nest(data, by) {
  const { count, start } = data;
  const above = Int32Array.from(data.raw[by]);
  if (by === "creator") {
    // A creator that is not here is mostly older than what is retained. The parent is the best that is known then.
    for (let row = 0; row < count; row++) {
      if (above[row] < 0 && !reaches(above, data.raw.parent[row], row)) above[row] = data.raw.parent[row];
    }
  }
  const head = new Int32Array(count + 1).fill(-1);
  const next = new Int32Array(count).fill(-1);
  // Rows are sorted by their start already. Backwards, so that each list begins with the oldest.
  for (let row = count - 1; row >= 0; row--) {
    const list = above[row] < 0 ? count : above[row];
    next[row] = head[list];
    head[list] = row;
  }
  const order = new Int32Array(count);
  const place = new Int32Array(count);
  const depth = new Int32Array(count);
  const stack = [];
  for (let row = head[count]; row >= 0; row = next[row]) stack.push(row);
  stack.reverse();
  let at = 0;
  while (stack.length) {
    const row = stack.pop();
    depth[row] = above[row] < 0 ? 0 : depth[above[row]] + 1;
    place[row] = at;
    order[at++] = row;
    const children = [];
    for (let child = head[row]; child >= 0; child = next[child]) children.push(child);
    while (children.length) stack.push(children.pop());
  }
  const size = new Int32Array(count).fill(1);
  const from = Float64Array.from(start);
  const to = Float64Array.from(data.end);
  const begin = new Float64Array(count).fill(Infinity); // of the earliest descendant
  const isFailed = Uint8Array.from(data.raw.failed);
  for (let i = at - 1; i >= 0; i--) {
    const row = order[i];
    const parent = above[row];
    if (parent < 0) continue;
    size[parent] += size[row];
    begin[parent] = Math.min(begin[parent], from[row]);
    from[parent] = Math.min(from[parent], from[row]);
    to[parent] = Math.max(to[parent], to[row]);
    isFailed[parent] |= isFailed[row];
  }
  return { above, order, place, depth, size, from, to, begin, isFailed, count: at };
}

// Whether the chain of `above` that begins at `row` contains `wanted`.
function reaches(above, row, wanted) {
  for (let steps = 0; row >= 0 && steps < above.length; steps++) {
    if (row === wanted) return true;
    row = above[row];
  }
  return row >= 0;
}

// Return the rows that are shown, in order. `only`: if given, rows without a match in their subtree are left out.
function shownRows(nested, folded, view, isTight, only) {
  const rows = [];
  for (let i = 0; i < nested.count; i++) {
    const row = nested.order[i];
    if ((isTight && (nested.from[row] > view.to || nested.to[row] < view.from)) || (only && !only[row])) {
      i += nested.size[row] - 1;
      continue;
    }
    rows.push(row);
    if (folded[row]) i += nested.size[row] - 1;
  }
  return rows;
}

// Return which processes match a search: 1 in `own`; in `within` also those with such a descendant. Null: no search.
// All words must occur in the pid, program, path, command line, user, unit, container or end of the process.
function search(data, nested, query, lowered) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const { raw, count, first } = data;
  const own = new Uint8Array(count).fill(1);
  for (const word of words) {
    const has = lowered.map((text) => text.includes(word));
    const found = (number) => number >= 0 && has[number];
    for (let row = 0; row < count; row++) {
      if (!own[row]) continue;
      let is = String(raw.pid[row]) === word || found(raw.user[row]) || found(raw.unit[row]) ||
        found(raw.container[row]) || found(raw.ending[row]) || (word === "failed" && raw.failed[row] === 1);
      for (let image = first[row]; !is && image < first[row + 1]; image++) {
        is = found(raw.image_name[image]) || found(raw.image_path[image]) || found(raw.image_command[image]);
      }
      own[row] = is ? 1 : 0;
    }
  }
  const within = Uint8Array.from(own);
  for (let i = nested.count - 1; i >= 0; i--) {
    const row = nested.order[i];
    if (within[row] && nested.above[row] >= 0) within[nested.above[row]] = 1;
  }
  const rows = Array.from(nested.order.subarray(0, nested.count)).filter((row) => own[row]);
  return { own, within, rows };
}

// Return executables by the number of processes that ran them, most frequent first: [name, count].
function executables(data) {
  const counts = new Map();
  for (let row = 0; row < data.count; row++) {
    const seen = new Set(data.executable.slice(data.first[row] + (data.raw.images[row] > 1 ? 1 : 0), data.first[row + 1]));
    for (const name of seen) counts.set(name, (counts.get(name) || 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

// Return how many processes ran in each of `bins` equal parts of the timeline, without those that always ran.
function density(data, bins) {
  const change = new Float64Array(bins + 1);
  const scale = bins / (data.max - data.min);
  for (let row = 0; row < data.count; row++) {
    if (data.start[row] <= data.min && data.end[row] >= data.max) continue;
    const from = Math.min(bins - 1, Math.max(0, Math.floor((data.start[row] - data.min) * scale)));
    change[from] += 1;
    change[Math.min(bins, Math.max(from + 1, Math.ceil((data.end[row] - data.min) * scale)))] -= 1;
  }
  for (let i = 1; i <= bins; i++) change[i] += change[i - 1];
  return change.subarray(0, bins);
}

// -- text ------------------------------------------------------------------------------------------------------------

const DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const WHOLE = new Intl.NumberFormat("en");

function duration(us) {
  const seconds = Math.floor(us / 1e6);
  for (const [unit, size, smaller, part] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ${Math.floor((seconds % size) / part)} ${smaller}`;
  }
  if (us >= 999500) return `${DIGITS.format(us / 1e6)} s`;
  if (us >= 1000) return `${DIGITS.format(us / 1e3)} ms`;
  return `${DIGITS.format(us)} µs`;
}

function bytes(number) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (number >= size) return `${DIGITS.format(number / size)} ${unit}`;
  }
  return `${WHOLE.format(number)} B`;
}

function countOf(number, one, many) {
  return `${WHOLE.format(number)} ${number === 1 ? one : many}`;
}

// Return the time of day in UTC, with as many decimals as a step in µs needs.
function clock(data, us, step) {
  const at = new Date(Number(data.raw.from_ns) / 1e6 + us / 1e3);
  if (Number.isNaN(at.getTime())) return "?";
  const text = at.toISOString().slice(11, 19);
  if (step >= 1e6) return text;
  const digits = step >= 1e5 ? 1 : step >= 1e4 ? 2 : step >= 1e3 ? 3 : 6;
  // A Date counts whole milliseconds, so the rest comes from the number itself.
  const within = ((Number(BigInt(data.raw.from_ns) / 1000n % 1000000n) + us) % 1e6 + 1e6) % 1e6;
  return `${text}.${String(Math.floor(within)).padStart(6, "0").slice(0, digits)}`;
}

function day(data, us) {
  return new Date(Number(data.raw.from_ns) / 1e6 + us / 1e3).toISOString().slice(0, 10);
}

// Return a time after the begin, as an axis shows it: all labels of an axis have the same unit.
function elapsed(us, step) {
  const [unit, size] = step >= 6e7 ? ["min", 6e7] : step >= 1e5 ? ["s", 1e6] : step >= 100 ? ["ms", 1e3] : ["µs", 1];
  const decimals = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
  const text = (us / size).toFixed(decimals);
  return `${Number(text) === 0 ? "0" : text} ${unit}`;
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 3e7,
  6e7, 12e7, 3e8, 6e8, 18e8, 36e8, 72e8, 216e8, 432e8, 864e8];

// Return the smallest step of the axis that is at least `us`.
function stepOf(us) {
  return STEPS.find((step) => step >= us) || Math.ceil(us / 864e8) * 864e8;
}

// Return the details of a process: [label, text] pairs, in which text is shown as it is.
function details(data, row, by) {
  const { raw, text } = data;
  const lines = [];
  const add = (label, value) => { if (value !== "") lines.push([label, value]); };
  const time = (us) => `${clock(data, us, 1)} UTC (${us < 0 ? "−" : "+"}${duration(Math.abs(us))})`;
  add("command", data.command(row));
  add("runs", text(raw.image_path[data.last(row)]));
  const above = raw[by][row];
  add(by === "creator" ? "started by" : "parent", above < 0 ? "" : `${data.name(above)} ${raw.pid[above]}`);
  add("user", text(raw.user[row]));
  add("unit", text(raw.unit[row]));
  add("container", text(raw.container[row]));
  add("start", `${day(data, data.start[row])} ${time(data.start[row])}`);
  if (data.isRunning(row)) {
    add("end", `runs, for ${duration(data.end[row] - data.start[row])} by then`);
  } else {
    add("end", `${time(data.end[row])}, after ${duration(data.end[row] - data.start[row])}`);
    add("exit", text(raw.ending[row]) || "not known");
  }
  const cost = (name) => (raw[name] === undefined ? null : raw[name][row]);
  if (cost("cpu_user_ns") !== null || cost("cpu_system_ns") !== null) {
    const [user, system] = [cost("cpu_user_ns") || 0, cost("cpu_system_ns") || 0];
    add("CPU", `${duration((user + system) / 1e3)}: ${duration(user / 1e3)} user, ${duration(system / 1e3)} system`);
  }
  if (cost("max_rss_bytes") !== null) add("memory", `${bytes(cost("max_rss_bytes"))} at most`);
  if (cost("minor_faults") !== null || cost("major_faults") !== null) {
    add("faults", `${WHOLE.format(cost("minor_faults") || 0)} minor, ${WHOLE.format(cost("major_faults") || 0)} major`);
  }
  if (cost("voluntary_switches") !== null) {
    const forced = WHOLE.format(cost("involuntary_switches") || 0);
    add("switches", `${WHOLE.format(cost("voluntary_switches"))} voluntary, ${forced} involuntary`);
  }
  if (cost("read_bytes") !== null || cost("write_bytes") !== null) {
    add("disk", `${bytes(cost("read_bytes") || 0)} read, ${bytes(cost("write_bytes") || 0)} written`);
  }
  if (raw.images[row] > 1) {
    for (let image = data.first[row]; image < data.first[row + 1]; image++) {
      const at = raw.image_start[image];
      const begin = image === data.first[row] ? "fork of" : "exec of";
      const after = image === data.first[row] ? "" : ` after ${duration(at - data.start[row])}`;
      add(image === data.first[row] ? "images" : " ", `${begin} ${text(raw.image_path[image]) || text(raw.image_name[image])}${after}`);
      if (image === data.first[row] && raw.images_left[row]) add(" ", countOf(raw.images_left[row], "image", "images") + " not shown");
    }
  }
  add("note", text(raw.notes[row]));
  return lines;
}
