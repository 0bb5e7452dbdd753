// What the repair moved: the same question, answered from both spaces.

import { count, plural } from './dom.js';

const FIRST = 10;

/** id -> place in the list, from 0. */
export const places = (hits) => new Map(hits.map((hit, place) => [hit.id, place]));

/**
 * How a hit at `place` of one list stands in the other. `other`: places there, of which `known` are loaded;
 * `all`: nothing lies beyond those; `after`: the other list is the one after repair.
 */
export function move(id, place, other, known, all, after) {
  const there = other.get(id);
  const word = after ? 'now' : 'was';
  if (there === undefined) {
    const beyond = all ? 'not there' : `${word} ${count(known)}+`;
    return after ? { kind: 'gone', text: `↓ ${beyond}` } : { kind: 'new', text: `↑ ${beyond}` };
  }
  if (there === place) return { kind: 'same', text: '= same' };
  const rose = after ? there < place : there > place;
  return { kind: rose ? 'up' : 'down', text: `${rose ? '↑' : '↓'} ${word} ${count(there + 1)}` };
}

/** Both lists in one or two sentences. */
export function summary(repaired, raw) {
  const first = Math.min(FIRST, repaired.length, raw.length);
  if (!first) return '';
  const before = places(raw);
  const kept = repaired.slice(0, first).filter((hit) => before.get(hit.id) < first).length;
  const fresh = first - kept;
  const head = fresh
    ? `${plural(fresh, 'answer', 'answers')} of the first ${count(first)} ${fresh === 1 ? 'was' : 'were'} not there before the repair.`
    : `The first ${count(first)} answers are the same, ${repaired.slice(0, first).every((hit, i) => raw[i].id === hit.id) ? 'in the same order' : 'in another order'}.`;
  const there = before.get(repaired[0].id);
  if (there === 0) return `${head} The first answer stayed first.`;
  const where = there === undefined ? `after place ${count(raw.length)}` : `at place ${count(there + 1)}`;
  return `${head} The first answer stood ${where} before.`;
}
