// The view of the index: what is in it, how it is repaired, and how it stands. In words and few numbers.

import { bytes, count, fixed, h, percent, plural } from './dom.js';
import { empty } from './notices.js';

const NAMES = { image: ['picture', 'pictures'], text: ['text', 'texts'], 'image+text': ['picture with text', 'pictures with text'] };

const REPAIRS = {
  none: ['No repair', 'Vectors are searched as the model gives them.'],
  centred: ['Centred', 'The mean of each modality is subtracted, so that the direction all items share no longer hides what tells them apart. No labels, no training.'],
  realign: ['ReAlign', 'Each modality is whitened with a shrunk covariance, so that no few directions decide every comparison. No labels, no training.'],
  self_aligned: ['Self-aligned', 'The model captioned pictures of this collection; from these pairs of its own making, one closed-form map turns the pictures’ space onto the texts’. No labels, no training, no second model.'],
};

/** A repair by its kind where that is known: names are numbers. */
export function nameOfRepair(name, info) {
  const kind = info.repair === name && info.index?.repaired?.in_force;
  return kind && REPAIRS[kind] ? (kind === 'realign' ? 'ReAlign' : REPAIRS[kind][0].toLowerCase()) : name;
}

/** name -> [label, what it says, which way is better]. */
const FIGURES = {
  anisotropy: ['Mean cosine', 'of any two items: near 1, all look alike', 'lower'],
  common_share: ['Common share', 'of the length that lies along one direction', 'lower'],
  effective_rank: ['Effective rank', 'directions that are in use', 'higher'],
  isoscore: ['IsoScore', 'how evenly directions are used, 0 to 1', 'higher'],
  hubness: ['Hubness', 'skew of how often an item is among the nearest', 'lower'],
  uniformity: ['Uniformity', 'how evenly items spread over the sphere', 'lower'],
  modality_gap: ['Modality gap', 'distance between the means of pictures and texts', 'lower'],
  separability: ['Separability', 'how surely a line tells pictures from texts', 'lower'],
  alignment: ['Alignment', 'distance of pairs', 'lower'],
};

export class IndexView {
  /** `app`: {info}. */
  constructor(root, app) { Object.assign(this, { root, app }); }

  async show() {
    const { info } = this.app;
    if (!info.rows) { this.root.replaceChildren(empty()); return; }
    const facts = info.index ?? {};
    this.root.replaceChildren(h('div', { class: 'state' },
      h('h1', { text: 'The index and its repair' }),
      h('p', { class: 'prose', text: made(info, facts) }),
      notes(facts), tiles(info, facts),
      h('div', { class: 'parts' }, [repair(info, facts), geometry(facts), drift(facts), approximate(facts), refit(facts)].map((part) => part && h('section', {}, part))),
      h('details', {}, h('summary', { text: 'Everything that is known of it' }), tree(facts)),
      h('p', { class: 'prose' }, 'Programs can ask the same questions: ', h('a', { href: 'docs', text: 'the API' }), '. This page asks only the server it came from.')));
  }
}

function made(info, facts) {
  const said = [facts.prompt && `prompt ${facts.prompt}`, facts.pooling && `${facts.pooling} pooling`, facts.width && `${count(facts.width)} numbers each`].filter(Boolean);
  const place = facts.name ? ` in ${facts.name}` : '';
  return `${plural(info.rows, 'item', 'items')}${place}, embedded by ${info.model}${said.length ? ` (${said.join(', ')})` : ''}.`;
}

const notes = (facts) => (facts.notes?.length ? h('ul', { class: 'notices', 'aria-label': 'To be seen to' }, facts.notes.map((note) => h('li', { text: note }))) : null);

function tiles(info, facts) {
  const shown = Object.entries(info.modalities).filter(([, number]) => number).map(([kind, number]) => [count(number), NAMES[kind][number === 1 ? 0 : 1]]);
  if (facts.store?.bytes) shown.push([bytes(facts.store.bytes), 'on disk']);
  return h('ul', { class: 'tiles' }, shown.map(([value, label]) => h('li', {}, h('b', { text: value }), h('span', { text: label }))));
}

function repair(info, facts) {
  const { repaired = {} } = facts;
  const [name, words] = REPAIRS[info.repair ? repaired.in_force : 'none'] ?? [repaired.in_force ?? info.repair, ''];
  const on = repaired.fitted_on ?? {};
  const from = [];
  if (on.pairs) from.push(`${plural(on.pairs, 'picture', 'pictures')} that the model captioned`);
  const rows = Object.entries(on.rows ?? {}).filter(([, number]) => number);
  if (rows.length) from.push(`the vectors of the collection (${rows.map(([kind, number]) => plural(number, ...NAMES[kind])).join(', ')})`);
  return [h('h2', { text: `Repair: ${name}` }), h('p', { class: 'prose', text: words }),
    from.length && info.repair ? h('p', { class: 'prose', text: `It was fitted from ${from.join(', and centred on ')}.` }) : null,
    on.held_out ? h('p', { class: 'prose', text: `Chosen by how well held-out pictures and captions find each other (mean reciprocal rank): ${Object.entries(on.held_out).map(([kind, value]) => `${kind.replace('_', '-')} ${fixed(value)}`).join(', ')}.` }) : null,
    info.repair ? h('p', { class: 'fine', text: `Its name is ${info.repair}.` }) : null];
}

