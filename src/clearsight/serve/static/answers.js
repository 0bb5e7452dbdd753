// Answers to questions: asked once, kept for the back button, made longer as a person scrolls.

import * as api from './api.js';
import { question } from './state.js';
import { dataUrl, recall } from './pictures.js';

const LENGTHS = [60, 240, 1000, 4000, 10000];
const EXPLAINED = 240; // naming concepts for thousands of results would keep everyone waiting
const KEPT = 8;

class Answer {
  constructor(body, show, most) {
    Object.assign(this, { body, show, most, lists: [], done: false, asking: null });
  }

  async ask(top, signal) {
    const found = await api.search({ ...this.body, top }, signal);
    const { beside, ...first } = found;
    const lists = beside ? [first, beside] : [first];
    this.lists = lists.map((list, i) => ({ ...list, hits: joined(this.lists[i]?.hits ?? [], list.hits) }));
    this.top = top;
    this.whole = lists.every((list) => list.hits.length < top); // nothing lies beyond
    this.done = this.whole || top >= this.most;
    return this;
  }

  /** Asks for more, once at a time; false where there is none. */
  async more() {
    if (this.done || this.asking) return false;
    const top = Math.min(this.most, LENGTHS.find((length) => length > this.top) ?? this.most);
    this.asking = this.ask(top);
    try { await this.asking; } finally { this.asking = null; }
    return true;
  }
}

/** What was shown stays where it was; what is new comes after it. */
function joined(old, fresh) {
  if (old.every((hit, i) => fresh[i]?.id === hit.id)) return fresh;
  const known = new Set(old.map((hit) => hit.id));
  return [...old, ...fresh.filter((hit) => !known.has(hit.id))];
}

export class Answers {
  /** `info`: what the server told of its limits and of what it offers. */
  constructor({ limits, offers }) {
    Object.assign(this, { limits, offers });
    this.kept = new Map();
  }

  known(state) { return this.kept.get(question(state)) ?? null; }

  async get(state, signal) {
    const key = question(state);
    const found = this.kept.get(key);
    if (found) {
      this.kept.delete(key);
      this.kept.set(key, found);
      return found;
    }
    const most = Math.min(this.limits.top ?? 10000, state.explain ? EXPLAINED : 10000);
    const answer = new Answer(await this.body(state), state.show, most);
    await answer.ask(Math.min(most, LENGTHS[0]), signal);
    this.kept.set(key, answer);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return answer;
  }

  async body(state) {
    const body = { space: this.offers.spaces.includes(state.show) || (state.show === 'both' && this.offers.spaces.length > 1) ? state.show : 'repaired' };
    if (state.like) body.like = state.like;
    else {
      if (state.q.trim()) body.text = state.q.trim();
      if (state.image) {
        const picture = await recall(state.image);
        if (!picture) {
          throw new api.Fault('The picture of this search is not on this device.', {
            advice: 'Pictures you search with are kept in your browser alone. Drop the picture here again.',
            status: 400,
          });
        }
        body.image = await dataUrl(picture.blob);
      }
    }
    if (state.where.trim()) body.where = state.where.trim();
    if (state.rerank && this.offers.rerank) body.rerank = true;
    if (state.explain && this.offers.explain) body.explain = true;
    return body;
  }

  forget() { this.kept.clear(); }
}
