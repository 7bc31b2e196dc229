// The visitor's page: reads the settings, runs the loads one after the other (together they would share the browser's
// limits and the processor), and shows what came of them. The pictures are drawn in chart.js.

import {combine, draw} from './chart.js';

const PATIENCE = 60_000;
const NAMES = {on: 'Keep-alive on', off: 'Keep-alive off'};
const STORIES = {
  on: 'A connection stays open and serves the next file too.',
  off: 'Every file gets its own connection, which is closed right after.',
};

const byId = id => document.getElementById(id);
const form = byId('settings');
const sides = Object.fromEntries(['on', 'off'].map(mode => [mode, makeSide(mode)]));
const shown = {};

function makeSide(mode) {
  const side = byId('side').content.cloneNode(true).firstElementChild;
  side.id = mode;
  side.setAttribute('aria-label', NAMES[mode]);
  side.querySelector('.name').textContent = NAMES[mode];
  side.querySelector('.story').textContent = STORIES[mode];
  side.querySelector('.chart').id = `chart-${mode}`;
  side.querySelector('iframe').title = `The page, loaded with ${NAMES[mode].toLowerCase()}`;
  byId('sides').append(side);
  return side;
}

function settings() {
  const given = new FormData(form);
  const number = name => Number(given.get(name));
  return {
    modes: given.get('mode') === 'both' ? ['on', 'off'] : [given.get('mode')],
    pause: number('pause'),
    policy: {
      keep_alive_timeout: number('keep_alive_timeout'),
      max_keep_alive_requests: number('max_keep_alive_requests'),
      handshake: number('handshake') / 1000,
      answer: number('answer') / 1000,
    },
  };
}

