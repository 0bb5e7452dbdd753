// One item: its picture or text, what is known of it, and what is like it.

import * as api from './api.js';
import { shot } from './cards.js';
import { conceptOf, count, find, fixed, h, icon, ICONS, kindOf, nameOf } from './dom.js';
import { write } from './state.js';

const ALIKE = 8;
const SEEN = 0.005; // less is 0.00

export class ItemView {
  /** `app`: {state, info, answers, go, leave, step}. */
  constructor(dialog, app) {
    Object.assign(this, { dialog, app, id: '' });
    dialog.addEventListener('cancel', (event) => { event.preventDefault(); app.leave(); });
    dialog.addEventListener('click', (event) => { if (event.target === dialog) app.leave(); });
    dialog.addEventListener('keydown', (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (way && !event.altKey && !event.ctrlKey && !event.metaKey) this.step(way);
    });
  }

  async show() {
    const id = this.app.state.item;
    if (!id) { this.close(); return; }
    if (id === this.id && this.dialog.open) return;
    this.id = id;
    const { hits, place } = this.among();
    const hit = place >= 0 ? hits[place] : null;
    if (hit) this.lay(hit, hits, place);
    else this.dialog.replaceChildren(this.bar(''), h('div', { class: 'about', 'aria-busy': 'true' }, h('h2', { id: 'item-name', text: 'Loading the item' })));
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.app.shown?.(id);
    if (hit) return;
    try {
      const [found] = await api.items([id]);
      if (this.id !== id) return;
      if (found) this.lay(found, [], -1);
      else this.refuse('This item is not in the index.', 'It was deleted, or it is an item of another collection.');
    } catch (fault) {
      if (this.id === id) this.refuse(fault.message, fault.advice ?? '');
    }
  }

  close() {
    this.id = '';
    if (this.dialog.open) this.dialog.close();
  }

  /** The list that the item was opened from. */
  among() {
    const hits = this.app.listed(this.id);
    return { hits, place: hits.findIndex((hit) => hit.id === this.id) };
  }

  step(way) {
    const { hits, place } = this.among();
    const next = place < 0 ? null : hits[place + way];
    if (next) this.app.step(next.id);
  }

  refuse(what, advice) {
    this.dialog.replaceChildren(this.bar(''), h('div', { class: 'about' }, h('h2', { id: 'item-name', text: what }), h('p', { class: 'fine', text: advice })));
  }

  bar(said, hits = [], place = -1) {
    const button = (label, path, act, off) => h('button', { type: 'button', 'aria-label': label, title: label, disabled: off, on: { click: act } }, icon(path));
    return h('div', { class: 'bar' }, h('p', { text: said }),
      hits.length ? [button('Previous item', ICONS.previous, () => this.step(-1), place <= 0), button('Next item', ICONS.next, () => this.step(1), place >= hits.length - 1)] : null,
      button('Close', ICONS.close, () => this.app.leave(), false));
  }

  lay(hit, hits, place) {
    const held = this.dialog.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null;
    const ranked = place >= 0 && this.app.ranked();
    const name = h('h2', { id: 'item-name', text: nameOf(hit) });
    if (hit.modality === 'text') name.className = 'hidden';
    const picture = shot(hit);
    const large = find('img', picture);
    if (large) {
      large.alt = `Picture: ${nameOf(hit)}`;
      const whole = new Image(); // shown once it is there; a kind that browsers cannot show stays a thumbnail
      whole.onload = () => { large.src = whole.src; };
      whole.src = api.original(hit.id);
    }
    this.alike = h('div', { class: 'alike', 'aria-busy': 'true' });
    this.dialog.replaceChildren(
      this.bar(ranked ? `Place ${count(place + 1)} of ${count(hits.length)}` : '', hits, place),
      h('div', { class: 'about' }, picture, name, this.acts(hit), whys(hit),
        h('h3', { text: 'Details' }), facts(hit, ranked),
        h('h3', { text: 'Items alike' }), this.alike));
    if (held) find(`[aria-label="${held}"]`, this.dialog)?.focus();
    this.fill(hit);
  }

  acts(hit) {
    const file = hit.modality !== 'text' && h('a', { class: 'button', href: api.original(hit.id), target: '_blank', rel: 'noopener', text: 'Open original' });
    const blank = { q: '', image: '', item: '' };
    return h('div', { class: 'acts' },
      h('a', { class: 'button main', href: write({ ...this.app.state, ...blank, view: 'search', like: hit.id }), text: 'Find items alike' }),
      file,
      h('a', { class: 'button', href: write({ ...this.app.state, view: 'map', item: '' }), data: { lit: hit.id }, text: 'Show on the map' }));
  }

  async fill(hit) {
    const box = this.alike;
    try {
      const space = this.app.state.show === 'raw' ? 'raw' : 'repaired';
      const { hits } = await this.app.like(hit.id, space, ALIKE);
      if (box !== this.alike) return;
      box.replaceChildren(...hits.slice(0, ALIKE).map((other) => h('a', {
        href: write({ ...this.app.state, item: other.id }), 'aria-label': `${nameOf(other)}, score ${fixed(other.score)}`, title: nameOf(other),
      }, shot(other), h('span', { text: fixed(other.score) }))));
      if (!hits.length) box.replaceChildren(h('p', { class: 'fine', text: 'There is no other item.' }));
    } catch (fault) {
      if (box === this.alike) box.replaceChildren(h('p', { class: 'fine', text: fault.message }));
    } finally {
      box.removeAttribute('aria-busy');
    }
  }
}

function whys(hit) {
  const shown = hit.why.filter((one) => one.share >= SEEN);
  if (!shown.length) return null;
  const most = shown[0].share;
  return [h('h3', { text: 'Concepts that made the match' }),
    h('ul', { class: 'whys' }, shown.map((one) => h('li', {}, h('span', { text: conceptOf(one) }), bar(one.share / most), h('span', { class: 'share', text: fixed(one.share, 2) })))),
    h('p', { class: 'fine', text: 'How much of the cosine each brings; what is small is left out.' })];
}

function bar(share) {
  const drawing = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  drawing.setAttribute('aria-hidden', 'true');
  const rect = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  rect.setAttribute('width', `${100 * share}%`);
  rect.setAttribute('height', '100%');
  drawing.append(rect);
  return drawing;
}

function facts(hit, ranked) {
  const rows = [];
  if (ranked) rows.push(['cosine', fixed(hit.score)]);
  if (ranked && hit.fine !== null) rows.push(['reranker', fixed(hit.fine)]);
  rows.push(['kind', kindOf(hit)]);
  if (hit.source) rows.push(['file', hit.source]);
  rows.push(['id', hit.id]);
  for (const [name, value] of Object.entries(hit.metadata)) if (value !== null) rows.push([name, typeof value === 'object' ? JSON.stringify(value) : String(value)]);
  return h('dl', { class: 'facts' }, rows.map(([name, value]) => h('div', {}, h('dt', { text: name }), h('dd', { text: value }))));
}
