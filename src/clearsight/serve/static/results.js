// The view of results: a grid, or two beside each other.

import * as api from './api.js';
import { card } from './cards.js';
import { move, places, summary } from './compare.js';
import { nameOfRepair } from './standing.js';
import { count, duration, fixed, h, plural, say } from './dom.js';
import { Grid } from './grid.js';
import { empty, faulty, notice } from './notices.js';
import { asks, write } from './state.js';

const NARROWEST = { one: 11, two: 8.5 };
const FOOT = { plain: 4.5, why: 5.625 };
const TITLES = { repaired: 'After repair', raw: 'Before repair' };

export class Results {
  /** `app`: {info, state, answers, go, retry, enter}. */
  constructor(root, app) {
    Object.assign(this, { root, app, grids: [], shown: null });
  }

  async show(signal) {
    const { state, info } = this.app;
    if (!info.rows) return this.put(empty());
    if (!asks(state)) return this.begin(signal);
    const known = this.app.answers.known(state);
    if (known && known === this.shown) return undefined;
    if (!known) this.wait();
    try {
      const answer = await this.app.answers.get(state, signal);
      this.lay(answer);
    } catch (fault) {
      if (fault.name === 'AbortError') throw fault;
      this.fail(fault);
    } finally {
      if (!signal.aborted) this.waited();
    }
    return undefined;
  }

  put(...children) {
    for (const grid of this.grids) grid.close();
    this.grids = [];
    this.shown = null;
    this.root.replaceChildren(...children);
  }

  wait() {
    this.line ??= h('div', { class: 'progress' });
    document.body.append(this.line);
    this.root.setAttribute('aria-busy', 'true');
    if (this.grids.length) { this.root.classList.add('busy'); return; }
    this.put(h('div', { class: 'summary' }, h('h1', { text: 'Searching' })));
    this.root.append(this.grid({ label: 'Results are on their way', draw: blank, items: blanks() }));
  }

  waited() {
    this.line?.remove();
    this.root.removeAttribute('aria-busy');
    this.root.classList.remove('busy');
  }

  /** A grid in a list of its own; `narrow`: one of two. */
  grid({ label, draw, items, all, near, narrow = false, why = false }) {
    const grid = new Grid({ label, draw, near, narrowest: narrow ? NARROWEST.two : NARROWEST.one, foot: why ? FOOT.why : FOOT.plain });
    this.grids.push(grid);
    queueMicrotask(() => grid.show(items, all));
    return grid.list;
  }

  async begin(signal) {
    if (this.shown === 'begin') return;
    const { info } = this.app;
    const head = h('div', { class: 'begin' },
      h('h1', { text: 'What are you looking for?' }),
      h('p', {}, info.offers.image
        ? 'Type words, drop a picture anywhere on this page, paste one, or do both: the picture and what should be different.'
        : 'Type words. The model of this index reads no pictures in a search.'));
    this.put(head);
    this.shown = 'begin';
    try {
      const hits = this.sampled ?? await api.sample(48, signal);
      this.sampled = hits;
      if (this.shown !== 'begin' || !hits.length) return;
      this.root.append(h('div', { class: 'summary' }, h('h2', { text: 'Some of the collection' })),
        this.grid({ label: 'Some items of the collection', draw: (hit) => this.card(hit, null), items: hits }));
    } catch (fault) {
      if (fault.name === 'AbortError') throw fault;
      if (this.shown === 'begin') this.root.append(faulty(fault, this.app.retry, this.app.enter));
    }
  }

  card(hit, place, more = {}) {
    const link = card(hit, place, { href: write({ ...this.app.state, item: hit.id }), ...more });
    return link;
  }

  lay(answer) {
    const [first, second] = answer.lists;
    if (!first.hits.length && !second?.hits.length) return this.nothing();
    const why = this.app.state.explain && this.app.info.offers.explain;
    this.put();
    const title = titleOf(this.app);
    this.notes = h('ul', { class: 'notes' });
    this.end = h('p', { class: 'more' });
    const head = h('div', { class: 'summary' }, h('h1', { text: title }), h('p', { class: 'fine', text: this.stand(answer) }));
    if (second) {
      this.root.append(head, h('p', { class: 'moved', text: summary(first.hits, second.hits) }), this.notes,
        h('div', { class: 'columns' }, answer.lists.map((list, i) => this.column(answer, i, why))), this.end);
    } else {
      this.root.append(head, this.notes, this.grid({
        label: 'Results', why, items: first.hits, all: this.size(answer, first), near: () => this.more(answer),
        draw: (hit, place) => this.card(hit, place, { why }),
      }), this.end);
    }
    this.shown = answer;
    this.say(answer);
    if (first.version !== this.app.info.version) this.app.renew().catch(() => {}); // the next question says what is wrong
    say(`${plural(first.hits.length, 'result', 'results')} for ${title}${second ? ', before and after repair' : ''}. Best score ${fixed(first.hits[0]?.score ?? second.hits[0].score)}.`);
    return undefined;
  }

