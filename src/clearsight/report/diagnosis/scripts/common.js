// The page's data, and what maps and browser share: items, their pictures and words, the tip.
// data.items holds columns; an item is its position there. kind: 0 picture, 1 text, 2 both.

const data = JSON.parse(document.getElementById('data').textContent);
const items = data.items;
const find = (selector, within = document) => within.querySelector(selector);
const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// item -> the items matched to it
const partners = new Map();
for (let i = 0; i < data.pairs.length; i += 2) {
  const [a, b] = [data.pairs[i], data.pairs[i + 1]];
  for (const [from, to] of [[a, b], [b, a]]) {
    if (!partners.has(from)) partners.set(from, []);
    partners.get(from).push(to);
  }
}
const partnersOf = (item) => partners.get(item) || [];

// What an item says: its own text, else that of the first text matched to it.
function words(item) {
  if (items.text[item]) return items.text[item];
  const told = partnersOf(item).find((other) => items.text[other]);
  return told === undefined ? '' : items.text[told];
}

function nameOf(item) {
  const kind = ['Picture', 'Text', 'Picture and text'][items.kind[item]];
  return `${kind}: ${words(item) || items.id[item]}`;
}

const sheetRules = make('style');
document.head.append(sheetRules);
data.sheets.forEach((uri, i) => sheetRules.sheet.insertRule(`.sheet-${i} { background-image: url("${uri}"); }`, i));
const perSheet = data.across * data.across;
const rowsOf = (sheet) => {
  const pictures = items.cell.reduce((count, cell) => count + (cell >= 0), 0);
  return Math.ceil(Math.min(perSheet, pictures - sheet * perSheet) / data.across);
};

// The thumbnail of an item: one cell of a sheet, as large as the style sheet makes it.
function picture(item) {
  const cell = items.cell[item];
  const sheet = Math.floor(cell / perSheet);
  const place = cell % perSheet;
  const rows = rowsOf(sheet);
  const element = make('span', `thumb sheet-${sheet}`);
  const [across, down] = [place % data.across, Math.floor(place / data.across)];
  element.style.backgroundSize = `${100 * data.across}% ${100 * rows}%`;
  element.style.backgroundPosition =
    `${(100 * across) / (data.across - 1)}% ${rows > 1 ? (100 * down) / (rows - 1) : 0}%`;
  element.setAttribute('role', 'img');
  element.setAttribute('aria-label', nameOf(item));
  return element;
}

// A number as the rest of the page writes it: three significant digits, a real minus, a dash for none.
function number(value) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString('en').replace('-', '−');
  const short = Number(value.toPrecision(3));
  const text = size > 0 && size < 1e-4 ? short.toExponential() : String(short);
  return text.replace(/-/g, '−');
}

// A share of 0..1 with three decimals.
function share(value) {
  if (value === null || value === undefined) return '–';
  return value > 0 && value < 0.0005 ? '< 0.001' : value.toFixed(3);
}

function ordinal(place) {
  const tens = place % 100;
  const ending = tens > 10 && tens < 14 ? 'th' : ['th', 'st', 'nd', 'rd'][place % 10] || 'th';
  return `${place.toLocaleString('en')}${ending}`;
}

const tip = document.getElementById('tip');

// Shows an item beside a point of the window, wholly within it; to its left where `leftward` and room allow.
function showTip(item, x, y, leftward = false) {
  tip.replaceChildren();
  if (items.cell[item] >= 0) tip.append(picture(item));
  const said = make('p', '', words(item) || items.id[item]);
  if (items.kind[item] === 0 && words(item)) said.prepend(make('span', 'fine', 'picture of: '));
  tip.append(said, make('p', 'fine', items.id[item]));
  tip.hidden = false;
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const room = document.documentElement.clientWidth;
  const left = x + 16 + width > room || (leftward && x > 20 + width) ? x - 16 - width : x + 16;
  const top = y + 16 + height > window.innerHeight ? y - 16 - height : y + 16;
  tip.style.left = `${Math.max(4, Math.min(left, room - width - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
const hideTip = () => { tip.hidden = true; };

const spoken = document.getElementById('spoken');
const calm = window.matchMedia('(prefers-reduced-motion: reduce)');
const dark = window.matchMedia('(prefers-color-scheme: dark)');
