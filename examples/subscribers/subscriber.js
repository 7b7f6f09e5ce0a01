// Print all events of a Procline instance as JSON, one a line, and what is missing. docs/wire-schema.md explains it.
//     npm install zeromq@6 @msgpack/msgpack@3 && node subscriber.js [ENDPOINT]
const { randomBytes } = require("node:crypto");
const { decode, decodeMulti, DecodeError } = require("@msgpack/msgpack");
const zeromq = require("zeromq");

const TOPICS = "proc.fork proc.exec proc.exit proc.cred proc.context proc.reparent sys.loss sys.stats".split(" ");
const ALL = (1 << TOPICS.length) - 1;
const OPTIONS = { useBigInt64: true }; // what is sent in 64 bits becomes a BigInt, what is shorter a number

let stream, writer, group, step, unwatchedNs;
let last = []; // by topic, the number of the last event
let lines = []; // [order, JSON] of a group that is not complete
let seen = new Set(); // kind, process and time of the events in this step
let former = new Set(); // the same of the last step of a former writer, which may be repeated

function json(value) { // ASCII only, which is safe on a terminal
  if (typeof value === "bigint") return `${value}`;
  if (value instanceof Uint8Array) value = Buffer.from(value).toString("latin1"); // text that is not UTF-8
  if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
  if (value !== null && typeof value === "object")
    return `{${Object.entries(value).map(([key, item]) => `${json(key)}: ${json(item)}`).join(", ")}}`;
  return JSON.stringify(value).replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function flushGroup() {
  for (const [, text] of lines.sort(([a], [b]) => (a < b ? -1 : 1))) console.log(text);
  lines = [];
}

function addEvent(event) {
  const id = json([event.event, event.entity_id ?? null, event.time_ns]);
  seen.add(id); // also a repeat: the next writer may repeat it again
  if (former.delete(id)) return;
  lines.push([event.order, json(event)]);
}

function begin(header) { // at the welcome, and in a new stream, whose numbers begin again
  last = TOPICS.map((_, number) => header.seqs && BigInt(header.seqs[number]));
  [stream, writer, seen, former] = [header.stream, header.writer, new Set(), new Set()];
}

function newPeriods(header) { // known by their lengths, which stay the same if the clock is set
  const lengths = (header.unwatched ?? []).map(([from, to]) => to - from);
  const known = lengths.lastIndexOf(unwatchedNs) + 1;
  unwatchedNs = lengths.at(-1) ?? unwatchedNs;
  return (header.unwatched ?? []).slice(known);
}

function take(number, header, body) {
  if (header.group !== group || header.writer !== writer) flushGroup();
  group = header.group;
  if (header.stream !== stream) {
    console.log(json({ event: "missed", topic: null, reason: "restart" }));
    begin(header);
  } else if (header.writer !== writer) // it may repeat what the former one did not commit
    [writer, former, seen] = [header.writer, seen, new Set()];
  for (const period of newPeriods(header)) console.log(json({ event: "unwatched", period }));
  const first = BigInt(header.first);
  const next = (last[number] ?? first - 1n) + 1n;
  if (first > next) console.log(json({ event: "missed", topic: TOPICS[number], first: next, last: first - 1n }));
  let [seq, end] = [first, first + BigInt(header.count) - 1n];
  last[number] = end >= next ? end : next - 1n;
  if (header.count && header.step !== step) [step, seen] = [header.step, new Set()];
  try {
    for (const event of decodeMulti(body, OPTIONS)) { addEvent(event); seq++; } // the body is `count` objects
  } catch (error) { // this decoder refuses the key `__proto__`, which a label of a container can have
    if (!(error instanceof DecodeError)) throw error;
    console.log(json({ event: "missed", topic: TOPICS[number], first: seq, last: end }));
  }
  if ((header.rest & ALL) === 0) flushGroup();
}

async function main(endpoint) {
  const socket = new zeromq.Subscriber({ receiveTimeout: 5000, receiveHighWaterMark: 8192, linger: 0 });
  const word = `sys.welcome.${randomBytes(8).toString("hex")}`;
  socket.connect(endpoint);
  socket.subscribe(...TOPICS, word);
  for (let isJoined = false; ; ) {
    try {
      const [topic, packed, body] = await socket.receive();
      const header = decode(packed, OPTIONS);
      if (header.major !== 1) throw new Error(`the stream has version ${header.major}, but this program reads 1`);
      const number = TOPICS.indexOf(topic.toString());
      if (isJoined && number >= 0) take(number, header, body);
      if (isJoined || topic.toString() !== word) continue; // the welcome's numbers cover earlier events
      isJoined = true;
      begin(header);
      newPeriods(header);
      socket.unsubscribe(word);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error; // no heartbeat either: the daemon or the right to read is missing
      console.error(`subscriber: nothing arrives from ${endpoint}`);
      if (!isJoined) { socket.unsubscribe(word); socket.subscribe(word); }
    }
  }
}

main(process.argv[2] ?? "ipc:///run/procline/default/stream/stream.ipc");
