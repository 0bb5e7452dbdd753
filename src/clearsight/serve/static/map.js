// The view of the map: the collection on a plane, before and after the repair, and the answers on it.

import * as api from './api.js';
import { shot } from './cards.js';
import { count, fixed, h, motionless, nameOf, plural, say } from './dom.js';
import { empty, faulty, notice } from './notices.js';
import { Points } from './points.js';
import { asks, write } from './state.js';
import { titleOf } from './results.js';

const KINDS = ['image', 'text', 'image+text'];
const NAMES = ['pictures', 'texts', 'pictures with text'];
const MOVE = 900; // milliseconds from one space to the other
const LISTED = 50;
const LIT = 60;

export class MapView {
  /** `app`: {info, state, answers, go, retry, enter}. */
  constructor(root, app) {
    Object.assign(this, { root, app, data: null, points: null, at: -1, texts: new Map() });
  }

  async show(signal) {
    if (!this.app.info.rows) { this.stop(); this.root.replaceChildren(empty()); return; }
    try {
      if (!this.data) {
        const waiting = notice('The map is being drawn.', ['This is done once for each state of the index, and takes seconds to minutes. It shows here when it is done.']);
        waiting.setAttribute('role', 'status');
        this.root.replaceChildren(waiting);
        this.data = await api.map(signal);
        this.where = new Map(this.data.ids.map((id, i) => [id, i]));
      }
      if (!this.points) this.begin();
      this.turn();
      await this.light(signal);
    } catch (fault) {
      if (fault.name === 'AbortError') throw fault;
      this.stop();
      this.root.replaceChildren(faulty(fault, this.app.retry, this.app.enter));
      if (fault.status === 503) this.app.later(this.app.retry);
    }
  }

  stop() { this.watch?.disconnect(); this.points = null; }

  forget() { this.stop(); this.data = null; }

  begin() {
    const { data } = this;
    const kinds = data.kind.map((place) => Math.max(0, KINDS.indexOf(data.modalities[place])));
    this.canvas = h('canvas', { tabindex: '0', role: 'application', 'aria-roledescription': 'map', 'aria-label': `Map of ${plural(data.ids.length, 'item', 'items')}`, 'aria-describedby': 'map-keys' });
    this.tip = h('div', { class: 'tip', hidden: true });
    this.list = h('ol', { role: 'list' });
    this.listed = h('h2', { text: 'Answers' });
    this.heading = h('h1', { text: 'Map' });
    const tally = KINDS.map((_, k) => kinds.reduce((sum, kind) => sum + (kind === k), 0));
    const zoomed = (label, sign, act) => h('button', { type: 'button', 'aria-label': label, title: label, text: sign, on: { click: act } });
    this.root.replaceChildren(h('div', { class: 'chart' },
      h('div', { class: 'over' }, this.heading,
        h('p', { class: 'marks' }, KINDS.map((_, k) => (tally[k] ? h('span', {}, mark(k), `${count(tally[k])} ${NAMES[k]}`) : null)), h('span', {}, mark(3), 'answers'))),
      h('div', { class: 'plane' }, this.canvas, this.tip,
        h('div', { class: 'zoom' }, zoomed('Zoom in', '+', () => this.zoom(1.6)), zoomed('Zoom out', '−', () => this.zoom(1 / 1.6)), zoomed('Show all', '⤢', () => this.zoom(0)))),
      h('section', { class: 'beside' }, this.listed, this.list),
      h('p', { class: 'fine keys', id: 'map-keys', text: 'Near points are alike. Drag to move, scroll or pinch to zoom, click a point to open it. By keyboard: arrows go from point to point, Enter opens, + and − zoom, 0 shows all.' })));
    try {
      this.points = new Points(this.canvas, { raw: data.raw, repaired: data.repaired, kinds });
    } catch {
      this.root.replaceChildren(notice('This browser cannot draw the map.', ['It needs WebGL2, which is switched off or missing here. Searching works without it.'], [['Go to the search', () => this.app.go({ view: 'search' })]]));
      return;
    }
    this.points.mixed = this.app.state.show === 'raw' ? 0 : 1;
    this.colour();
    this.watch = new ResizeObserver(() => { this.points?.fit(); this.draw(); });
    this.watch.observe(this.canvas);
    this.listen();
  }

