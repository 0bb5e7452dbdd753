// Every chart can be taken along as SVG with its colours in it, every map as PNG.

const KEPT = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'stroke-linejoin', 'fill-opacity', 'opacity',
  'font-family', 'font-size', 'font-weight', 'text-anchor', 'stop-color', 'font-variant-numeric'];

function fileName(title, ending) {
  const plain = title.toLowerCase().replace(/→/g, 'to').replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '');
  return `${plain || 'figure'}.${ending}`;
}

function save(name, blob) {
  const link = make('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A copy whose look no longer depends on the page's style sheet.
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const sources = [svg, ...findAll('*', svg)];
  [copy, ...findAll('*', copy)].forEach((element, i) => {
    const style = getComputedStyle(sources[i]);
    for (const property of KEPT) element.style.setProperty(property, style.getPropertyValue(property));
    element.removeAttribute('class');
  });
  const used = findAll('linearGradient').filter((gradient) => svg.outerHTML.includes('class="area modality"') && gradient.id === 'modality');
  for (const gradient of used) {
    const defs = document.createElementNS(svg.namespaceURI, 'defs');
    const own = gradient.cloneNode(true);
    [...own.children].forEach((stop, i) => {
      stop.style.stopColor = getComputedStyle(gradient.children[i]).stopColor;
      stop.removeAttribute('class');
    });
    defs.append(own);
    copy.prepend(defs);
  }
  const [, , width, height] = svg.getAttribute('viewBox').split(' ');
  const ground = document.createElementNS(svg.namespaceURI, 'rect');
  ground.setAttribute('width', width);
  ground.setAttribute('height', height);
  ground.setAttribute('fill', getComputedStyle(document.body).backgroundColor);
  copy.prepend(ground);
  copy.setAttribute('xmlns', svg.namespaceURI);
  copy.setAttribute('width', width);
  copy.setAttribute('height', height);
  return new XMLSerializer().serializeToString(copy);
}

function offer(figure, title, kind, taken) {
  const button = make('button', 'take', `Download ${kind}`);
  button.type = 'button';
  button.setAttribute('aria-label', `Download ${title} as ${kind}`);
  button.addEventListener('click', taken);
  figure.append(button);
}

for (const figure of findAll('figure.chart')) {
  const title = find('h3, h4', figure).textContent;
  const svg = find(':scope > svg', figure);
  offer(figure, title, 'SVG', () => save(fileName(title, 'svg'), new Blob([standalone(svg)], { type: 'image/svg+xml' })));
}
maps.forEach((map) => {
  const figure = map.canvas.closest('figure');
  const title = `${data.models[figure.dataset.model].name}, ${map.label}`;
  offer(figure, `map of ${title}`, 'PNG', () => {
    mark(null);
    const sheet = make('canvas');
    [sheet.width, sheet.height] = [map.canvas.width, map.canvas.height];
    const pen = sheet.getContext('2d');
    pen.fillStyle = getComputedStyle(document.body).backgroundColor;
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.drawImage(map.canvas, 0, 0);
    sheet.toBlob((blob) => save(fileName(`map ${title}`, 'png'), blob), 'image/png');
  });
});
