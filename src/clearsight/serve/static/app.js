// The page: what its address says is what it shows.

import * as api from './api.js';
import { Answers } from './answers.js';
import { find, findAll, plural } from './dom.js';
import { Form } from './form.js';
import { ItemView } from './item.js';
import { MapView } from './map.js';
import { faulty } from './notices.js';
import { take } from './pictures.js';
import { Results, titleOf } from './results.js';
import { IndexView } from './standing.js';
import { asks, question, read, VIEWS, write } from './state.js';
import { themes } from './themes.js';

const LATER = 3000; // milliseconds until a server that is not ready is asked again

const app = {
  state: read(),
  info: null,
  answers: null,
  named: null,
  lit: null,

  /** Shows another state: `change` laid over this one. */
  go(change, { replace = false, depth = 0 } = {}) {
    const next = { ...app.state, ...change };
    const address = write(next);
    if (address === write(app.state) && !replace) { refresh(); return; }
    history.replaceState({ ...history.state, y: scrollY }, '');
    const same = question(next) === question(app.state) && next.view === app.state.view;
    if (replace) history.replaceState({ ...history.state, depth }, '', address);
    else history.pushState({ depth }, '', address);
    app.state = next;
    refresh(same ? null : 0);
  },

  /** Opens an item, or goes from one to the next; `leave` goes back to where the first was opened. */
  open(id) { app.go({ item: id }, { depth: (history.state?.depth ?? 0) + 1 }); },
  step(id) { app.go({ item: id }, { replace: true, depth: history.state?.depth ?? 0 }); },
  leave() {
    const depth = history.state?.depth ?? 0;
    app.back = app.state.item;
    if (depth > 0) history.go(-depth);
    else app.go({ item: '' }, { replace: true });
  },

  /** The list on the page that holds an item, or none. */
  listed(id) {
    const lists = asks(app.state) ? app.answers.known(app.state)?.lists.map((list) => list.hits) ?? [] : [views.results.sampled ?? []];
    return lists.find((hits) => hits.some((hit) => hit.id === id)) ?? [];
  },
  ranked() { return asks(app.state); },

  async like(id, space, top) {
    const body = { like: id, space, top };
    const key = JSON.stringify([id, space]);
    if (!app.alike.has(key)) app.alike.set(key, await api.search(body));
    return app.alike.get(key);
  },
  alike: new Map(),

  /** Puts a fault of the filter beside the filter; false for any other. */
  blame(fault) { return form.blame(fault); },
  /** Takes notice that the index has changed since the page was opened. */
  async renew() {
    app.info = await api.info();
    app.alike.clear();
    views.map.forget();
    tell();
  },

  retry() { if (app.info) { app.answers.forget(); refresh(); } else begin(); },
  later(act) { clearTimeout(app.timer); app.timer = setTimeout(act, LATER); },
  async enter(token) {
    await api.open(token);
    await begin();
  },

  /** Searches with a file that was chosen, dropped or pasted. */
  async give(file) {
    if (!app.info) return;
    if (!app.info.offers.image) { form.warn('The model of this index reads no pictures in a search. Use words.'); return; }
    const picture = await take(file, app.info.limits);
    if (!picture) { form.warn(`${file.name || 'This'} is no picture. Use a PNG, JPEG, WebP or GIF file.`); return; }
    const q = app.info.offers.both ? form.words() : '';
    app.go({ q, image: picture.key, like: '', item: '', view: app.state.view === 'index' ? 'search' : app.state.view });
    if (picture.reduced) form.warn('The picture is larger than the server takes, and was made smaller.');
  },
};

const form = new Form(find('#form'), app);
const views = { results: new Results(find('#view-search'), app), map: new MapView(find('#view-map'), app), index: new IndexView(find('#view-index'), app) };
const item = new ItemView(find('#item'), app);
let running = new AbortController();

/** Brings the page in line with its state; `y`: where to scroll to, null for nowhere. */
async function refresh(y = null) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const { state } = app;
  clearTimeout(app.timer);
  for (const view of VIEWS) find(`#view-${view}`).hidden = view !== state.view;
  for (const link of findAll('nav a')) {
    const view = link.dataset.view;
    link.href = write({ ...state, view, item: '' });
    if (view === state.view) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  try { await form.show(signal); } catch (fault) { if (fault.name !== 'AbortError') throw fault; }
  if (signal.aborted || !app.info) return;
  if (y === 0) scrollTo(0, 0);
  document.title = [asks(state) && state.view !== 'index' ? titleOf(app) : { search: '', map: 'Map', index: 'Index' }[state.view], 'Clearsight'].filter(Boolean).join(' – ');
  try {
    const view = { search: views.results, map: views.map, index: views.index }[state.view];
    if (state.item && !app.answers.known(state)) await view.show(signal);
    else { const shown = view.show(signal); await item.show(); await shown; }
    if (signal.aborted) return;
    await item.show();
    if (y) requestAnimationFrame(() => scrollTo(0, y));
    if (!state.item && app.back) {
      for (const grid of views.results.grids) {
        const place = grid.items.findIndex((hit) => hit.id === app.back);
        if (place >= 0 && state.view === 'search') { grid.focus(place); break; }
      }
      app.back = '';
    }
  } catch (fault) {
    if (fault.name !== 'AbortError') throw fault;
  }
}

function tell() {
  const { info } = app;
  const folder = info.index?.name;
  find('#collection').textContent = `${plural(info.rows, 'item', 'items')}${folder ? ` in ${folder}` : ''}`;
  form.begin();
}

async function begin() {
  try {
    app.info = await api.info();
    app.answers = new Answers(app.info);
    app.alike.clear();
    views.map.forget();
    views.results.sampled = null;
    views.results.shown = null;
    tell();
    await refresh(history.state?.y ?? null);
  } catch (fault) {
    for (const view of VIEWS) find(`#view-${view}`).hidden = view !== 'search';
    find('#view-search').replaceChildren(faulty(fault, begin, app.enter));
    if (fault.status === 503 || fault.status === 0) app.later(begin);
    if (!(fault instanceof api.Fault)) throw fault;
  }
}

/** Whether an event is the browser's own business: a new tab, a download. */
const own = (event) => event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;

document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href]');
  if (!link || own(event)) return;
  const href = link.getAttribute('href');
  if (href === '#main') { event.preventDefault(); find('#main').focus(); return; }
  if (!app.info) return;
  if (href === './') { event.preventDefault(); app.go(read('')); return; }
  if (!href.startsWith('?')) return;
  event.preventDefault();
  const next = read(href);
  app.lit = link.dataset.lit ?? null;
  if (next.item) app.open(next.item);
  else app.go(next);
});

addEventListener('popstate', (event) => {
  app.state = read();
  refresh(event.state?.y ?? 0);
});
addEventListener('scroll', () => {
  clearTimeout(app.scrolled);
  app.scrolled = setTimeout(() => history.replaceState({ ...history.state, y: scrollY }, ''), 150);
}, { passive: true });
addEventListener('online', () => { if (!app.info) begin(); });

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest?.('input:not([type="radio"], [type="checkbox"]), textarea');
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !find('dialog[open]')) {
    event.preventDefault();
    form.focus();
  } else if (event.key === 'Escape' && typing) event.target.blur();
  else if (event.key === 'ArrowDown' && event.target.id === 'words' && app.state.view === 'search') {
    event.preventDefault();
    views.results.grids[0]?.focus(views.results.grids[0].active);
  }
});

history.scrollRestoration = 'manual';
themes(find('#theme'), () => views.map.colour());
begin();
