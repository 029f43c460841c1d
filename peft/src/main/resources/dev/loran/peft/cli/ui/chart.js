import {duration, element, shape, shown} from '/element.js';

const HEIGHT = 220;
const LEFT = 52;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;

let next = 0;

/** Curves of several runs with axes, and a read-out at the pointer or, by the arrow keys, at a point. */
export class Chart {
  /**
   * @param title of the figure
   * @param moved called with the place of the read-out on the x axis, or null for none, and this chart, so that others
   *     mark the same place
   */
  constructor(title, moved) {
    this.moved = moved;
    this.lines = [];
    this.at = null;
    this.id = `chart-${next++}`;
    this.heading = element('h3', {id: this.id}, title);
    this.readout = element('div', {class: 'readout', 'aria-live': 'polite'});
    this.svg = shape('svg', {role: 'img', tabindex: 0, 'aria-labelledby': this.id, height: HEIGHT});
    this.node = element('figure', {}, this.heading, this.svg, this.readout);
    this.title = title;
    this.svg.addEventListener('pointermove', e => this.point(e));
    this.svg.addEventListener('pointerdown', e => this.point(e));
    this.svg.addEventListener('pointerleave', () => this.moved(null));
    this.svg.addEventListener('blur', () => this.moved(null));
    this.svg.addEventListener('keydown', e => this.key(e));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  /**
   * @param lines each with the run's name, color and dash, its points x and y, and maybe low and high of each and the
   *     smoothed values
   * @param scale log: whether the y axis is logarithmic; over: what the x axis shows, 'step' or 'seconds', from 0
   *     to end; zero: whether the y axis contains 0
   */
  show(lines, scale) {
    this.lines = lines;
    this.scale = scale;
    this.node.hidden = lines.every(line => line.y.every(v => v === null));
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth || this.node.clientWidth - 32;
    if (this.node.hidden || width < 80 || !this.scale) {
      return;
    }
    this.width = width;
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.x = this.across(width);
    this.y = this.upwards();
    const clip = `${this.id}-clip`;
    const curves = shape('g', {'clip-path': `url(#${clip})`});
    this.lines.forEach(line => this.curve(line, curves));
    this.marks = shape('g');
    this.svg.replaceChildren(
        shape('defs', {}, shape('clipPath', {id: clip},
            shape('rect', {
              x: LEFT - 4, y: TOP - 4, width: width - LEFT - RIGHT + 8, height: HEIGHT - TOP - BOTTOM + 8}))),
        this.grid(), curves, this.marks);
    this.mark(this.at, this.isHere);
  }

  across(width) {
    const end = this.scale.end || 1;
    const axis = v => LEFT + v / end * (width - LEFT - RIGHT);
    axis.value = px => (px - LEFT) / (width - LEFT - RIGHT) * end;
    const count = Math.max(2, Math.floor(width / 90));
    axis.ticks = this.scale.over === 'seconds' ? clock(end, count) : linear(0, end, count).filter(Number.isInteger);
    return axis;
  }

  /** Single jumps are left out of the axis, so that they do not flatten the rest. */
  upwards() {
    const rough = [];
    const certain = [];
    for (const line of this.lines) {
      rough.push(...line.y.filter(v => v !== null));
      certain.push(...(line.smooth ?? line.y).filter(v => v !== null));
    }
    rough.sort((a, b) => a - b);
    const edge = rough.length > 40 ? Math.ceil(rough.length * 0.005) : 0;
    let low = Math.min(rough[edge] ?? 0, ...certain.slice(-4000));
    let high = Math.max(rough[rough.length - 1 - edge] ?? 1, ...certain.slice(-4000));
    const log = this.scale.log && low > 0;
    if (this.scale.zero) {
      low = Math.min(low, 0);
    }
    if (high - low < 1e-12 * Math.abs(high) || high === low) {
      const some = Math.abs(high) * 0.1 || 1;
      low -= log ? 0 : some;
      high += some;
    }
    if (log) {
      const room = (high / low) ** 0.05;
      [low, high] = [low / room, high * room];
    } else {
      const room = (high - low) * 0.06;
      [low, high] = [this.scale.zero && low === 0 ? 0 : low - room, high + room];
    }
    const of = log ? Math.log : v => v;
    const tall = HEIGHT - TOP - BOTTOM;
    const axis = v => HEIGHT - BOTTOM - (of(v) - of(low)) / (of(high) - of(low)) * tall;
    axis.ticks = log ? powers(low, high) : linear(low, high, 5);
    axis.log = log;
    return axis;
  }

  grid() {
    const grid = shape('g', {class: 'grid'});
    for (const v of this.y.ticks) {
      const y = this.y(v);
      grid.append(shape('line', {x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y}),
          shape('text', {x: LEFT - 8, y: y + 4, 'text-anchor': 'end'}, tick(v)));
    }
    const label = v => this.scale.over === 'seconds' ? clockTick(v) : v.toLocaleString('en');
    for (const v of this.x.ticks) {
      const x = this.x(v);
      grid.append(shape('line', {class: 'tick', x1: x, x2: x, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4}),
          shape('text', {
            x, y: HEIGHT - 6, 'text-anchor': x + 3.4 * label(v).length > this.width ? 'end' : 'middle'}, label(v)));
    }
    grid.append(shape('line', {
      class: 'axis', x1: LEFT, x2: this.width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM}));
    return grid;
  }

  curve(line, into) {
    const color = line.color;
    if (line.low) {
      into.append(shape('path', {class: 'band', color, d: this.band(line)}));
    }
    if (line.smooth) {
      into.append(shape('path', {class: 'raw', color, d: this.path(line.x, line.y)}));
    }
    into.append(shape('path', {
      class: 'line', color, d: this.path(line.x, line.smooth ?? line.y),
      'stroke-dasharray': ['none', '6 3', '2 3', '8 3 2 3'][line.dash % 4]}));
    if (line.points) {
      line.x.forEach((x, i) => {
        if (line.y[i] !== null) {
          into.append(shape('circle', {class: 'dot', color, cx: this.x(x), cy: this.y(line.y[i]), r: 2.5}));
        }
      });
    }
  }

  path(xs, ys) {
    let d = '';
    let pen = 'M';
    for (let i = 0; i < xs.length; i++) {
      const y = ys[i] === null || this.y.log && ys[i] <= 0 ? NaN : this.y(ys[i]);
      if (Number.isFinite(y)) {
        d += `${pen}${this.x(xs[i]).toFixed(1)} ${Math.max(-1e4, Math.min(1e4, y)).toFixed(1)}`;
        pen = 'L';
      } else {
        pen = 'M';
      }
    }
    return d;
  }

  band(line) {
    const up = [];
    const down = [];
    for (let i = 0; i < line.x.length; i++) {
      if (line.low[i] !== null && (!this.y.log || line.low[i] > 0)) {
        const x = this.x(line.x[i]).toFixed(1);
        up.push(`${x} ${Math.max(-1e4, this.y(line.high[i])).toFixed(1)}`);
        down.push(`${x} ${Math.min(1e4, this.y(line.low[i])).toFixed(1)}`);
      }
    }
    return up.length > 1 ? `M${up.join('L')}L${down.reverse().join('L')}Z` : '';
  }

  // ---- the read-out

  point(event) {
    if (this.x) {
      const box = this.svg.getBoundingClientRect();
      this.moved(this.x.value(event.clientX - box.left), this);
    }
  }

  key(event) {
    const move = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity}[event.key];
    const all = [...new Set(this.lines.flatMap(line => line.x))].sort((a, b) => a - b);
    if (event.key === 'Escape') {
      this.moved(null);
    } else if (move && all.length > 0) {
      event.preventDefault();
      const now = this.at === null ? all.length - 1 : all.findLastIndex(x => x <= this.at + 1e-9);
      this.moved(all[Math.max(0, Math.min(all.length - 1, now + move))], this);
    }
  }

