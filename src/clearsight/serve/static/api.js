// All that the page asks of the server. It asks its own origin alone.
//
//   GET  info                     rows, modalities {image: n}, fields [{name, type}], model, repair, offers
//   GET  items?id=..&id=..        {hits}: items by id, score 0
//   GET  items?sample=24          {hits}: some items to begin with
//   POST search                   {text?, image? (data URL), like?, where?, top, space, rerank?, explain?}
//                                 -> {hits, rows, version, repair, seconds, notes}
//   GET  thumbnail?id=            JPEG, 404 for an item without a picture
//   GET  original?id=             the picture as it is in the folder
//   GET  map                      {version, ids, modality, raw, repaired: base64 of little-endian float32 pairs}
//
// A hit is {id, score, modality, text, source, metadata, fine, why}. A fault is {what, where, do}.

export class Fault extends Error {
  constructor(what, { where = null, advice = null, status = 0 } = {}) {
    super(what);
    this.where = where;
    this.advice = advice;
    this.status = status;
  }
}
