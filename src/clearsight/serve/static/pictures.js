// Pictures to search with. They stay on this device (IndexedDB), under the first letters of their SHA-256, so
// that the back button and a reload find them again; the server gets them with a question and keeps none.

const KEPT = 30;
const EDGE = 2048;
const SPARE = 65536; // bytes for the rest of a request
const memory = new Map();

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

async function shelf(mode) {
  const opening = indexedDB.open('clearsight', 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore('pictures', { keyPath: 'key' });
  return (await done(opening)).transaction('pictures', mode).objectStore('pictures');
}

async function keep(picture) {
  memory.set(picture.key, picture);
  try {
    const store = await shelf('readwrite');
    await done(store.put({ key: picture.key, name: picture.name, blob: picture.blob, at: Date.now() }));
    const all = await done(store.getAll());
    for (const old of all.sort((a, b) => b.at - a.at).slice(KEPT)) store.delete(old.key);
  } catch { /* a private window may forbid it; memory has the picture until the page is left */ }
}

async function keyOf(blob) {
  const octets = await blob.arrayBuffer();
  if (!crypto.subtle) { // outside a secure context: any digest will do, it only names the picture here
    let sum = 2166136261;
    for (const octet of new Uint8Array(octets)) sum = Math.imul(sum ^ octet, 16777619);
    return `${(sum >>> 0).toString(16)}-${blob.size.toString(16)}`;
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', octets));
  return [...digest.subarray(0, 8)].map((octet) => octet.toString(16).padStart(2, '0')).join('');
}

async function reduced(blob, limits) {
  const bitmap = await createImageBitmap(blob);
  const pixels = bitmap.width * bitmap.height;
  const most = ((limits.body_bytes ?? Infinity) - SPARE) * 0.75; // a data URL is a third larger
  if (blob.size <= most && pixels <= (limits.pixels ?? Infinity)) return blob;
  const scale = Math.min(1, EDGE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, 'image/jpeg', 0.92); });
}

/**
 * Takes a file that a person gave. A picture beyond the server's limits is reduced to 2,048 pixels; one that
 * this browser cannot read is sent as it is, for the server may read it.
 */
export async function take(file, limits) {
  if (!file.type.startsWith('image/')) return null;
  let blob = file;
  try { blob = await reduced(file, limits); } catch { /* not for this browser */ }
  const picture = { key: await keyOf(blob), name: file.name || 'Pasted picture', blob, reduced: blob !== file };
  await keep(picture);
  return picture;
}

/** A picture taken earlier on this device, or null. */
export async function recall(key) {
  if (memory.has(key)) return memory.get(key);
  try {
    const found = await done((await shelf('readonly')).get(key));
    if (found) memory.set(key, found);
    return found ?? null;
  } catch {
    return null;
  }
}

export const dataUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});
