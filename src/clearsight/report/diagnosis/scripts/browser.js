// The concept browser: choose a model, sort by any score, search the texts, turn pages.

const PAGE = 12;
const browser = document.getElementById('browser');
const list = document.getElementById('list');
const controls = {
  search: document.getElementById('search'),
  sort: document.getElementById('sort'),
  order: document.getElementById('order'),
  side: document.getElementById('side'),
};
const state = { model: 0, sort: 'energy', down: true, page: 0, found: [], fits: null };
const lowered = items.id.map((_, item) => words(item).toLowerCase());

const scoreNamed = (model, name) => model.scores.find((score) => score.name === name) || model.scores[0];

for (const model of data.models) {
  model.dead = new Set(model.dead);
  // rank of each concept by each score, 1 = highest; null where there is no score
  for (const score of model.scores) {
    const order = score.values.map((_, c) => c).filter((c) => score.values[c] !== null);
    order.sort((a, b) => score.values[b] - score.values[a] || a - b);
    score.ranks = new Array(score.values.length).fill(null);
    order.forEach((c, place) => { score.ranks[c] = place + 1; });
    score.defined = order.length;
  }
  model.modality = scoreNamed(model, 'modality').values;
}

function sideOf(model, concept) {
  const score = model.modality[concept];
  if (score === null) return 'silent';
  if (score <= data.bounds[0]) return 'image';
  return score >= data.bounds[1] ? 'text' : 'shared';
}

const examplesOf = (examples, concept) => {
  const shown = [];
  for (let i = concept * examples.each; i < (concept + 1) * examples.each; i += 1) {
    if (examples.items[i] >= 0) shown.push([examples.items[i], examples.activation[i]]);
  }
  return shown;
};

const searched = () => controls.search.value.toLowerCase().split(/\s+/).filter(Boolean);
const escaped = (term) => term.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
// Terms begin words: "red" finds "red" and "reddish", not "checkered".
const beginning = (terms, flags) => new RegExp(`(?<![\\p{L}\\p{N}])(${terms.map(escaped).join('|')})`, flags);

// Whether each item's words hold all terms; null without terms.
function fitting(terms) {
  if (!terms.length) return null;
  const wanted = terms.map((term) => beginning([term], 'u'));
  return lowered.map((text) => wanted.every((term) => term.test(text)));
}

const named = (model, concept, terms) => {
  const name = model.names[concept];
  return name !== undefined && terms.every((term) => beginning([term], 'u').test(name));
};

// The concepts of the chosen model that fit search and side, in the chosen order; those without a score last.
function select() {
  const model = data.models[state.model];
  const terms = searched();
  const number = terms.length === 1 && /^#\d+$/.test(terms[0]) ? Number(terms[0].slice(1)) : null;
  state.fits = fitting(number === null ? terms : []);
  const side = controls.side.value;
  const score = scoreNamed(model, state.sort);
  const found = [];
  for (let c = 0; c < score.values.length; c += 1) {
    if (number !== null && c !== number) continue;
    if (side && sideOf(model, c) !== side) continue;
    if (state.fits && !named(model, c, terms) && !examplesOf(model.most, c).some(([item]) => state.fits[item])) continue;
    found.push(c);
  }
  const [values, turn] = [score.values, state.down ? 1 : -1];
  found.sort((a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || a - b;
    return turn * (values[b] - values[a]) || a - b;
  });
  state.found = found;
  state.page = Math.max(0, Math.min(state.page, pages() - 1));
}

const pages = () => Math.max(1, Math.ceil(state.found.length / PAGE));

// Text with the searched words marked.
function marking(text, terms) {
  const element = make('bdi');
  if (!state.fits) {
    element.textContent = text;
    return element;
  }
  text.split(beginning(terms, 'giu')).forEach((part, i) => {
    element.append(i % 2 ? make('mark', '', part) : part);
  });
  return element;
}

function strip(title, shown, terms, none) {
  const section = make('section', 'examples');
  section.append(make('h4', '', title));
  if (!shown.length) section.append(make('p', 'fine', none));
  const pictures = shown.filter(([item]) => items.cell[item] >= 0);
  const texts = shown.filter(([item]) => items.cell[item] < 0);
  if (pictures.length) {
    const row = make('ul', 'pictures');
    for (const [item, activation] of pictures) {
      const cell = make('li');
      const thumb = picture(item);
      thumb.title = words(item);
      if (state.fits?.[item]) cell.className = 'hit';
      cell.append(thumb, make('span', 'act', number(activation)));
      row.append(cell);
    }
    section.append(row);
  }
  if (texts.length) {
    const rows = make('ul', 'texts');
    for (const [item, activation] of texts) {
      const line = make('li');
      const quote = make('q');
      quote.append(marking(items.text[item] || items.id[item], terms));
      line.append(make('span', 'act', number(activation)), quote);
      rows.append(line);
    }
    section.append(rows);
  }
  return section;
}

function scale(score) {
  const bar = make('span', 'modality-bar');
  bar.setAttribute('aria-hidden', 'true');
  if (score !== null) {
    const pin = make('span', 'pin');
    pin.style.left = `${100 * score}%`;
    bar.append(pin);
  }
  return bar;
}

