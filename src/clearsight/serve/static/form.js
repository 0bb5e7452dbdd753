// The question: words, a picture, a filter, and how it is to be answered.

import * as api from './api.js';
import { find, findAll, h, icon, ICONS, nameOf, say } from './dom.js';
import { recall } from './pictures.js';

const LISTED = 24;
const OWN = ['modality', 'source', 'text', 'id'].map((name) => ({ name, type: 'string' }));
const ONLY = { '': 'All kinds', image: 'Pictures', text: 'Texts', 'image+text': 'Pictures with text' };
const OF_FILTER = /filter|field|condition|pattern|character \d|where/i;

export class Form {
  /** `app`: {state, info, go, give}. */
  constructor(form, app) {
    Object.assign(this, { form, app, urls: new Map() });
    this.input = find('#words', form);
    this.where = find('#where', form);
    form.addEventListener('submit', (event) => { event.preventDefault(); this.submit(); });
    form.addEventListener('change', (event) => this.changed(event.target));
    find('#narrow').addEventListener('click', () => {
      this.unfold(find('#filter').hidden);
      if (!find('#filter').hidden) this.where.focus();
    });
    this.drops();
  }

  /** The whole filter: the kind that is chosen, and what is written. */
  filter() {
    const [kind, rest] = [find('#kinds').value, this.where.value.trim()];
    if (!kind) return rest;
    return rest ? `${before(kind)}${rest})` : `modality = '${kind}'`;
  }

  words() { return this.input.value.trim(); }
  focus() { scrollTo(0, 0); this.input.focus(); this.input.select(); }

  /** Shows what the server offers. */
  begin() {
    const { info } = this.app;
    const { offers } = info;
    find('#rerank').hidden = !offers.rerank;
    find('#explain').hidden = !offers.explain;
    find('#pick').hidden = !offers.image;
    find('#file').disabled = !offers.image;
    this.input.placeholder = offers.both ? 'Words, picture or both' : offers.image ? 'Words, or a picture' : 'Words';
    const compared = offers.spaces.includes('raw') && offers.spaces.includes('repaired');
    for (const radio of findAll('#spaces input')) radio.disabled = !compared && radio.value !== 'repaired';
    find('#spaces').title = compared ? '' : 'This index has no repair, so there is nothing to compare.';
    if (!compared && !this.unrepaired) {
      this.unrepaired = h('p', { class: 'fine', text: 'No repair is in force.' });
      find('#spaces').after(this.unrepaired);
      find('#spaces').hidden = true;
    }
    const named = [...info.fields.slice(0, LISTED), ...OWN.filter((own) => !info.fields.some((field) => field.name === own.name))];
    const kinds = Object.entries(info.modalities).filter(([, number]) => number).map(([kind]) => kind);
    find('#fields').replaceChildren('Fields:',
      ...named.map((field) => h('button', { type: 'button', title: `Put ${field.name} into the filter`, on: { click: () => this.put(field.name) } }, field.name, ' ', h('i', { text: field.type }))),
      info.fields.length > LISTED ? `and ${info.fields.length - LISTED} more` : '');
    find('#kinds').closest('label').hidden = kinds.length < 2;
    find('#kinds').replaceChildren(...['', ...kinds].map((kind) => h('option', { value: kind, text: ONLY[kind] ?? kind })));
    find('#kinds').value = parts(this.app.state.where).kind;
    this.where.placeholder = example(info.fields);
  }

