// Draws one load: six rows, one for each place a connection can take; in them the connections, and in those the
// handshakes and files. Knows the numbers of a load and nothing of how they were had.

const LANE = 18, LANE_GAP = 5, TOP = 20, AXIS = 22, RIGHT = 6;
const MIN_LANES = 6;

// A load as the picture needs it, from the browser's timings and the server's list of requests.
// All times in milliseconds since the load began.
export function combine(entries, report, handshakeDelay, nFirst) {
  const seen = new Map(report.requests.map(r => [r.path, r]));
  const requests = entries.filter(e => seen.has(e.path)).map(e => {
    const {connection, nth} = seen.get(e.path);
    // On a new connection the wait is the real connecting, then the delay the server added to the first answer.
    const begin = nth === 1 && e.connectStart > 0 ? Math.min(e.connectStart, e.requestStart) : e.requestStart;
    const ready = nth === 1 ? Math.min(e.requestStart + handshakeDelay, e.end) : e.requestStart;
    return {path: e.path, connection, nth, begin, ready, end: e.end, start: e.start};
  });
  const parts = [requests.slice(0, nFirst), requests.slice(nFirst)].filter(part => part.length).map((part, n) => ({
    from: n === 0 ? 0 : Math.min(...part.map(r => r.start)),
    to: Math.max(...part.map(r => r.end)),
  }));
  const time = parts.reduce((sum, part) => sum + part.to - part.from, 0);
  const connections = [...Map.groupBy(requests, r => r.connection).entries()].map(([number, its]) => {
    its.sort((a, b) => a.begin - b.begin);
    return {number, requests: its, begin: its[0].begin, end: Math.max(...its.map(r => r.end))};
  });
  return {stats: report.stats, requests, connections, parts, time};
}

// Puts each connection into the first row that is free when it begins. A busy browser notes the end of a file late, when
// the next connection has already begun: such a moment does not make a new row.
const LATE = 40;
function lanes(connections) {
  const free = Array(MIN_LANES).fill(-Infinity);
  return connections.toSorted((a, b) => a.begin - b.begin).map(connection => {
    let lane = free.findIndex(end => end <= connection.begin);
    if (lane < 0) lane = free.indexOf(Math.min(...free));
    if (free[lane] > connection.begin + LATE) lane = free.length;
    free[lane] = connection.end;
    return {...connection, lane};
  });
}

function element(name, attributes, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, typeof value === 'number' ? Math.round(value * 100) / 100 : value);
  }
  made.append(...children);
  return made;
}

const seconds = ms => `${(ms / 1000).toFixed(2)} s`;

// A step of 1, 2 or 5 times a power of ten that gives no more than `most` marks.
function niceStep(range, most) {
  const power = 10 ** Math.floor(Math.log10(range / most));
  return [1, 2, 5, 10].map(n => n * power).find(step => range / step <= most);
}

// Draws `load` into `box`; `longest` (ms) is what the whole width stands for, so that two pictures can be compared. The
// pause takes its share of it as everything does.
export function draw(box, load, longest, pause, label) {
  const width = Math.max(box.clientWidth, 240);
  const hasPause = load.parts.length > 1;
  const perMs = (width - RIGHT) / longest;
  const [first, second] = load.parts;
  const x = t => t * perMs;
  const placed = lanes(load.connections);
  const nLanes = Math.max(MIN_LANES, ...placed.map(c => c.lane + 1));
  const bottom = TOP + nLanes * (LANE + LANE_GAP);
  const svg = element('svg', {viewBox: `0 0 ${width} ${bottom + AXIS}`, width, role: 'img', 'aria-label': label});

  for (let lane = 0; lane < nLanes; lane++) {
    svg.append(element('rect', {class: 'lane', x: 0, y: TOP + lane * (LANE + LANE_GAP), width, height: LANE, rx: 5}));
  }
  drawAxis(svg, longest, bottom, perMs);
  for (const connection of placed) svg.append(drawConnection(connection, x, box.id));
  if (hasPause) drawPause(svg, x(first.to), x(second.from), bottom, pause);

  const end = x(load.parts.at(-1).to);
  svg.append(element('line', {class: 'end', x1: end + 2, x2: end + 2, y1: 4, y2: bottom - LANE_GAP + 2}));
  const isTight = end > width - 60;
  svg.append(element('text', {class: 'end-label', x: isTight ? end - 4 : end + 7, y: 13, 'text-anchor': isTight ? 'end' : 'start'}, seconds(load.time)));
  box.replaceChildren(svg);
}

function drawAxis(svg, longest, bottom, perMs) {
  const step = niceStep(longest, 7);
  for (let t = 0; t <= longest; t += step) {
    const x = t * perMs;
    svg.append(element('line', {class: 'tick', x1: x, x2: x, y1: TOP - 2, y2: bottom}));
    const anchor = t === 0 ? 'start' : 'middle';
    svg.append(element('text', {x, y: bottom + 14, 'text-anchor': anchor}, t === 0 ? '0' : `${+(t / 1000).toFixed(2)} s`));
  }
}

function drawConnection({number, requests, begin, end, lane}, x, id) {
  const y = TOP + lane * (LANE + LANE_GAP);
  const shape = {x: x(begin), y, width: Math.max(x(end) - x(begin) - 1, 3), height: LANE, rx: 5};
  const clip = `${id}-${number}`;
  const group = element('g', {'clip-path': `url(#${clip})`}, element('rect', {class: 'pill', ...shape}));
  for (const r of requests) {
    const [from, ready, to] = [x(r.begin), x(r.ready), x(r.end)];
    if (r.nth === 1) group.append(element('rect', {class: 'handshake', x: from, y, width: ready - from, height: LANE}));
    group.append(element('rect', {class: 'file', x: ready, y, width: Math.max(to - ready - 1, 1), height: LANE},
      element('title', {}, `${r.path}: connection ${number}, its request ${r.nth}, ${seconds(r.end - r.begin)}`)));
  }
  return element('g', {}, element('clipPath', {id: clip}, element('rect', shape)), group);
}

// Above everything: the connections are open all the while, or were closed by the timeout.
function drawPause(svg, from, to, bottom, pause) {
  const height = bottom - LANE_GAP + 2 - (TOP - 4);
  svg.append(element('rect', {class: 'pause', x: from, y: TOP - 4, width: Math.max(to - from, 1), height}));
  for (const edge of [from, to]) {
    svg.append(element('line', {class: 'pause-edge', x1: edge, x2: edge, y1: TOP - 4, y2: bottom - LANE_GAP + 2}));
  }
  if (to - from < 14) return;
  const [x, y] = [(from + to) / 2, (TOP + bottom - LANE_GAP) / 2];
  const isNarrow = to - from < 64;
  const at = isNarrow ? {x: x + 4, y, transform: `rotate(-90 ${x + 4} ${y})`} : {x, y: y + 4};
  svg.append(element('text', {class: 'pause-label', ...at, 'text-anchor': 'middle'}, `${pause} s pause`));
}
