import {duration, element, shown, words} from '/element.js';

// The table of the runs that are shown, and the options in which they differ.

const options = new Map();
let sorted = {key: null, up: true};

const COLUMNS = [
  {key: 'method', name: 'method', isText: true},
  {key: 'state', name: 'state', isText: true},
  {key: 'step', name: 'steps'},
  {key: 'trainable_parameters', name: 'trainable parameters'},
  {key: 'trainable_percentage', name: '% of all', show: v => v.toFixed(3)},
  {key: 'train_loss', name: 'training loss'},
  {key: 'seconds', name: 'time', show: duration},
  {key: 'tokens_per_second', name: 'tokens/s', show: v => Math.round(v).toLocaleString('en')},
  {key: 'planned_tensor_mib', name: 'tensors planned, MiB', show: v => v.toFixed(1)},
  {key: 'peak_tensor_mib', name: 'tensors, MiB', show: v => v.toFixed(1)},
  {key: 'peak_memory_mib', name: 'process, MiB', show: v => Math.round(v).toLocaleString('en')},
];

function columns(runs) {
  const metrics = [...new Set(runs.flatMap(run => Object.keys(run.metrics ?? {})))];
  const headlines = metrics.filter(name => runs.some(run => run.headline === name));
  const others = metrics.filter(name => !headlines.includes(name));
  const held = [...headlines, ...others].map(name => ({
    key: `metrics.${name}`,
    name: name === 'loss' ? 'held-out loss' : words(name),
    best: name === 'loss' || name === 'perplexity' ? Math.min
      : runs.some(run => run.headline === name && run.higher_is_better) ? Math.max : null,
  }));
  const all = [...COLUMNS.slice(0, 5), ...held, ...COLUMNS.slice(5)];
  return all.filter(column => runs.some(run => value(run, column) !== undefined));
}

function value(run, column) {
  const found = column.key.startsWith('metrics.') ? run.metrics?.[column.key.slice(8)] : run[column.key];
  return found === null ? undefined : found;
}

/** Fills the table of `runs`. */
export function compare(table, runs, all, opened, open) {
  const stamp = JSON.stringify([runs, sorted, opened]);
  if (table.stamp === stamp) {
    return;
  }
  table.stamp = stamp;
  const shownColumns = columns(runs);
  const focused = table.contains(document.activeElement) ? document.activeElement.textContent : null;
  const by = shownColumns.find(column => column.key === sorted.key);
  const rows = [...runs];
  if (sorted.key === 'name') {
    rows.sort((a, b) => order(a.name, b.name));
  } else if (by) {
    rows.sort((a, b) => order(value(a, by), value(b, by)));
  }
  const sort = key => {
    sorted = {key, up: sorted.key === key ? !sorted.up : true};
    compare(table, runs, all, opened, open);
  };
  const head = ({key, name, isText}) => element('th', {
    class: isText ? 'text' : null,
    scope: 'col', 'aria-sort': sorted.key === key ? sorted.up ? 'ascending' : 'descending' : null},
  element('button', {type: 'button', onclick: () => sort(key)}, name));
  table.replaceChildren(
      element('thead', {}, element('tr', {}, head({key: 'name', name: 'run'}), ...shownColumns.map(head))),
      element('tbody', {}, ...rows.map(run => element('tr', {class: opened === run.id ? 'opened' : null},
          element('th', {scope: 'row'}, element('i', {class: `swatch dash-${run.dash % 4}`, color: run.color}),
              element('button', {type: 'button', onclick: () => open(run.id)}, run.name)),
          ...shownColumns.map(column => cell(run, column, runs))))));
  if (focused) {
    [...table.querySelectorAll('button')].find(button => button.textContent === focused)?.focus();
  }
}

/** Runs without a value come last, whatever the direction. */
function order(a, b) {
  if (a === undefined || b === undefined) {
    return (a === undefined) - (b === undefined);
  }
  const up = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en');
  return sorted.up ? up : -up;
}

function cell(run, column, runs) {
  const v = value(run, column);
  if (typeof v !== 'number') {
    return element('td', {class: column.isText ? 'text' : null}, v ?? '–');
  }
  const numbers = runs.map(other => value(other, column)).filter(n => typeof n === 'number');
  const isBest = column.best && numbers.length > 1 && v === column.best(...numbers);
  return element('td', {class: isBest ? 'best' : null}, column.show ? column.show(v) : shown(v));
}

/** Shows the options in which `runs` differ. */
export async function differences(place, title, runs, get) {
  const hidden = runs.length < 2;
  title.hidden = hidden;
  place.hidden = hidden;
  const ids = runs.map(run => run.id).join();
  if (hidden || place.ids === ids) {
    return;
  }
  place.ids = ids;
  const files = await Promise.all(runs.map(async run => {
    if (!options.has(run.id)) {
      options.set(run.id, (await get(`/api/runs/${run.id}`)).options ?? {});
    }
    return options.get(run.id);
  }));
  if (place.ids !== ids) {
    return;
  }
  const keys = [...new Set(files.flatMap(Object.keys))]
      .filter(key => new Set(files.map(file => JSON.stringify(file[key]))).size > 1);
  place.replaceChildren(keys.length === 0
    ? element('p', {class: 'empty'}, 'They have the same options.')
    : element('table', {},
        element('thead', {}, element('tr', {}, element('th', {scope: 'col'}, 'option'),
            ...runs.map(run => element('th', {scope: 'col'},
                element('i', {class: `swatch dash-${run.dash % 4}`, color: run.color}), run.name)))),
        element('tbody', {}, ...keys.map(key => element('tr', {}, element('th', {scope: 'row'}, `--${key}`),
            ...files.map(file => element('td', {class: typeof file[key] === 'number' ? null : 'text'},
                file[key] === undefined ? '–' : String(file[key]))))))));
}