  /** Marks a place of the x axis, or none for null, and says the values there if it is here that the user points. */
  mark(at, isHere) {
    this.at = at;
    this.isHere = isHere;
    if (!this.x || !this.marks || this.node.hidden) {
      return;
    }
    this.marks.replaceChildren();
    this.readout.replaceChildren();
    this.node.classList.toggle('pointed', at !== null && isHere);
    if (at === null) {
      return;
    }
    const found = [];
    // A run that ended before says nothing here.
    const near = 0.03 * this.scale.end;
    for (const line of this.lines) {
      const i = nearest(line.x, at);
      const values = line.smooth ?? line.y;
      if (i >= 0 && at < line.x.at(-1) + near && values[i] !== null && values[i] !== undefined) {
        found.push({line, i, value: values[i]});
      }
    }
    if (found.length === 0) {
      return;
    }
    const place = found.reduce((a, b) =>
      Math.abs(a.line.x[a.i] - at) <= Math.abs(b.line.x[b.i] - at) ? a : b);
    const x = this.x(place.line.x[place.i]);
    this.marks.append(shape('line', {class: 'guide', x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM}));
    for (const {line, i, value} of found) {
      this.marks.append(shape('circle', {
        class: 'mark', color: line.color, cx: this.x(line.x[i]), cy: this.y(value), r: 3.5}));
    }
    if (!isHere) {
      return;
    }
    const down = value => this.y(value);
    found.sort((a, b) => down(a.value) - down(b.value));
    const where = this.scale.over === 'seconds'
      ? duration(place.line.x[place.i]) : `step ${place.line.x[place.i].toLocaleString('en')}`;
    this.readout.append(element('b', {}, where),
        ...found.slice(0, 8).map(({line, value}) => element('span', {},
            element('i', {class: 'swatch', color: line.color}), element('span', {class: 'name'}, line.name),
            element('data', {}, shown(value)))));
    if (found.length > 8) {
      this.readout.append(element('span', {class: 'name'}, `and ${found.length - 8} more`));
    }
    this.readout.classList.toggle('left', x > this.width / 2);
  }
}

