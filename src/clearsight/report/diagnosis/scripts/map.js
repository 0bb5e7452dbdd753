// The maps: points on canvases. The item pointed at is marked, with its matches, on every map of the page.

const SHAPES = [
  (pen, x, y, r) => { pen.moveTo(x + r, y); pen.arc(x, y, r, 0, 2 * Math.PI); },
  (pen, x, y, r) => { pen.moveTo(x, y - 1.25 * r); pen.lineTo(x + 1.15 * r, y + r); pen.lineTo(x - 1.15 * r, y + r); pen.closePath(); },
  (pen, x, y, r) => pen.rect(x - r, y - r, 2 * r, 2 * r),
];
const COLOURS = ['--image', '--text', '--both'];
const REACH = 18;

class PlaneMap {
  constructor(figure) {
    this.canvas = find('canvas', figure);
    const map = data.models[figure.dataset.model].maps[figure.dataset.map];
    this.label = map.label;
    this.items = map.items;
    this.places = map.places;
    this.at = new Map(map.items.map((item, i) => [item, i]));
    this.xs = new Float64Array(map.items.length);
    this.ys = new Float64Array(map.items.length);
    let [width, height] = [1, 1];
    for (let i = 0; i < map.places.length; i += 2) {
      width = Math.max(width, map.places[i]);
      height = Math.max(height, map.places[i + 1]);
    }
    this.extent = [width, height];
    this.canvas.addEventListener('pointermove', (event) => this.pointed(event));
    this.canvas.addEventListener('pointerdown', (event) => this.pointed(event));
    this.canvas.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') mark(null); });
    this.canvas.addEventListener('blur', () => mark(null));
    this.canvas.addEventListener('keydown', (event) => this.walked(event));
  }

  // Places the points for the present size of the canvas, and draws.
  lay() {
    const box = this.canvas.getBoundingClientRect();
    const sharp = window.devicePixelRatio || 1;
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * sharp);
    this.canvas.height = Math.round(box.height * sharp);
    const margin = 14;
    const scale = Math.min((box.width - 2 * margin) / this.extent[0], (box.height - 2 * margin) / this.extent[1]);
    const [left, top] = [(box.width - scale * this.extent[0]) / 2, (box.height - scale * this.extent[1]) / 2];
    for (let i = 0; i < this.items.length; i += 1) {
      this.xs[i] = left + scale * this.places[2 * i];
      this.ys[i] = top + scale * this.places[2 * i + 1];
    }
    this.radius = Math.max(1.8, Math.min(3.4, 70 / Math.sqrt(this.items.length)));
    this.cloud = null;
    this.draw();
  }

  // All points, drawn once for a size and a colour scheme; marks come on top of it.
  points() {
    const cloud = document.createElement('canvas');
    cloud.width = this.canvas.width;
    cloud.height = this.canvas.height;
    const pen = cloud.getContext('2d');
    const sharp = this.canvas.width / this.width;
    pen.scale(sharp, sharp);
    const style = getComputedStyle(document.documentElement);
    pen.globalAlpha = this.items.length > 1500 ? 0.55 : 0.7;
    // In three turns, each taking every third point of a kind, so that no kind lies wholly above another.
    for (let turn = 0; turn < 3; turn += 1) {
      for (let kind = 0; kind < SHAPES.length; kind += 1) {
        pen.fillStyle = style.getPropertyValue(COLOURS[kind]);
        pen.beginPath();
        for (let i = turn; i < this.items.length; i += 3) {
          if (items.kind[this.items[i]] === kind) SHAPES[kind](pen, this.xs[i], this.ys[i], this.radius);
        }
        pen.fill();
      }
    }
    return cloud;
  }

  draw() {
    if (!this.cloud) this.cloud = this.points();
    const pen = this.canvas.getContext('2d');
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.cloud, 0, 0);
    const i = marked === null ? undefined : this.at.get(marked);
    if (i === undefined) return;
    const sharp = this.canvas.width / this.width;
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    const style = getComputedStyle(document.documentElement);
    pen.strokeStyle = style.getPropertyValue('--ink');
    pen.lineWidth = 1.5;
    const matched = partnersOf(marked).map((other) => this.at.get(other)).filter((j) => j !== undefined);
    for (const j of matched) {
      pen.beginPath();
      pen.moveTo(this.xs[i], this.ys[i]);
      pen.lineTo(this.xs[j], this.ys[j]);
      pen.stroke();
    }
    for (const j of [...matched, i]) {
      const kind = items.kind[this.items[j]];
      pen.beginPath();
      SHAPES[kind](pen, this.xs[j], this.ys[j], this.radius + (j === i ? 3.5 : 2.5));
      pen.fillStyle = style.getPropertyValue(COLOURS[kind]);
      pen.fill();
      pen.stroke();
    }
  }

  nearest(x, y) {
    let [best, closest] = [null, REACH * REACH];
    for (let i = 0; i < this.items.length; i += 1) {
      const away = (this.xs[i] - x) ** 2 + (this.ys[i] - y) ** 2;
      if (away < closest) [best, closest] = [i, away];
    }
    return best;
  }

  pointed(event) {
    const box = this.canvas.getBoundingClientRect();
    const i = this.nearest(event.clientX - box.left, event.clientY - box.top);
    if (i === null) return mark(null);
    return this.choose(i, event.pointerType !== 'mouse');
  }

  choose(i, aloud) {
    const item = this.items[i];
    mark(item);
    const box = this.canvas.getBoundingClientRect();
    const match = this.at.get(partnersOf(item)[0]);
    const leftward = match !== undefined && this.xs[match] > this.xs[i]; // leave the match in sight
    showTip(item, box.left + this.xs[i], box.top + this.ys[i], leftward);
    if (aloud) spoken.textContent = nameOf(item);
  }

  // The arrow keys go to the nearest point within 45 degrees of their direction.
  walked(event) {
    const toward = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === 'Escape') return mark(null);
    if (!toward || !this.items.length) return undefined;
    event.preventDefault();
    const here = marked === null ? undefined : this.at.get(marked);
    if (here === undefined) return this.choose(this.central(), true);
    let [best, closest] = [here, Infinity];
    for (let i = 0; i < this.items.length; i += 1) {
      const [x, y] = [this.xs[i] - this.xs[here], this.ys[i] - this.ys[here]];
      const along = x * toward[0] + y * toward[1];
      const aside = Math.abs(x * toward[1]) + Math.abs(y * toward[0]);
      if (along > 0.01 && aside <= along && along + 2 * aside < closest) [best, closest] = [i, along + 2 * aside];
    }
    return this.choose(best, true);
  }

  central() {
    const [x, y] = [this.width / 2, this.height / 2];
    let [best, closest] = [0, Infinity];
    for (let i = 0; i < this.items.length; i += 1) {
      const away = (this.xs[i] - x) ** 2 + (this.ys[i] - y) ** 2;
      if (away < closest) [best, closest] = [i, away];
    }
    return best;
  }
}

let marked = null;
const maps = findAll('.plane').map((figure) => new PlaneMap(figure));

function mark(item) {
  if (item === null) hideTip();
  if (item === marked) return;
  marked = item;
  for (const map of maps) map.draw();
}

const layAll = () => { mark(null); for (const map of maps) map.lay(); };
let waiting = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(layAll);
}).observe(document.body);
dark.addEventListener('change', layAll);
document.addEventListener('scroll', () => { if (marked !== null && document.activeElement?.tagName !== 'CANVAS') mark(null); }, { passive: true });
layAll();
document.getElementById('map-waits')?.remove();
