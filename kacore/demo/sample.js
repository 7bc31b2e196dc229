// The page that is measured: adds its pictures, and tells the page around it what the browser measured.

const main = document.querySelector('main');
const {columns, first, all} = Object.fromEntries(Object.entries(main.dataset).map(([k, v]) => [k, Number(v)]));
let loaded = 0, failed = 0;

// These timings are no secret, so any page around may read them.
const tell = (kind, more) => parent.postMessage({kind, ...more}, '*');

// Called by the row scripts, and by the click.
function add(name, kind, column) {
  const picture = new Image();
  picture.alt = '';
  picture.className = kind;
  picture.style.gridColumn = column + 1;
  const settled = new Promise(resolve => {
    picture.onload = () => { loaded++; tell('progress', {loaded}); resolve(); };
    picture.onerror = () => { failed++; resolve(); };
  });
  picture.src = name;
  main.append(picture);
  return settled;
}

function timings() {
  const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  return entries.map(({name, startTime, connectStart, requestStart, responseEnd}) =>
    ({path: new URL(name).pathname, start: startTime, connectStart, requestStart, end: responseEnd}));
}

// The browser files a timing shortly after the load event of its picture: wait for all, but not for ever.
async function measured(expected) {
  for (let turn = 0; turn < 100 && timings().length < expected; turn++) {
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  return {entries: timings(), failed};
}

addEventListener('load', async () => tell('first', await measured(first)));
addEventListener('message', async event => {
  if (event.source !== parent || event.data !== 'click') return;
  await Promise.all(Array.from({length: columns}, (_, column) => add(`night-${column}.svg`, 'night', column)));
  tell('second', await measured(all));
});
