// What is shown, as an address: whoever opens it sees the same, and the back button goes through it.

export const VIEWS = ['search', 'map', 'index'];
export const SHOWS = ['repaired', 'both', 'raw'];

/**
 * `image` is the key of a picture kept on this device, `like` and `item` are ids; `show` is a space or both.
 */
export function read(address = location.search) {
  const said = new URLSearchParams(address);
  const one = (name, allowed) => (allowed.includes(said.get(name)) ? said.get(name) : allowed[0]);
  return {
    view: one('view', VIEWS),
    q: said.get('q') ?? '',
    image: said.get('image') ?? '',
    like: said.get('like') ?? '',
    where: said.get('where') ?? '',
    show: one('show', SHOWS),
    rerank: said.get('rerank') === '1',
    explain: said.get('explain') === '1',
    item: said.get('item') ?? '',
  };
}

export function write(state) {
  const said = new URLSearchParams();
  if (state.view !== VIEWS[0]) said.set('view', state.view);
  for (const name of ['q', 'image', 'like', 'where']) if (state[name]) said.set(name, state[name]);
  if (state.show !== SHOWS[0]) said.set('show', state.show);
  for (const name of ['rerank', 'explain']) if (state[name]) said.set(name, '1');
  if (state.item) said.set('item', state.item);
  return `?${said}`;
}

/** Whether a state asks anything, or only shows. */
export const asks = (state) => Boolean(state.q.trim() || state.image || state.like);

/** Equal for states with the same answer. */
export const question = (state) => write({ ...state, view: VIEWS[0], item: '' });
