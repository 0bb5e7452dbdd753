// An item as a picture or a quotation, and as a card.

import { thumbnail } from './api.js';
import { conceptOf, count, fixed, h, icon, ICONS, kindOf, nameOf } from './dom.js';

const SMALL = 96;
const pictured = (hit) => hit.modality !== 'text';

/** The thumbnail, the text where there is no picture, or a sign that the picture is missing. */
export function shot(hit) {
  if (!pictured(hit)) return h('span', { class: 'shot says' }, h('q', { text: nameOf(hit) }));
  const frame = h('span', { class: 'shot' });
  const image = h('img', { alt: '', decoding: 'async', draggable: 'false' });
  image.addEventListener('load', () => image.classList.toggle('small', image.naturalWidth <= SMALL));
  image.addEventListener('error', () => {
    if (!image.getAttribute('src')) return; // let go of on purpose
    frame.classList.add('missing');
    frame.replaceChildren(icon(ICONS.broken), 'No picture');
  });
  image.src = thumbnail(hit.id);
  frame.append(image);
  return frame;
}

/** The score that decided the order, and how it is read aloud. */
export function scoreOf(hit) {
  const fine = hit.fine !== null && hit.fine !== undefined;
  return h('span', { class: 'score', title: fine ? `Reranker ${fixed(hit.fine)}, cosine ${fixed(hit.score)}` : 'Cosine with the query' },
    h('span', { class: 'hidden', text: fine ? ' reranked ' : ' score ' }),
    fine ? `${fixed(hit.fine, 2)} · ${fixed(hit.score)}` : fixed(hit.score));
}

/** A card: a link to the item. `move`: how its place changed, from `compare.js`; `why`: keep a line for it. */
export function card(hit, place, { href, move = null, why = false }) {
  const link = h('a', { class: 'card', href, data: { id: hit.id }, tabindex: '-1' },
    shot(hit),
    h('span', { class: 'foot' },
      h('span', { class: 'figures' },
        place !== null && h('span', { class: 'rank', text: count(place + 1) }),
        move && h('span', { class: `move ${move.kind}`, text: move.text }),
        place === null ? h('span', { text: kindOf(hit) }) : scoreOf(hit)),
      h('span', { class: 'called', text: pictured(hit) ? nameOf(hit) : (hit.source ?? hit.id) }),
      why && reason(hit)));
  return link;
}

/** The concept that made most of the match. */
function reason(hit) {
  const [one] = hit.why;
  return h('span', { class: 'why-one' }, h('span', { text: one ? conceptOf(one) : 'no concept stands out' }), one && h('span', { text: fixed(one.share, 2) }));
}

/** Lets a card's picture go, so that the browser may forget it. */
export function release(element) {
  for (const image of element.querySelectorAll('img')) image.removeAttribute('src');
}
