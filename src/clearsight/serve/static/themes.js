// Light, dark, or as the system has it.

import { h, icon } from './dom.js';

const ORDER = ['auto', 'light', 'dark'];
const DRAWN = 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16';
const LABELS = { auto: 'Auto', light: 'Light', dark: 'Dark' };

export function themes(button, changed) {
  const root = document.documentElement;
  const show = () => {
    const now = root.dataset.theme ?? 'auto';
    button.replaceChildren(icon(DRAWN), h('span', { text: LABELS[now] }));
    button.setAttribute('aria-label', `Colours: ${now === 'auto' ? 'as the system' : now}`);
    button.title = 'Colours: light, dark, or as the system';
    changed();
  };
  button.addEventListener('click', () => {
    const next = ORDER[(ORDER.indexOf(root.dataset.theme ?? 'auto') + 1) % ORDER.length];
    if (next === 'auto') delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (next === 'auto') localStorage.removeItem('theme');
      else localStorage.setItem('theme', next);
    } catch { /* storage may be forbidden; the choice then lasts as long as the page */ }
    show();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', changed);
  show();
}