  listen() {
    const { canvas } = this;
    const touches = new Map();
    let dragged = 0;
    const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      touches.set(event.pointerId, place(event));
      dragged = 0;
    });
    canvas.addEventListener('pointermove', (event) => {
      const [x, y] = place(event);
      const old = touches.get(event.pointerId);
      if (!old) { this.pointed(x, y); return; }
      const others = [...touches].filter(([id]) => id !== event.pointerId);
      if (others.length) {
        const [[, other]] = others;
        const [was, is] = [Math.hypot(old[0] - other[0], old[1] - other[1]), Math.hypot(x - other[0], y - other[1])];
        if (was > 0) this.points.zoom(is / was, (x + other[0]) / 2, (y + other[1]) / 2);
      }
      this.points.pan((x - old[0]) / (others.length + 1), (y - old[1]) / (others.length + 1));
      dragged += Math.abs(x - old[0]) + Math.abs(y - old[1]);
      touches.set(event.pointerId, [x, y]);
      if (dragged > 4) { canvas.classList.add('grabbing'); this.mark(-1); }
      this.draw();
    });
    const up = (event) => {
      const tapped = touches.delete(event.pointerId) && dragged <= 4 && event.type === 'pointerup';
      canvas.classList.remove('grabbing');
      if (!tapped) return;
      const [x, y] = place(event);
      const i = this.points.pick(x, y, event.pointerType === 'mouse' ? 14 : 24);
      if (i >= 0) this.open(i);
    };
    canvas.addEventListener('pointerup', up);
    canvas.addEventListener('pointercancel', up);
    canvas.addEventListener('pointerleave', () => this.mark(-1));
    canvas.addEventListener('blur', () => this.mark(-1));
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.points.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
      this.mark(-1);
      this.draw();
    }, { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const toward = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const factor = { '+': 1.6, '=': 1.6, '-': 1 / 1.6, '−': 1 / 1.6, 0: 0 }[event.key];
    if (factor !== undefined) this.zoom(factor);
    else if (toward) this.walk(toward);
    else if (event.key === 'Enter' && this.at >= 0) this.open(this.at);
    else if (event.key === 'Escape' && this.at >= 0) this.mark(-1);
    else return;
    event.preventDefault();
  }

  /** The nearest point within 45 degrees of a direction; to begin with, that nearest to the middle. */
  walk(toward) {
    const { points } = this;
    if (this.at < 0) { this.mark(points.pick(points.width / 2, points.height / 2, Infinity), true); return; }
    const [hx, hy] = points.placeOf(this.at);
    let [best, closest] = [-1, Infinity];
    for (let i = 0; i < points.length; i += 1) {
      const [px, py] = points.placeOf(i);
      const along = (px - hx) * toward[0] + (py - hy) * toward[1];
      const aside = Math.abs((px - hx) * toward[1]) + Math.abs((py - hy) * toward[0]);
      if (along > 2 && aside <= along && along + 2 * aside < closest) [best, closest] = [i, along + 2 * aside];
    }
    if (best < 0) return;
    const [x, y] = points.placeOf(best);
    points.pan(x < 20 ? 60 - x : x > points.width - 20 ? points.width - 60 - x : 0, y < 20 ? 60 - y : y > points.height - 20 ? points.height - 60 - y : 0);
    this.mark(best, true);
    this.draw();
  }

  zoom(factor) {
    if (factor) this.points.zoom(factor);
    else Object.assign(this.points.view, { x: 0, y: 0, zoom: 1 });
    this.mark(-1);
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.points?.draw());
  }

  /** Takes the colours of the page, after a change between light and dark too. */
  colour() {
    if (!this.points) return;
    this.points.paint({ colours: ['--image', '--text', '--both'].map(rgb), ink: rgb('--ink') });
    this.draw();
  }

  /** Goes to the space that is shown, in sight unless motion is unwelcome. */
  turn() {
    if (!this.points) return;
    const { show } = this.app.state;
    this.heading.textContent = show === 'raw' ? 'Map before repair' : this.app.info.repair ? 'Map after repair' : 'Map';
    const to = show === 'raw' ? 0 : 1;
    const from = this.points.mixed;
    if (from === to) return;
    this.mark(-1);
    cancelAnimationFrame(this.moving);
    if (motionless()) { this.points.mixed = to; this.draw(); return; }
    const began = performance.now();
    const step = (now) => {
      const t = Math.min(1, Math.max(0, now - began) / MOVE);
      this.points.mixed = from + (to - from) * (t < 0.5 ? 4 * t ** 3 : 1 - (2 - 2 * t) ** 3 / 2);
      this.points.draw();
      if (t < 1) this.moving = requestAnimationFrame(step);
    };
    this.moving = requestAnimationFrame(step);
  }

  /** Lights the answers to the question at hand, and lists the first of them. */
  async light(signal) {
    if (!this.points) return;
    const { state } = this.app;
    let hits = [];
    let title = '';
    if (asks(state)) {
      try {
        const answer = await this.app.answers.get(state, signal);
        hits = answer.lists[0].hits.slice(0, LIT);
        title = `${plural(hits.length, 'answer', 'answers')}, ${titleOf(this.app)}`;
      } catch (fault) {
        if (fault.name === 'AbortError') throw fault;
        this.app.blame(fault);
        title = fault.message;
      }
    }
    const single = this.app.lit ? this.where.get(this.app.lit) : undefined;
    const indices = single === undefined ? hits.map((hit) => this.where.get(hit.id)).filter((i) => i !== undefined) : [single];
    this.points.light(indices);
    if (single !== undefined) this.centre(single);
    this.app.lit = null;
    this.listed.textContent = title || 'Search to light the answers';
    this.list.replaceChildren(...hits.slice(0, LISTED).map((hit, place) => h('li', {},
      h('a', {
        href: write({ ...state, item: hit.id }), data: { id: hit.id },
        on: { pointerenter: () => this.mark(this.where.get(hit.id) ?? -1), pointerleave: () => this.mark(-1), focus: () => this.mark(this.where.get(hit.id) ?? -1), blur: () => this.mark(-1) },
      }, h('span', { class: 'rank', text: String(place + 1) }), shot(hit), h('span', { class: 'called', text: nameOf(hit) }), h('span', { class: 'score', text: fixed(hit.score) })))));
    if (hits.length) say(`${title} lit on the map.`);
    this.draw();
  }

  centre(i) {
    const { points } = this;
    points.zoom(Math.max(1, 3 / points.view.zoom));
    const [x, y] = points.placeOf(i);
    points.pan(points.width / 2 - x, points.height / 2 - y);
    this.mark(i, true);
  }

  pointed(x, y) {
    cancelAnimationFrame(this.looking);
    this.looking = requestAnimationFrame(() => { if (this.points) this.mark(this.points.pick(x, y)); });
  }

  /** Shows what a point is; -1 for none. `aloud`: it was reached by keyboard. */
  async mark(i, aloud = false) {
    if (i === this.at && !aloud) return;
    this.at = i;
    this.canvas.style.cursor = i >= 0 ? 'pointer' : '';
    if (i < 0) { this.tip.hidden = true; return; }
    const id = this.data.ids[i];
    try {
      if (!this.texts.has(id)) {
        await new Promise((done) => { setTimeout(done, 60); }); // a pointer that only passes asks nothing
        if (this.at !== i) return;
        const [hit] = await api.items([id]);
        this.texts.set(id, hit ?? null);
        if (this.texts.size > 500) this.texts.delete(this.texts.keys().next().value);
      }
    } catch { return; }
    const hit = this.texts.get(id);
    if (this.at !== i || !hit) return;
    const [x, y] = this.points.placeOf(i);
    this.tip.replaceChildren(shot(hit), h('p', { text: nameOf(hit) }));
    this.tip.hidden = false;
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    this.tip.style.left = `${Math.min(Math.max(4, x + 14 + wide > this.points.width ? x - wide - 14 : x + 14), this.points.width - wide - 4)}px`;
    this.tip.style.top = `${Math.min(Math.max(4, y - high / 2), this.points.height - high - 4)}px`;
    if (aloud) say(nameOf(hit));
  }

  open(i) { this.app.go({ item: this.data.ids[i] }); }
}

/** A colour of the page as three numbers in 0..1. */
function rgb(name) {
  const probe = h('span', { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map((part) => Number(part) / 255);
  probe.remove();
  return found;
}

const MARKS = [
  ['of-image', 'M12 6a6 6 0 1 1-12 0a6 6 0 0 1 12 0'], ['of-text', 'M6 0l6 11H0z'], ['of-both', 'M.5.5h11v11h-11z'],
  ['of-hit', 'M11 6a5 5 0 1 1-10 0a5 5 0 0 1 10 0'],
];
function mark(kind) {
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  svg.setAttribute('viewBox', '0 0 12 12');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(space, 'path');
  path.setAttribute('class', MARKS[kind][0]);
  path.setAttribute('d', MARKS[kind][1]);
  svg.append(path);
  return svg;
}