  column(answer, i, why) {
    const list = answer.lists[i];
    const other = () => answer.lists[1 - i].hits;
    const cache = { hits: null, places: null };
    const there = () => {
      if (cache.hits !== other()) Object.assign(cache, { hits: other(), places: places(other()) });
      return cache.places;
    };
    const body = this.grid({
      label: TITLES[list.space], narrow: true, why, items: list.hits, all: this.size(answer, list), near: () => this.more(answer),
      draw: (hit, place) => this.card(hit, place, { why, move: move(hit.id, place, there(), other().length, answer.whole, i === 1) }),
    });
    const pair = (event) => this.pair(event.target.closest?.('.card')?.dataset.id ?? null, 1 - i);
    for (const event of ['pointerover', 'focusin']) body.addEventListener(event, pair);
    for (const event of ['pointerleave', 'focusout']) body.addEventListener(event, () => this.pair(null, 1 - i));
    const scores = list.hits.length ? `${fixed(list.hits[0].score)} to ${fixed(list.hits.at(-1).score)}` : 'nothing found';
    return h('section', {}, h('h2', { text: TITLES[list.space] }),
      h('p', { class: 'fine', title: list.space === 'raw' ? 'Cosines of the vectors as the model gives them' : 'Cosines after the repair', text: `Scores ${scores}` }), body);
  }

  /** Marks the same item in the other column. */
  pair(id, other) {
    this.twin?.classList.remove('twin');
    this.twin = id === null ? null : this.grids[other]?.cardOf(id);
    this.twin?.classList.add('twin');
  }

  size(answer, list) { return answer.done ? list.hits.length : Math.min(list.rows, answer.most); }

  stand(answer) {
    const [first] = answer.lists;
    const parts = [`${plural(first.rows, 'item', 'items')} searched in ${duration(first.seconds)}`];
    parts.push(first.space === 'raw' ? 'before repair' : first.repair ? `repair: ${nameOfRepair(first.repair, this.app.info)}` : 'no repair');
    return parts.join(', ');
  }

  say(answer) {
    const notes = [...new Set(answer.lists.flatMap((list) => list.notes))];
    this.notes.replaceChildren(...notes.map((note) => h('li', { text: note })));
    this.notes.hidden = !notes.length;
    const loaded = Math.max(...answer.lists.map((list) => list.hits.length));
    if (!answer.done) this.end.textContent = answer.asking ? 'More are on their way' : '';
    else if (loaded < answer.top) this.end.textContent = loaded === 1 ? 'This is the only item.' : `These are all ${count(loaded)}.`;
    else this.end.textContent = `The first ${count(loaded)} are shown. ${this.app.state.explain ? 'Without explaining there are more.' : 'A filter finds those behind them.'}`;
  }

  async more(answer) {
    if (answer.done || answer.asking || this.shown !== answer) return;
    const asked = answer.more();
    this.say(answer);
    try {
      await asked;
    } catch (fault) {
      if (this.shown !== answer) return;
      this.end.replaceChildren(`${fault.message} `, h('button', { type: 'button', class: 'button', text: 'Try again', on: { click: () => this.more(answer) } }));
      return;
    }
    if (this.shown !== answer) return;
    answer.lists.forEach((list, i) => this.grids[i].show(list.hits, this.size(answer, list)));
    if (answer.lists.length > 1) for (const grid of this.grids) grid.redraw(); // places in the other list are known further now
    this.say(answer);
  }

  nothing() {
    const { state, go } = this.app;
    if (state.where.trim()) {
      this.put(notice('Nothing fits this filter.', [
        h('span', {}, 'No item meets ', h('code', { text: state.where }), '. Loosen it, or search without it.'),
      ], [['Search without the filter', () => go({ where: '' })]]));
    } else {
      this.put(notice('Nothing was found.', ['The index holds no item that can answer this question.'], [['Start again', () => go({ q: '', image: '', like: '' })]]));
    }
    this.shown = null;
    say('No results.');
  }

  fail(fault) {
    const { state, go, retry, enter, blame } = this.app;
    if (blame(fault)) {
      this.put(notice('The filter does not fit.', ['Nothing was searched. What is wrong is said beside the filter.'], [['Search without the filter', () => go({ where: '' })]], { wrong: true }));
    } else {
      this.put(faulty(fault, retry, enter));
      if (fault.status === 503) this.app.later(retry);
    }
    say(fault.message);
    return state;
  }
}

export function titleOf({ state, named }) {
  const parts = [];
  if (state.like) parts.push(`Like “${named ?? state.like}”`);
  else {
    if (state.q.trim()) parts.push(`“${state.q.trim()}”`);
    if (state.image) parts.push(parts.length ? 'and a picture' : 'Like your picture');
  }
  return parts.join(' ');
}

const blanks = () => Array.from({ length: 24 }, (_, i) => ({ id: `blank-${i}` }));
const blank = () => h('span', { class: 'card skeleton', 'aria-hidden': 'true' }, h('span', { class: 'shot' }), h('span', { class: 'foot' }));