function card(model, concept, terms) {
  const side = model.dead.has(concept) ? 'dead' : sideOf(model, concept);
  const entry = make('li', 'concept card');
  entry.tabIndex = -1;
  entry.dataset.concept = concept;
  entry.setAttribute('aria-label', `Concept ${concept}, ${side}`);
  const about = make('div', 'about');
  const head = make('h3', '', `Concept ${concept} `);
  if (model.names[concept]) head.append(make('em', '', model.names[concept]), ' ');
  head.append(make('span', `note side-${side}`, side));
  const scores = make('dl', 'scores');
  for (const score of model.scores) {
    const row = make('div', score.name === state.sort ? 'sorted' : '');
    row.dataset.score = score.name;
    const rank = score.ranks[concept];
    row.append(make('dt', '', score.label), make('dd', 'value', (score.share ? share : number)(score.values[concept])));
    const place = make('dd', 'rank', rank === null ? '' : ordinal(rank));
    if (rank !== null) place.title = `${ordinal(rank)} of ${score.defined.toLocaleString('en')}, highest first`;
    row.append(place);
    scores.append(row);
    if (score.name === 'modality') scores.append(scale(score.values[concept]));
  }
  about.append(head, scores);
  entry.append(
    about,
    strip('Activate it most', examplesOf(model.most, concept), terms, 'Nothing here activates it.'),
    strip('Barely activate it', examplesOf(model.least, concept), terms, 'Nothing else activates it.'),
  );
  return entry;
}

// Draws the page of concepts; `focus` names the entry that the keyboard stands on afterwards.
function show(focus = null) {
  const model = data.models[state.model];
  const terms = searched();
  const start = state.page * PAGE;
  list.start = start + 1;
  list.replaceChildren(...state.found.slice(start, start + PAGE).map((c) => card(model, c, terms)));
  const entries = list.children;
  if (entries.length) entries[Math.min(focus ?? 0, entries.length - 1)].tabIndex = 0;
  if (focus !== null && entries.length) entries[Math.min(focus, entries.length - 1)].focus();
  const total = scoreNamed(model, state.sort).values.length;
  document.getElementById('count').textContent =
    `${state.found.length.toLocaleString('en')} of ${total.toLocaleString('en')} concepts`;
  const score = scoreNamed(model, state.sort);
  document.getElementById('score-help').textContent = score.says ? `${score.label}: ${score.says}` : '';
  controls.order.textContent = state.down ? '↓ highest first' : '↑ lowest first';
  for (const place of findAll('[data-pages]', browser)) place.textContent = pages().toLocaleString('en');
  for (const field of findAll('[data-page]', browser)) {
    field.value = state.page + 1;
    field.max = pages();
  }
  for (const button of findAll('[data-turn]', browser)) {
    const next = state.page + Number(button.dataset.turn);
    button.setAttribute('aria-disabled', next < 0 || next >= pages());
  }
}

function update() {
  state.page = 0;
  select();
  show();
}

function turnTo(page, focus = null) {
  if (!(page >= 0 && page < pages())) return false;
  state.page = page;
  show(focus);
  return true;
}

function chooseModel(place) {
  state.model = place;
  const model = data.models[place];
  if (!model.scores.some((score) => score.name === state.sort)) state.sort = model.scores[0].name;
  controls.sort.replaceChildren(...model.scores.map((score) => {
    const option = make('option', '', score.label);
    option.value = score.name;
    return option;
  }));
  controls.sort.value = state.sort;
  update();
}

// Arrow keys move between entries, over the ends of a page too.
function stepped(event) {
  if (event.target !== event.target.closest('.concept')) return;
  const entries = [...list.children];
  const here = entries.indexOf(event.target);
  const go = {
    ArrowDown: () => (here + 1 < entries.length ? enter(here + 1) : turnTo(state.page + 1, 0)),
    ArrowUp: () => (here > 0 ? enter(here - 1) : turnTo(state.page - 1, PAGE - 1)),
    Home: () => enter(0),
    End: () => enter(entries.length - 1),
    PageDown: () => turnTo(state.page + 1, 0),
    PageUp: () => turnTo(state.page - 1, 0),
  }[event.key];
  if (!go || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  go();
}

function enter(place) {
  for (const entry of list.children) entry.tabIndex = -1;
  list.children[place].tabIndex = 0;
  list.children[place].focus();
}

function toTop() {
  const box = browser.getBoundingClientRect();
  if (box.top < 0) browser.scrollIntoView({ behavior: calm.matches ? 'auto' : 'smooth' });
}

controls.search.addEventListener('input', update);
controls.side.addEventListener('change', update);
controls.sort.addEventListener('change', () => { state.sort = controls.sort.value; update(); });
controls.order.addEventListener('click', () => { state.down = !state.down; update(); });
for (const radio of findAll('input[name="model"]', browser)) {
  radio.addEventListener('change', () => chooseModel(Number(radio.value)));
}
for (const button of findAll('[data-turn]', browser)) {
  button.addEventListener('click', () => { if (turnTo(state.page + Number(button.dataset.turn))) toTop(); });
}
for (const field of findAll('[data-page]', browser)) {
  field.addEventListener('change', () => {
    turnTo(Math.max(1, Math.min(pages(), Math.round(Number(field.value)) || 1)) - 1);
    toTop();
  });
}
find('form', browser).addEventListener('submit', (event) => event.preventDefault());
list.addEventListener('keydown', stepped);
document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.target.closest('input, select, textarea')) return;
  event.preventDefault();
  controls.search.focus();
});
chooseModel(0);
browser.hidden = false;
document.getElementById('browser-waits').remove();
