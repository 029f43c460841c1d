// Elements and numbers. Texts from files only ever become text nodes, never markup.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with these properties and children; null children are left out. */
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for a part of a figure. */
export function shape(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) {
      node.addEventListener(name.slice(2), value);
    } else if (name === 'color') {
      node.style.setProperty('--color', `var(${value})`);
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? '' : value);
    }
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

/** A number for reading: about four significant digits. */
export function shown(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) {
    return '–';
  }
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 1000) {
    return Math.round(value).toLocaleString('en');
  }
  if (size < 1e-3) {
    return value === 0 ? '0' : value.toExponential(1).replace('.0e', 'e');
  }
  return value.toFixed(size < 0.01 ? 5 : size < 10 ? 4 : size < 100 ? 2 : 1);
}

/** A time in seconds, as 42 s, 3:07 or 2:03:07. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) {
    return '–';
  }
  if (seconds < 60) {
    return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  }
  const two = n => String(Math.floor(n)).padStart(2, '0');
  const all = Math.round(seconds);
  const hours = Math.floor(all / 3600);
  return hours > 0 ? `${hours}:${two(all / 60 % 60)}:${two(all % 60)}` : `${Math.floor(all / 60)}:${two(all % 60)}`;
}

/** The name of a metric or of an option, for reading. */
export function words(key) {
  return key.replaceAll('_', ' ').replace(/\bmib\b/, 'MiB').replace('rouge l', 'ROUGE-L').replace('f1', 'F1');
}