function geometry(facts) {
  const { before, after } = facts.geometry ?? {};
  if (!before || !after) return null;
  const rows = Object.keys(before).filter((key) => Number.isFinite(before[key]) && Number.isFinite(after[key]));
  return [h('h2', { text: 'What it did to the space' }),
    h('p', { class: 'prose', text: 'Figures of a sample of the vectors, before and after. They describe the space; how well a search finds is seen in results side by side.' }),
    h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Figures before and after the repair' }, h('table', {},
      h('thead', {}, h('tr', {}, h('th', { scope: 'col', text: 'Figure' }), h('th', { scope: 'col', class: 'num', text: 'Before' }), h('th', { scope: 'col', class: 'num', text: 'After' }), h('th', { scope: 'col', text: 'Better is' }))),
      h('tbody', {}, rows.map((key) => {
        const [label, meaning, better] = FIGURES[key] ?? [key.replaceAll('_', ' '), '', ''];
        return h('tr', {}, h('th', { scope: 'row' }, label, ' ', h('span', { class: 'fine', text: meaning })), h('td', { class: 'num', text: figure(before[key]) }), h('td', { class: 'num', text: figure(after[key]) }), h('td', { class: 'fine', text: better }));
      }))))];
}

const figure = (value) => fixed(value, Math.abs(value) >= 10 ? 1 : 3);

function drift(facts) {
  const rows = facts.drift ?? [];
  const learning = facts.learn_queries ? 'Statistics of real queries are kept (counts, means and covariances, no words).' : 'Statistics of real queries are not kept; --learn-queries keeps them (counts, means and covariances, no words).';
  if (!rows.length) return facts.learn_queries === undefined ? null : [h('h2', { text: 'Drift' }), h('p', { class: 'prose', text: `Nothing to compare yet. ${learning}` })];
  return [h('h2', { text: 'Drift' }),
    h('p', { class: 'prose', text: `How far today's vectors lie from those that the repair was fitted on, in units of their spread. ${learning}` }),
    h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Drift of each side' }, h('table', {},
      h('thead', {}, h('tr', {}, ['Side', 'Kind'].map((text) => h('th', { scope: 'col', text })), ['Number', 'Spreads', 'Standard errors'].map((text) => h('th', { scope: 'col', class: 'num', text })), h('th', { scope: 'col', text: 'Moved' }))),
      h('tbody', {}, rows.map((row) => h('tr', {}, h('th', { scope: 'row', text: row.side === 'candidate' ? 'Items' : 'Queries' }), h('td', { text: NAMES[row.modality]?.[1] ?? row.modality }), h('td', { class: 'num', text: count(row.count) }), h('td', { class: 'num', text: fixed(row.spreads, 2) }), h('td', { class: 'num', text: fixed(row.errors, 1) }), h('td', { text: row.moved ? 'yes: refit' : 'no' }))))))];
}

function approximate(facts) {
  const { store } = facts;
  if (!store) return null;
  const { index } = store;
  const recall = index && Object.entries(index).find(([name, value]) => name.startsWith('recall') && Number.isFinite(value));
  const said = !index ? 'Every search compares the query with every item, so its order is exact.'
    : recall ? `Searches use an approximate index; ${percent(recall[1], 1)} of the ten nearest items are found (recall against exact search).`
      : 'Searches use an approximate index.';
  return [h('h2', { text: 'How it is searched' }), h('p', { class: 'prose', text: said })];
}

function refit({ update }) {
  if (!update) return null;
  return [h('h2', { text: 'Bring it up to date' }),
    h('p', { class: 'prose', text: 'The first command takes in what is new, changed or gone; the second also fits the repair again. Searches go on meanwhile. Folders go by their names here: run the commands where they lie, or give their whole paths.' }),
    h('pre', { tabindex: '0', 'aria-label': 'Commands', text: `${update}\n${update} --refit` })];
}

/** Any facts, as names and values. */
function tree(facts) {
  return h('dl', { class: 'tree' }, Object.entries(facts).map(([name, value]) => h('div', {}, h('dt', { text: name.replaceAll('_', ' ') }), h('dd', {}, shown(value)))));
}

function shown(value) {
  if (value === null || value === undefined || value === '' || value.length === 0) return '–';
  if (Array.isArray(value)) return value.some((one) => typeof one === 'object') ? h('ul', {}, value.map((one) => h('li', {}, shown(one)))) : value.join(', ');
  if (typeof value === 'object') return Object.keys(value).length ? tree(value) : '–';
  if (typeof value === 'number') return Number.isInteger(value) ? count(value) : fixed(value);
  return String(value);
}
