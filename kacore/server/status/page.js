'use strict';
// Each event has the parts of the page that are new, made by the server. They are grown into what is there, so that a
// selection, the focus and a scrolled table stay.
const live = document.getElementById('live');
let source, heard;

function grow(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const was = [...old.childNodes], is = [...fresh.childNodes];
  is.forEach((node, k) => k < was.length ? grow(was[k], node) : old.append(node));
  was.slice(is.length).forEach(node => node.remove());
}

function say(text, isLive) {
  if (live.textContent !== text) live.textContent = text;
  live.className = isLive ? 'on' : 'off';
}

function open() {
  source?.close();
  heard = Date.now();
  source = new EventSource('events?page');
  source.onmessage = event => {
    heard = Date.now();
    for (const [name, html] of Object.entries(JSON.parse(event.data))) {
      const old = document.getElementById(name);
      if (!old) return location.reload(); // another version serves now
      const fresh = old.cloneNode(false);
      fresh.innerHTML = html;
      grow(old, fresh);
    }
    say('live', true);
  };
  source.onerror = () => say('reconnecting', false);
}

open();
// A browser gives up for good after some answers, and does not notice when the machine has slept.
setInterval(() => {
  const isSilent = Date.now() - heard > 5000;
  if (isSilent) say('reconnecting', false);
  if (isSilent || source.readyState === EventSource.CLOSED) open();
}, 2000);
