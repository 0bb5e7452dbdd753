// The view of the index: what is in it, how it is repaired, and how it stands.

import { bytes, count, fixed, h, percent, plural } from './dom.js';
import { empty } from './notices.js';

export class IndexView {
  /** `app`: {info}. */
  constructor(root, app) { Object.assign(this, { root, app }); }

  async show() {
    const { info } = this.app;
    this.root.replaceChildren(info.rows ? h('div', { class: 'state' }, h('h1', { text: 'Index' }), tree(info.index)) : empty());
  }
}

/** Any facts, as names and values. */
export function tree(facts) {
  return h('dl', { class: 'tree' }, Object.entries(facts).map(([name, value]) => h('div', {}, h('dt', { text: name.replaceAll('_', ' ') }), h('dd', {}, shown(value)))));
}

function shown(value) {
  if (value === null || value === '') return '–';
  if (Array.isArray(value)) return value.some((one) => typeof one === 'object') ? h('ul', {}, value.map((one) => h('li', {}, shown(one)))) : value.join(', ');
  if (typeof value === 'object') return tree(value);
  if (typeof value === 'number') return Number.isInteger(value) ? count(value) : fixed(value);
  return String(value);
}
export { bytes, percent, plural };