  put(name) {
    const written = /^[A-Za-z_]\w*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
    const { selectionStart: from, selectionEnd: to, value } = this.where;
    const gap = from > 0 && !/[\s(]$/.test(value.slice(0, from)) ? ' ' : '';
    this.where.setRangeText(`${gap}${written} `, from, to, 'end');
    this.where.focus();
  }

  /** Brings the fields in line with the state. */
  async show(signal) {
    const { state } = this.app;
    const index = state.view === 'index';
    find('.options', this.form).hidden = index;
    const { kind, rest } = parts(state.where);
    if (this.laid?.q !== state.q) this.input.value = state.q; // what is being typed is not lost to a click elsewhere
    if (this.laid?.where !== state.where) {
      this.where.value = rest;
      find('#kinds').value = kind;
    }
    this.laid = state;
    this.form.elements.show.value = state.show;
    this.form.elements.rerank.checked = state.rerank;
    this.form.elements.explain.checked = state.explain;
    this.clear();
    const both = find('#spaces input[value="both"]').closest('label');
    both.hidden = state.view === 'map'; // one map shows both, one after the other
    if (state.view === 'map' && state.show === 'both') this.form.elements.show.value = 'repaired';
    this.unfold(Boolean(rest) || (!find('#filter').hidden && !index), index);
    find('#narrow').classList.toggle('set', Boolean(rest));
    await this.chip(signal);
  }

  unfold(open, hide = false) {
    find('#filter').hidden = !open || hide;
    find('#narrow').setAttribute('aria-expanded', String(open));
  }

  /** Asks what is written; `more`: another choice along with it. */
  submit(more = {}) {
    const { state, info, go } = this.app;
    const q = this.words();
    const change = { q, where: this.filter(), item: '', ...more };
    if (state.view === 'index') change.view = 'search';
    if (q && q !== state.q && state.like) change.like = '';
    if (q && state.image && info && !info.offers.both) change.image = '';
    if (info) go(change);
  }

  changed(target) {
    const { state } = this.app;
    if (target.id === 'file') {
      if (target.files[0]) this.app.give(target.files[0]);
      target.value = '';
    } else if (target.name === 'show') this.submit({ show: target.value });
    else if (target.name === 'rerank' || target.name === 'explain') this.submit({ [target.name]: target.checked });
    else if (target.id === 'kinds' || (target === this.where && !target.value.trim() && state.where)) this.submit();
  }

  /** The picture, or the item, that is searched with. */
  async chip(signal) {
    const chip = find('#chip');
    const { state } = this.app;
    const key = state.like ? `like ${state.like}` : state.image;
    if (chip.dataset.key === key) return;
    this.app.named = null;
    chip.dataset.key = key;
    chip.hidden = !key;
    chip.replaceChildren();
    if (!key) return;
    let [name, address] = ['Picture', ''];
    if (state.like) {
      name = state.like;
      address = api.thumbnail(state.like);
      try {
        const [hit] = await api.items([state.like], signal);
        if (hit) name = nameOf(hit);
        if (hit?.modality === 'text') address = '';
      } catch (fault) { if (fault.name === 'AbortError') { chip.dataset.key = ''; throw fault; } }
      this.app.named = name;
    } else {
      const picture = await recall(state.image);
      if (picture) {
        name = picture.name;
        if (!this.urls.has(key)) this.urls.set(key, URL.createObjectURL(picture.blob));
        address = this.urls.get(key);
      }
    }
    if (signal.aborted) { chip.dataset.key = ''; return; }
    const shown = h('img', { class: 'shown', alt: '', width: '34', height: '34' });
    shown.addEventListener('error', () => shown.remove());
    if (address) shown.src = address;
    const label = state.like ? `Like “${name}”` : name;
    chip.replaceChildren(...[address && shown, h('span', { text: label, title: label }),
      h('button', { type: 'button', 'aria-label': `Search without ${state.like ? 'this item' : 'the picture'}`, on: { click: () => this.app.go({ image: '', like: '' }) } }, icon(ICONS.close))].filter(Boolean));
  }

  /** Shows a fault of the filter beside it; false for any other fault. */
  blame(fault) {
    if (fault.status !== 400 && fault.status !== 422) return false;
    if (!this.app.state.where || !OF_FILTER.test(`${fault.message} ${fault.where ?? ''}`)) return false;
    const note = find('#where-fault');
    note.textContent = [fault.message, fault.where && `At ${this.own(fault.where)}.`, fault.advice].filter(Boolean).join(' ');
    note.hidden = false;
    this.where.setAttribute('aria-invalid', 'true');
    this.where.setAttribute('aria-describedby', 'where-fault fields');
    this.unfold(true);
    return true;
  }

  /** A place in the whole filter, as one in what is written. */
  own(where) {
    const { kind, rest } = parts(this.app.state.where);
    const found = /^character (\d+): (.*)$/s.exec(where);
    if (!found || !kind || !rest) return where;
    return `character ${Math.max(1, Number(found[1]) - before(kind).length)}: ${found[2].replace(/\)$/, '')}`;
  }

  clear() {
    find('#where-fault').hidden = true;
    this.where.removeAttribute('aria-invalid');
    this.where.setAttribute('aria-describedby', 'fields');
    this.warned?.remove();
  }

  /** Says something about the question, until the next one. */
  warn(sentence) {
    this.warned?.remove();
    this.warned = h('p', { class: 'fault warned', text: sentence });
    this.form.append(this.warned);
    say(sentence);
  }

  drops() {
    const veil = find('#drop');
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
    document.addEventListener('dragenter', (event) => { if (files(event)) { event.preventDefault(); veil.hidden = false; } });
    document.addEventListener('dragover', (event) => { if (files(event)) event.preventDefault(); });
    document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) veil.hidden = true; });
    document.addEventListener('drop', (event) => {
      if (!files(event)) return;
      event.preventDefault();
      veil.hidden = true;
      if (event.dataTransfer.files[0]) this.app.give(event.dataTransfer.files[0]);
    });
    document.addEventListener('paste', (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith('image/'));
      if (!file) return;
      event.preventDefault();
      this.app.give(file);
    });
  }
}

/** What stands before a filter that is narrowed to a kind. */
const before = (kind) => `modality = '${kind}' and (`;

/** A filter as the kind that is chosen and what is written besides. */
function parts(where) {
  const [, kind = '', rest] = /^modality = '([^']*)'(?: and \((.*)\))?$/s.exec(where.trim()) ?? [];
  return kind in ONLY && kind ? { kind, rest: rest ?? '' } : { kind: '', rest: where };
}

/** A filter that fits this collection. */
function example(fields) {
  const number = fields.find((field) => field.type === 'number');
  const text = fields.find((field) => field.type === 'string');
  const part = number ? `${number.name} > ${/year|date|time/i.test(number.name) ? 2020 : 3}` : text ? `${text.name} = 'Bern'` : "modality = 'image'";
  return `such as ${part}`;
}