/** The index of the value that is nearest to `at` in ascending `xs`; -1 if there is none. */
function nearest(xs, at) {
  let from = 0;
  let to = xs.length - 1;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (xs[middle] < at) {
      from = middle + 1;
    } else {
      to = middle;
    }
  }
  return from > 0 && at - xs[from - 1] < xs[from] - at ? from - 1 : to;
}

function linear(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / size); i * size <= high; i++) {
    ticks.push(Number((i * size).toPrecision(12)));
  }
  return ticks;
}

function powers(low, high) {
  const all = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
    all.push(...[1, 2, 5].map(m => Number((m * 10 ** p).toPrecision(12))));
  }
  const inside = all.filter(v => v >= low && v <= high);
  const ones = inside.filter(v => String(v).replace(/[.0]|e.*/g, '') === '1');
  return inside.length < 2 ? linear(low, high, 4).filter(v => v > 0) : inside.length > 8 ? ones : inside;
}

const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800];

function clock(high, count) {
  const size = CLOCK.find(s => high / s <= count) ?? 604800;
  const ticks = [];
  for (let i = 0; i * size <= high; i++) {
    ticks.push(i * size);
  }
  return ticks;
}

function clockTick(seconds) {
  return seconds === 0 ? '0' : duration(seconds).replace('.0 s', ' s');
}

function tick(v) {
  const size = Math.abs(v);
  if (v === 0) {
    return '0';
  }
  if (size >= 1e5 || size < 1e-3) {
    return v.toExponential().replace('e+', 'e');
  }
  return size >= 1000 ? v.toLocaleString('en') : String(v);
}
