// Points on a plane by WebGL2: as many as a collection has, from one place to another, some of them lit.

const VERTEX = `#version 300 es
layout(location=0) in vec2 before; layout(location=1) in vec2 after; layout(location=2) in float kind; layout(location=3) in float lit;
uniform float mixed; uniform vec2 shift; uniform vec2 scale; uniform float size; uniform float stage; uniform vec3 colours[3];
out vec3 colour; flat out float shape; flat out float marked;
void main() {
  gl_Position = vec4((mix(before, after, mixed) + shift) * scale, 0., 1.);
  colour = colours[int(kind)]; shape = kind; marked = stage * lit;
  gl_PointSize = marked > 0. ? max(size, 6. * stage) + 5. * stage : size;
  if (stage > .5 && lit < .5) gl_Position = vec4(2., 2., 0., 1.);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 colour; flat in float shape; flat in float marked; uniform float alpha; uniform vec3 ink; uniform float sharp; out vec4 paint;
float away(vec2 p) {
  if (shape < .5) return length(p);
  if (shape < 1.5) return max(abs(p.x) * .87 - p.y * .5, p.y) * 1.18 + .05;
  return max(abs(p.x), abs(p.y)) * 1.08;
}
void main() {
  float d = away(gl_PointCoord * 2. - 1.), soft = max(fwidth(d), .001);
  float cover = 1. - smoothstep(1. - soft, 1., d);
  if (cover <= 0.) discard;
  vec3 c = marked > 0. ? mix(colour, ink, smoothstep(.62, .7, d)) : colour;
  paint = vec4(c, cover * alpha);
  paint.rgb *= paint.a;
}`;

export class Points {
  /** Raises where the browser has no WebGL2. `places`: {raw, repaired} of N pairs, `kinds`: N of 0 (image), 1 (text), 2 (both). */
  constructor(canvas, { raw, repaired, kinds }) {
    Object.assign(this, { canvas, raw, repaired, kinds });
    this.length = kinds.length;
    this.lit = new Uint8Array(this.length);
    this.view = { x: 0, y: 0, zoom: 1 };
    this.mixed = 1;
    this.any = false;
    this.order = shuffled(this.length);
    canvas.addEventListener('webglcontextlost', (event) => event.preventDefault());
    canvas.addEventListener('webglcontextrestored', () => { this.begin(); this.draw(); });
    this.begin();
  }

  begin() {
    const gl = this.canvas.getContext('webgl2', { antialias: false, premultipliedAlpha: true, powerPreference: 'low-power' });
    if (!gl) throw new Error('no WebGL2');
    this.gl = gl;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    this.places = Object.fromEntries(['mixed', 'shift', 'scale', 'size', 'stage', 'colours', 'alpha', 'ink', 'sharp'].map((name) => [name, gl.getUniformLocation(program, name)]));
    const pairs = (xy) => { const out = new Float32Array(xy.length); this.order.forEach((i, at) => { out[2 * at] = xy[2 * i]; out[2 * at + 1] = xy[2 * i + 1]; }); return out; };
    this.attribute(0, 2, pairs(this.raw));
    this.attribute(1, 2, pairs(this.repaired));
    this.attribute(2, 1, Uint8Array.from(this.order, (i) => this.kinds[i]));
    this.litBuffer = this.attribute(3, 1, this.lit);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.light([]);
  }

