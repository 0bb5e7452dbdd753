// What is said where there is nothing to show: why, and what to do.

import { h } from './dom.js';

/** A box with a heading, sentences (texts or elements) and buttons [label, act]. */
export function notice(title, sentences, acts = [], { wrong = false, level = 'h1' } = {}) {
  return h('section', { class: wrong ? 'notice wrong' : 'notice', role: wrong ? 'alert' : null },
    h(level, { text: title }),
    sentences.map((sentence) => h('p', {}, sentence)),
    acts.length ? h('div', { class: 'acts' }, acts.map(([label, act], i) => h('button', { type: 'button', class: i ? 'button' : 'button main', text: label, on: { click: act } }))) : null);
}

/** A fault of the server or of the way to it. `again()` repeats what failed, `enter(token)` opens a session. */
export function faulty(fault, again, enter) {
  if (fault.status === 401) return asking(fault, enter);
  if (fault.status === 503) {
    return notice('The server is not ready yet.', [fault.message, 'This page tries again by itself.'], [['Try now', again]]);
  }
  const sentences = [fault.where && `At: ${fault.where}`, fault.advice, fault.id && `The server's log has more under ${fault.id}.`];
  return notice(fault.message, sentences.filter(Boolean), [['Try again', again]], { wrong: true });
}

function asking(fault, enter) {
  const input = h('input', { type: 'password', 'aria-label': 'Token', autocomplete: 'current-password', required: true });
  const said = h('p', { class: 'fault', role: 'alert' });
  const box = notice('This server asks for a token.', ['Whoever started it knows the token.']);
  box.append(h('form', {
    on: {
      submit: async (event) => {
        event.preventDefault();
        try { await enter(input.value); } catch (wrong) { said.textContent = wrong.message; input.select(); }
      },
    },
  }, h('input', { type: 'text', hidden: true, autocomplete: 'username', value: 'clearsight' }), input, h('button', { class: 'button main', text: 'Open' })), said);
  return box;
}

export const empty = () => notice('The index is empty.', [
  h('span', {}, 'Put items into it with ', h('code', { text: 'clearsight index PHOTOS/' }), ', then load this page again.'),
]);
