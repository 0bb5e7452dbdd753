// All that the page asks of the server, in the shapes of serve/schemas.py. It asks its own origin alone.

export class Fault extends Error {
  /** `where`: the place at fault; `advice`: the next step; `status`: 0 where no server answered. */
  constructor(what, { where = null, advice = null, status = 0, id = null } = {}) {
    super(what);
    Object.assign(this, { where, advice, status, id });
  }
}

const wait = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal?.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

async function faultOf(response) {
  let body = {};
  try { body = await response.json(); } catch { /* a proxy's page, or nothing */ }
  const { what, where, id } = typeof body.what === 'string' ? body : { what: `The server answered ${response.status}.` };
  return new Fault(what, { where, advice: body.do ?? null, status: response.status, id });
}

async function ask(path, { signal, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, { signal, credentials: 'same-origin', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Fault(navigator.onLine === false ? 'This device is offline.' : 'The server does not answer.', {
      advice: 'See whether clearsight serve is still running, then try again.',
    });
  }
  if (!response.ok) throw await faultOf(response);
  return response;
}

async function post(path, body, options) {
  const sent = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) };
  return ask(path, { ...options, ...sent });
}

export const info = async (signal) => (await ask('info', { signal })).json();
export const sample = async (number, signal) => (await (await ask(`items?sample=${number}`, { signal })).json()).hits;
export const search = async (query, signal) => (await post('search', query, { signal })).json();
export const open = async (token) => { await post('session', { token }); };

export async function items(ids, signal) {
  const query = new URLSearchParams(ids.map((id) => ['id', id]));
  return (await (await ask(`items?${query}`, { signal })).json()).hits;
}

/** The map; asked for again while the server still draws it. */
export async function map(signal) {
  for (;;) {
    const response = await ask('map', { signal });
    const answer = await response.json();
    if (response.status !== 202) return unpack(answer);
    await wait(Number(response.headers.get('Retry-After')) || 2, signal);
  }
}

function unpack(answer) {
  const octets = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const places = (text) => new Float32Array(octets(text).buffer); // every machine that runs a browser is little-endian
  return { ...answer, kind: octets(answer.modality), raw: places(answer.raw), repaired: places(answer.repaired) };
}

export const thumbnail = (id) => `thumbnail?id=${encodeURIComponent(id)}`;
export const original = (id) => `original?id=${encodeURIComponent(id)}`;
