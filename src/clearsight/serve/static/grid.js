// A grid that holds thousands of results and draws those in sight.

import { findAll, h } from './dom.js';
import { release } from './cards.js';

const BEYOND = 1; // windows above and below that are kept drawn

export class Grid {
  /**
   * `draw(item, place)` gives a link; `narrowest`: of a card, in rem; `foot`: below its picture, in rem;
   * `near()` is called when the end comes into sight.
   */
  constructor({ label, draw, narrowest, foot, near = () => {} }) {
    this.list = h('ol', { class: 'grid', role: 'list', 'aria-label': label });
    Object.assign(this, { draw, narrowest, foot, near, items: [], all: 0, drawn: new Map(), active: 0 });
    this.list.addEventListener('keydown', (event) => this.walk(event));
    this.list.addEventListener('focusin', (event) => this.follow(event.target));
    this.watch = new ResizeObserver(() => { if (this.list.clientWidth !== this.width) this.lay(); });
    this.watch.observe(this.list);
    this.onscroll = () => {
      cancelAnimationFrame(this.waiting);
      this.waiting = requestAnimationFrame(() => this.paint());
    };
    addEventListener('scroll', this.onscroll, { passive: true });
  }

  /** Shows items; `all`: how many there are beyond those, as far as known. */
  show(items, all = items.length) {
    const grown = this.items.length && items.length > this.items.length && this.items.every((item, i) => item.id === items[i].id);
    this.items = items;
    this.all = all;
    if (!grown) this.clear();
    this.active = Math.min(this.active, Math.max(0, items.length - 1));
    this.lay();
  }

  clear() {
    for (const place of [...this.drawn.keys()]) this.drop(place);
    this.active = 0;
  }

  close() {
    this.clear();
    this.watch.disconnect();
    removeEventListener('scroll', this.onscroll);
  }

  lay() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.width = this.list.clientWidth;
    this.gap = this.width < 30 * rem ? 0.5 * rem : 0.875 * rem;
    this.across = Math.max(this.width < 13 * rem ? 1 : 2, Math.floor((this.width + this.gap) / (this.narrowest * rem + this.gap)));
    this.wide = (this.width - this.gap * (this.across - 1)) / this.across;
    this.high = this.wide + this.foot * rem;
    const rows = Math.ceil(this.items.length / this.across);
    this.list.style.height = `${Math.max(0, rows * (this.high + this.gap) - this.gap)}px`;
    for (const [place, element] of this.drawn) this.put(element, place);
    this.paint();
  }

  put(element, place) {
    const [row, column] = [Math.floor(place / this.across), place % this.across];
    element.style.width = `${this.wide}px`;
    element.style.height = `${this.high}px`;
    element.style.transform = `translate(${column * (this.wide + this.gap)}px, ${row * (this.high + this.gap)}px)`;
  }

  /** Draws what is in sight or near it, and drops the rest. */
  paint() {
    if (!this.list.isConnected || !this.width) return;
    const top = this.list.getBoundingClientRect().top;
    const row = this.high + this.gap;
    const first = Math.max(0, Math.floor((-top - BEYOND * innerHeight) / row)) * this.across;
    const last = Math.min(this.items.length, (Math.floor((-top + (1 + BEYOND) * innerHeight) / row) + 1) * this.across);
    const held = this.list.contains(document.activeElement) ? this.active : -1;
    for (const place of [...this.drawn.keys()]) if ((place < first || place >= last) && place !== held) this.drop(place);
    for (let place = first; place < last; place += 1) if (!this.drawn.has(place)) this.add(place);
    if (this.items.length && !this.drawn.has(this.active)) this.active = Math.min(Math.max(first, 0), this.items.length - 1);
    this.reach();
    if (last >= this.items.length) this.near();
  }

  add(place) {
    const link = this.draw(this.items[place], place);
    const element = h('li', { 'aria-posinset': String(place + 1), 'aria-setsize': String(this.all), data: { place } }, link);
    this.put(element, place);
    this.drawn.set(place, element);
    const after = findAll(':scope > li', this.list).find((other) => Number(other.dataset.place) > place);
    this.list.insertBefore(element, after ?? null); // read aloud in order
  }

  drop(place) {
    const element = this.drawn.get(place);
    release(element);
    element.remove();
    this.drawn.delete(place);
  }

  /** One card takes part in the order of the tab key; arrows move among them. */
  reach() {
    for (const [place, element] of this.drawn) {
      if (element.firstElementChild.tagName === 'A') element.firstElementChild.tabIndex = place === this.active ? 0 : -1;
    }
  }

  follow(target) {
    const element = target.closest('li');
    if (!element) return;
    this.active = Number(element.dataset.place);
    this.reach();
  }

  walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.across, ArrowDown: this.across, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const to = Math.min(Math.max(this.active + step, 0), this.items.length - 1);
    if (Number.isFinite(step) && this.active + step !== to && Math.abs(step) > 1) return; // no row there
    this.focus(to);
  }

  focus(place) {
    if (!this.items.length) return;
    if (!this.drawn.has(place)) this.add(place);
    const link = this.drawn.get(place).firstElementChild;
    link.focus({ preventScroll: true });
    const box = link.getBoundingClientRect();
    if (box.top < 8) scrollBy(0, box.top - 8);
    else if (box.bottom > innerHeight - 8) scrollBy(0, box.bottom - innerHeight + 8);
    this.paint();
  }

  /** The drawn card of an item, where it is drawn. */
  cardOf(id) {
    for (const element of this.drawn.values()) if (element.firstElementChild.dataset.id === id) return element.firstElementChild;
    return null;
  }

  redraw() {
    const held = this.list.contains(document.activeElement);
    const place = this.active;
    for (const each of [...this.drawn.keys()]) this.drop(each);
    this.active = place;
    this.paint();
    if (held) this.focus(place);
  }
}