async function ask(path, body) {
  const response = await fetch(path, body && {method: 'POST', body: JSON.stringify(body)});
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// One load: a server of its own, the page in the frame, the reader's click, then the server's counters. onFirst: told what
// there is before the click.
async function load(mode, {policy, pause}, onFirst) {
  const side = sides[mode], frame = side.querySelector('iframe'), progress = side.querySelector('.progress');
  const {load: number, port, n_first: nFirst} = await ask('api/loads', {...policy, keep_alive: mode === 'on'});
  const origin = `http://${location.hostname}:${port}`;
  const heard = listen(frame, origin, n => { progress.textContent = `${n} pictures`; });
  progress.textContent = 'connecting';
  frame.src = `${origin}/`;
  let {entries, failed} = await heard('first');
  const result = async () => ({...combine(entries, await ask(`api/loads/${number}`), policy.handshake * 1000, nFirst), pause, policy});
  if (pause > 0) {
    onFirst(await result()); // the numbers so far: nobody waits for the reader to see them
    progress.textContent = 'the reader reads';
    await new Promise(resolve => setTimeout(resolve, pause * 1000));
    frame.contentWindow.postMessage('click', origin);
    ({entries, failed} = await heard('second'));
  }
  progress.textContent = '';
  if (failed) throw new Error(`${failed} pictures could not be loaded`);
  const whole = await result();
  side.dataset.load = number;
  return whole;
}

// What the measured page in `frame` tells: the returned function waits for its message of one kind.
function listen(frame, origin, onProgress) {
  return kind => new Promise((resolve, reject) => {
    const settle = (done, value) => { clearTimeout(timer); removeEventListener('message', hear); done(value); };
    const hear = ({source, origin: from, data}) => {
      if (source !== frame.contentWindow || from !== origin) return;
      if (data.kind === 'progress') onProgress(data.loaded);
      if (data.kind === kind) settle(resolve, data);
    };
    const timer = setTimeout(() => settle(reject, new Error('the page did not finish loading')), PATIENCE);
    addEventListener('message', hear);
  });
}

// Not `disabled`: that would take the focus away from whoever pressed the button by keyboard.
function waitForIt(isRunning) {
  for (const button of document.querySelectorAll('button')) button.setAttribute('aria-disabled', isRunning);
}

async function run() {
  const chosen = settings();
  document.body.dataset.state = 'running';
  waitForIt(true);
  byId('stale').hidden = byId('trouble').hidden = true;
  byId('verdict').textContent = 'Loading the same page of small files, now, in this browser …';
  // What is not loaded now may have been loaded with other settings: it stays, but dimmed.
  for (const side of Object.values(sides)) side.classList.add('waiting');
  try {
    for (const mode of chosen.modes) {
      const put = it => {
        shown[mode] = it;
        sides[mode].classList.remove('waiting');
        show();
      };
      put(await load(mode, chosen, put));
    }
    byId('verdict').replaceChildren(...verdict(chosen.modes));
    document.body.dataset.state = 'done';
  } catch (error) {
    byId('trouble').textContent = `The load failed: ${error.message}.`;
    byId('trouble').hidden = false;
    document.body.dataset.state = 'failed';
  }
  waitForIt(false);
}

const seconds = ms => `${(ms / 1000).toFixed(2)} s`;

function show() {
  const loads = Object.entries(shown);
  const most = key => Math.max(...loads.map(([, it]) => key(it)));
  const longest = most(it => it.time), mostAccepted = most(it => it.stats.accepted);
  const perConnection = it => it.stats.requests / it.stats.accepted, mostFiles = most(perConnection);
  const span = most(it => it.parts.at(-1).to); // with the pause, which is drawn as long as it was
  for (const [mode, it] of loads) {
    const {accepted, requests, reused} = it.stats;
    // One accepted connection is one handshake.
    const files = perConnection(it).toFixed(requests % accepted ? 1 : 0);
    const values = {time: seconds(it.time), connections: accepted, files, requests, reused};
    for (const [name, value] of Object.entries(values)) {
      sides[mode].querySelector(`[data-metric=${name}]`).textContent = value;
    }
    const shares = [it.time / longest, accepted / mostAccepted, perConnection(it) / mostFiles];
    sides[mode].querySelectorAll('.bar i').forEach((bar, n) => { bar.style.width = `${100 * shares[n]}%`; });
    sides[mode].querySelector('.story').textContent = story(mode, it);
    const label = `${NAMES[mode]}: ${requests} files over ${accepted} connections in ${seconds(it.time)}`;
    draw(sides[mode].querySelector('.chart'), it, span, it.pause, label);
  }
  byId('tables').replaceChildren(...loads.map(([mode, it]) => table(NAMES[mode], it)));
}

// What the policy did to this load, in a sentence.
function story(mode, {stats, policy, parts, connections}) {
  if (mode === 'off') return STORIES.off;
  const limit = policy.max_keep_alive_requests;
  if (limit > 0) return `A connection is closed after ${limit === 1 ? 'one file' : `${limit} files`}: ${stats.accepted} were needed.`;
  const late = parts.length > 1 ? connections.filter(c => c.begin >= parts[1].from).length : 0;
  if (late > 0) return `The pause outlasted the timeout: ${late} connections had to be opened again.`;
  return STORIES.on;
}

function bold(text) {
  const made = document.createElement('b');
  made.textContent = text;
  return made;
}

function verdict(modes) {
  const {on, off} = shown;
  if (modes.length === 1) {
    const [mode] = modes, it = shown[mode];
    return [`${NAMES[mode]}: ${it.stats.requests} files over `, bold(`${it.stats.accepted} connections`), ` in ${seconds(it.time)}.`];
  }
  const ratio = off.time / on.time;
  const counts = `${on.stats.accepted} handshakes instead of ${off.stats.accepted}`;
  const made = artificial(on.policy);
  if (ratio >= 1.1) return ['With keep-alive the same page loads ', bold(`${ratio.toFixed(1)} times as fast`), ` ${made}: ${counts}.`];
  return [`With these settings keep-alive saves little time, ${made}: ${counts}.`];
}

// The factor depends on the distance, which the demo makes: both are said in one breath.
function artificial({handshake, answer}) {
  const ms = value => `${Math.round(value * 1000)} ms`;
  const parts = [[handshake, 'each handshake'], [answer, 'each file']].filter(([value]) => value > 0);
  if (!parts.length) return 'without artificial delay';
  return `at an artificial distance of ${parts.map(([value, what]) => `${ms(value)} for ${what}`).join(' and ')}`;
}

function table(name, {connections}) {
  const made = document.createElement('table');
  made.createCaption().textContent = `${name}: its connections`;
  const head = made.createTHead().insertRow();
  for (const title of ['connection', 'files', 'first asked', 'last received']) {
    const cell = document.createElement('th');
    cell.scope = 'col';
    cell.textContent = title;
    head.append(cell);
  }
  const body = made.createTBody();
  for (const {number, requests, begin, end} of connections.toSorted((a, b) => a.number - b.number)) {
    const row = body.insertRow();
    for (const value of [number, requests.length, seconds(begin), seconds(end)]) row.insertCell().textContent = value;
  }
  return made;
}

const UNITS = {
  seconds: (value, name) => (name === 'pause' && value === 0 ? 'never' : `${value} s`),
  milliseconds: value => `${value} ms`,
  limit: value => (value === 0 ? 'no limit' : `at most ${value}`),
};

// Settings may stand in the address, as in /?handshake=200&mode=on.
function readAddress() {
  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = form.elements[name];
    if (field) field.value = value;
  }
}

function label() {
  for (const input of form.querySelectorAll('input[type=range]')) {
    const text = UNITS[input.dataset.unit](input.valueAsNumber, input.name);
    input.parentElement.querySelector('output').textContent = text;
    input.setAttribute('aria-valuetext', text);
  }
}

form.addEventListener('input', () => {
  label();
  byId('stale').hidden = document.body.dataset.state === 'running';
});
form.addEventListener('submit', event => {
  event.preventDefault();
  if (document.body.dataset.state === 'running') return;
  byId('sides').scrollIntoView({block: 'nearest', behavior: 'smooth'});
  run();
});
addEventListener('resize', () => { if (Object.keys(shown).length) show(); });
readAddress();
label();
run();
