// Elements, numbers and sentences.

/** An element. `props`: class, text, on{event}, data{}, aria-… and other attributes; null and false leave one out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'text') element.textContent = value;
    else if (name === 'on') for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === 'data') Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

/** A drawing of 24 x 24 by its path, in the colour of the text beside it. */
export function icon(path) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const line = document.createElementNS(SVG, 'path');
  line.setAttribute('d', path);
  svg.append(line);
  return svg;
}

export const ICONS = {
  broken: 'M4 5h16v9l-4-3-3 4-3-5-6 6zM4 19h16v-2l-4-3-3 4-3-5-6 6M8.5 8.5h.01',
  close: 'M6 6l12 12M18 6L6 18',
  next: 'M9 5l7 7-7 7',
  previous: 'M15 5l-7 7 7 7',
};

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

const whole = new Intl.NumberFormat('en');
export const count = (number) => whole.format(number);
export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;
export const fixed = (number, digits = 3) => (Number.isFinite(number) ? (Number(number.toFixed(digits)) || 0).toFixed(digits).replace('-', '−') : '–');
export const percent = (share, digits = 0) => `${fixed(100 * share, digits)}%`;
export const duration = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(1000 * seconds))} ms` : `${fixed(seconds, 1)} s`);

const SIZES = ['bytes', 'kB', 'MB', 'GB', 'TB'];
export function bytes(number) {
  let [size, unit] = [number, 0];
  while (size >= 1000 && unit < SIZES.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${unit && size < 10 ? fixed(size, 1) : count(Math.round(size))} ${SIZES[unit]}`;
}

const KINDS = { image: 'picture', text: 'text', 'image+text': 'picture with text' };
export const kindOf = (hit) => KINDS[hit.modality] ?? hit.modality;

/** What an item is called: its text, else the name of its file, else its id. */
export function nameOf(hit) {
  return hit.text?.trim() || hit.source?.split('/').pop() || hit.id;
}

/** A concept by its words; one that has none beside its number is called so. */
export const conceptOf = ({ concept }) => (/^\d/.test(concept) ? `Concept ${concept}` : concept);

/** Says a sentence to those who listen rather than look. */
export function say(sentence) {
  const voice = find('#voice');
  voice.textContent = '';
  requestAnimationFrame(() => { voice.textContent = sentence; });
}

export const motionless = () => matchMedia('(prefers-reduced-motion: reduce)').matches;