  attribute(place, width, values) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, values instanceof Float32Array ? gl.FLOAT : gl.UNSIGNED_BYTE, false, 0, 0);
    return buffer;
  }

  /** Lights the points at these places, and dims the others if there are any. */
  light(indices) {
    const lit = new Uint8Array(this.length);
    for (const i of indices) lit[i] = 1;
    this.any = indices.length > 0;
    this.lit = lit;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.litBuffer);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 0, Uint8Array.from(this.order, (i) => lit[i]));
  }

  paint({ colours, ink }) { this.colours = colours.flat(); this.ink = ink; }

  /** Fits the drawing to the size of the canvas on the screen. */
  fit() {
    const sharp = Math.min(devicePixelRatio || 1, 2);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * sharp);
    this.canvas.height = Math.round(this.height * sharp);
    this.sharp = sharp;
  }

  /** Screen pixels for one unit of the plane, before the zoom: the plane lies in -1..1. */
  get unit() { return 0.47 * Math.min(this.width, this.height * 1.4); }
  get stretch() { return [Math.min(this.width / 2 - 16, this.unit * 1.35), Math.min(this.height / 2 - 16, this.unit)]; }

  draw() {
    const { gl, places, view } = this;
    if (!this.width || gl.isContextLost()) return;
    const [sx, sy] = this.stretch;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform1f(places.mixed, this.mixed);
    gl.uniform2f(places.shift, -view.x, -view.y);
    gl.uniform2f(places.scale, (2 * sx * view.zoom) / this.width, (2 * sy * view.zoom) / this.height);
    gl.uniform1f(places.size, this.radius * 2 * this.sharp);
    gl.uniform3fv(places.colours, this.colours);
    gl.uniform3fv(places.ink, this.ink);
    gl.uniform1f(places.stage, 0);
    gl.uniform1f(places.alpha, this.any ? 0.34 : this.length > 3000 ? 0.6 : 0.8);
    gl.drawArrays(gl.POINTS, 0, this.length);
    if (!this.any) return;
    gl.uniform1f(places.stage, this.sharp);
    gl.uniform1f(places.alpha, 1);
    gl.drawArrays(gl.POINTS, 0, this.length);
  }

  /** In screen pixels: smaller where there are many, larger as one comes near. */
  get radius() { return Math.max(1.25, Math.min(4.5, 130 / Math.sqrt(this.length))) * Math.min(2.2, this.view.zoom ** 0.4); }

  placeOf(i) {
    const [sx, sy] = this.stretch;
    const x = this.raw[2 * i] * (1 - this.mixed) + this.repaired[2 * i] * this.mixed;
    const y = this.raw[2 * i + 1] * (1 - this.mixed) + this.repaired[2 * i + 1] * this.mixed;
    return [this.width / 2 + (x - this.view.x) * sx * this.view.zoom, this.height / 2 - (y - this.view.y) * sy * this.view.zoom];
  }

  /** The point nearest to a place on the screen, lit ones first, or -1 beyond `reach` pixels. */
  pick(px, py, reach = 14) {
    let [best, closest] = [-1, reach * reach];
    for (let i = 0; i < this.length; i += 1) {
      const [x, y] = this.placeOf(i);
      const away = ((x - px) ** 2 + (y - py) ** 2) * (this.lit[i] ? 0.25 : 1);
      if (away < closest) [best, closest] = [i, away];
    }
    return best;
  }

  /** Moves the view by screen pixels. */
  pan(dx, dy) {
    const [sx, sy] = this.stretch;
    this.view.x -= dx / (sx * this.view.zoom);
    this.view.y += dy / (sy * this.view.zoom);
    this.bound();
  }

  /** Zooms so that the place under (px, py) stays where it is. */
  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const to = Math.min(Math.max(this.view.zoom * factor, 1), 200);
    const [sx, sy] = this.stretch;
    const [dx, dy] = [(px - this.width / 2) / sx, (this.height / 2 - py) / sy];
    this.view.x += dx / this.view.zoom - dx / to;
    this.view.y += dy / this.view.zoom - dy / to;
    this.view.zoom = to;
    this.bound();
  }

  bound() {
    const far = 1 - 0.5 / this.view.zoom;
    const within = (value) => Math.min(Math.max(value, -far), far);
    if (this.view.zoom <= 1) Object.assign(this.view, { x: 0, y: 0 });
    else Object.assign(this.view, { x: within(this.view.x), y: within(this.view.y) });
  }
}

/** An order in which no kind lies wholly above another; the same each time. */
function shuffled(length) {
  const order = Uint32Array.from({ length }, (_, i) => i);
  let seed = 1;
  for (let i = length - 1; i > 0; i -= 1) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = seed % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
