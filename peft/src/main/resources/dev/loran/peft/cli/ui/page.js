import {Chart} from '/chart.js';
import {compare, differences} from '/compare.js';
import {details} from '/details.js';
import {duration, element, shown, words} from '/element.js';

// What is known: the runs, the curves of those that were shown, and what the user chose.
const LIVE = 1500;
const IDLE = 5000;
const FIRST_SHOWN = 8;
const LIVE_STATES = ['training', 'starting'];

const byId = id => document.getElementById(id);
const courses = new Map();
const kept = JSON.parse(sessionStorage.getItem('loran') ?? '{}');
/** The ids of the runs whose curves are shown; null until the user chooses: then, and for new runs, those that train. */
let chosen = kept.chosen ? new Set(kept.chosen) : null;
let opened = kept.opened ?? null;
let seen = new Set(kept.seen ?? []);
let state = {runs: [], reports: [], folders: []};
let about = null;
/** What the charts show. */
let drawn = '';

const charts = {
  loss: new Chart('Training loss', point),
  heldOut: new Chart('Held-out loss', point),
  rate: new Chart('Learning rate', point),
  norm: new Chart('Gradient norm', point),
  speed: new Chart('Tokens per second', point),
};
byId('charts').append(...Object.values(charts).map(chart => chart.node));
/** The main metrics of the runs that are shown, by name. */
const metrics = new Map();

function point(at, where) {
  [...Object.values(charts), ...metrics.values()].forEach(chart => chart.mark(at, chart === where));
}

function keep() {
  sessionStorage.setItem('loran', JSON.stringify({chosen: chosen && [...chosen], opened, seen: [...seen]}));
}

// ---- what the server says

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) {
    throw new Error(await answer.text());
  }
  return answer.json();
}

async function poll() {
  let wait = IDLE;
  if (!document.hidden) {
    try {
      state = await get('/api/runs');
      choose();
      await Promise.all(shownRuns().map(follow));
      await followOpened();
      render();
      const training = state.runs.filter(run => LIVE_STATES.includes(run.state)).length;
      wait = training > 0 ? LIVE : IDLE;
      connection(training > 0 ? `${training} training` : 'up to date', training > 0 ? 'live' : '');
      document.title = training > 0 ? `(${training}) Loran` : 'Loran';
    } catch (problem) {
      connection(problem instanceof TypeError ? 'no connection: has loran ui ended?' : problem.message, 'lost');
    }
  }
  setTimeout(poll, wait);
}

function connection(text, kind) {
  const node = byId('connection');
  if (node.textContent !== text) {
    node.textContent = text;
  }
  node.className = kind;
}

/** Selects the first runs, and later those that begin. */
function choose() {
  const now = state.runs.filter(run => run.state !== 'unreadable').map(run => run.id);
  if (chosen === null) {
    const newest = [...state.runs].sort((a, b) => b.changed - a.changed)
        .filter(run => run.lines > 0).map(run => run.id);
    chosen = new Set(now.length <= FIRST_SHOWN ? now : newest.slice(0, FIRST_SHOWN));
  } else {
    state.runs.filter(run => !seen.has(run.id) && LIVE_STATES.includes(run.state)).forEach(run => chosen.add(run.id));
  }
  now.forEach(id => seen.add(id));
  if (!state.runs.some(run => run.id === opened)) {
    opened = state.runs.length === 1 ? state.runs[0].id : null;
  }
  keep();
}

function shownRuns() {
  return state.runs.filter(run => chosen.has(run.id));
}

/** Gets what is new in the curves of a run. */
async function follow(run) {
  const old = courses.get(run.id);
  if (old && old.version === run.version && old.lines === run.lines) {
    return;
  }
  const known = old
    ? `?known=${old.version},${old.steps.per_row},${old.steps.step.length},`
      + `${old.evaluations.per_row},${old.evaluations.step.length}` : '';
  const fresh = await get(`/api/runs/${run.id}/course${known}`);
  courses.set(run.id, {
    version: fresh.version,
    lines: run.lines,
    steps: joined(old?.steps, fresh.steps),
    evaluations: joined(old?.evaluations, fresh.evaluations),
  });
}

function joined(old, fresh) {
  const all = {per_row: fresh.per_row};
  for (const [name, column] of Object.entries(fresh)) {
    if (Array.isArray(column)) {
      all[name] = fresh.from > 0 && old?.[name] ? old[name].slice(0, fresh.from).concat(column) : column;
    }
  }
  return all;
}

/** Gets the details of the run that is opened, once more if its state has changed, and now and then while it trains. */
async function followOpened() {
  const run = state.runs.find(r => r.id === opened);
  const stamp = run && `${run.id} ${run.state} ${run.version} ${Math.floor(run.lines / 50)}`;
  if (run && about?.stamp !== stamp) {
    const [files, diagnosis] = await Promise.all([get(`/api/runs/${run.id}`), get(`/api/runs/${run.id}/diagnosis`)]);
    about = {stamp, files, diagnosis};
  }
}

// ---- what is shown

function render() {
  byId('where').textContent = state.folders.join('  ');
  byId('filter').hidden = state.runs.length < 8;
  renderRuns();
  renderLegend();
  renderCharts();
  const runs = shownRuns();
  byId('nothing').hidden = runs.length > 0;
  byId('nothing').textContent = state.runs.length > 0 ? 'No run is selected.'
    : 'There are no runs yet. Those that begin in this folder appear here.';
  byId('comparison').hidden = runs.length === 0;
  compare(byId('table'), runs, state.runs, opened, open);
  differences(byId('options'), byId('options-title'), runs, get);
  const run = state.runs.find(r => r.id === opened);
  byId('details').hidden = !run || !about;
  if (run && about) {
    details(byId('details'), run, about, () => open(null));
  }
}

function open(id) {
  opened = opened === id ? null : id;
  keep();
  about = null;
  refresh().then(() => {
    if (opened) {
      byId('details').scrollIntoView({block: 'start', behavior: 'smooth'});
      byId('details').focus({preventScroll: true});
    }
  });
}

async function refresh() {
  await Promise.all(shownRuns().map(follow));
  await followOpened();
  render();
}

function renderRuns() {
  const wanted = byId('filter').value.toLowerCase().split(/\s+/);
  const list = byId('runs');
  const old = new Map([...list.children].map(item => [item.dataset.key, item]));
  const items = [];
  let group = null;
  for (const run of state.runs) {
    const text = `${run.group} ${run.name} ${run.method} ${run.state} ${run.task}`.toLowerCase();
    if (!wanted.every(word => text.includes(word))) {
      continue;
    }
    if (run.group !== group && run.group) {
      items.push(element('li', {class: 'group'}, run.group));
    }
    group = run.group;
    const stamp = JSON.stringify([run, chosen.has(run.id), opened === run.id]);
    let item = old.get(run.id);
    if (item?.stamp !== stamp) {
      const focused = item?.contains(document.activeElement) ? document.activeElement.className : null;
      item = runItem(run);
      item.stamp = stamp;
      item.dataset.key = run.id;
      if (focused) {
        requestAnimationFrame(() => item.querySelector(`.${focused}`)?.focus({preventScroll: true}));
      }
    }
    items.push(item);
  }
  if (state.too_many) {
    items.push(element('li', {class: 'group'}, 'there are more runs than are shown here; name fewer folders'));
  }
  list.replaceChildren(...items);
  byId('reports').replaceChildren(...state.reports.map(report => element('li', {},
      element('a', {href: `/reports/${report.id}/report.html`, target: '_blank', rel: 'noopener'},
          `report of ${report.name}`))));
}

/** A count in the little room of the list. */
function short(count) {
  return count.toLocaleString('en', count < 1e4 ? {} : {notation: 'compact', maximumSignificantDigits: 4});
}

function runItem(run) {
  const headline = run.metrics?.[run.headline] ?? run.average_accuracy;
  const unit = words(run.metrics?.[run.headline] === undefined ? 'average_accuracy' : run.headline);
  const box = element('input', {
    type: 'checkbox', class: 'choose', color: run.color, 'aria-label': `Show the curves of ${run.name}`,
    onchange: () => {
      chosen.has(run.id) ? chosen.delete(run.id) : chosen.add(run.id);
      keep();
      refresh();
    }});
  box.checked = chosen.has(run.id);
  const isLive = LIVE_STATES.includes(run.state);
  const left = isLive && run.total > run.step && run.step_seconds > 0
    ? `${duration((run.total - run.step) * run.step_seconds)} left` : duration(run.seconds);
  return element('li', {class: `run ${opened === run.id ? 'opened' : ''}`},
      box,
      element('div', {class: 'about'},
          element('div', {class: 'row'},
              element('button', {
                type: 'button', class: 'open', 'aria-expanded': String(opened === run.id), title: run.folder,
                onclick: () => open(run.id)}, run.name),
              Number.isFinite(headline)
                ? element('data', {title: unit}, shown(headline)) : null),
          element('div', {class: 'row muted'},
              element('span', {class: 'kind'}, [run.method, run.task, run.model].filter(Boolean).join(' · ')),
              Number.isFinite(headline) ? element('span', {class: 'unit'}, unit) : null),
          run.problem
            ? element('p', {class: 'problem'}, run.problem)
            : element('div', {class: 'row muted'},
                element('span', {class: `state ${run.state.replace(' ', '-')}`, title: run.note}, run.state),
                element('span', {class: 'numbers'},
                    run.step ? `${short(run.step)} ${run.total && run.total !== run.step
                      ? `of ${short(run.total)}` : 'steps'} · ${left}` : '')),
          isLive && run.total
            ? element('progress', {max: run.total, value: run.step ?? 0, color: run.color,
              'aria-label': `Steps of ${run.name}`}) : null));
}

function renderLegend() {
  const stamp = JSON.stringify(shownRuns().map(run => [run.id, run.name, run.color, run.dash]));
  const legend = byId('legend');
  if (legend.stamp !== stamp) {
    legend.stamp = stamp;
    legend.replaceChildren(...shownRuns().map(run => element('li', {},
        element('i', {class: `swatch dash-${run.dash % 4}`, color: run.color}), run.name)));
  }
}

// ---- curves

/** The average of the values so far that forgets by `weight` a step; null stays null. */
function smoothed(values, weight, perRow) {
  const w = weight ** perRow;
  let sum = 0;
  let of = 0;
  return values.map(v => {
    if (v === null) {
      return null;
    }
    sum = w * sum + (1 - w) * v;
    of = w * of + (1 - w);
    return sum / of;
  });
}

function curve(run, table, column, more = {}) {
  const over = byId('over').value;
  return {name: run.name, color: run.color, dash: run.dash, x: table[over], y: table[column] ?? [], ...more};
}

function noisy(run, table, column) {
  const weight = Number(byId('smoothing').value);
  const line = curve(run, table, column);
  if (table.per_row > 1) {
    line.low = table[`${column}_low`];
    line.high = table[`${column}_high`];
  }
  return weight > 0 ? {...line, smooth: smoothed(line.y, weight, table.per_row)} : line;
}

/** Tokens and time are averaged, not their ratio: the time of single steps is not exact. */
function speed(run, table) {
  const weight = Number(byId('smoothing').value);
  const tokens = smoothed(table.tokens.slice(1), weight, table.per_row);
  const times = smoothed(table.seconds.slice(1).map((s, i) => s - table.seconds[i]), weight, table.per_row);
  // The first step also counts what the JVM has to load and to compile.
  const speeds = tokens.map((n, i) => n !== null && times[i] > 0 ? n / times[i] : null);
  return {...curve(run, table, 'tokens'), y: [null, ...speeds]};
}

function renderCharts() {
  const runs = shownRuns().filter(run => courses.has(run.id));
  const of = build => runs.map(run => build(run, courses.get(run.id)))
      .filter(line => line.x.length > 0 && line.y.some(v => v !== null));
  const over = byId('over').value;
  const log = byId('log').checked;
  const end = Math.max(0, ...runs.map(run => courses.get(run.id).steps[over].at(-1) ?? 0));
  const stamp = JSON.stringify([over, log, byId('smoothing').value,
    runs.map(run => [run.id, courses.get(run.id).version, courses.get(run.id).lines])]);
  if (drawn === stamp) {
    return;
  }
  const names = [...new Set(runs.map(run => run.headline).filter(name => name && name !== 'loss'))];
  charts.loss.show(of((run, course) => noisy(run, course.steps, 'loss')), {over, end, log});
  charts.heldOut.show(of((run, course) => curve(run, course.evaluations, 'loss', {points: true})), {over, end, log});
  for (const name of names.filter(n => !metrics.has(n))) {
    metrics.set(name, new Chart(`Held-out ${words(name)}`, point));
    charts.heldOut.node.after(metrics.get(name).node);
  }
  metrics.forEach((chart, name) => chart.show(of((run, course) => run.headline === name
    ? curve(run, course.evaluations, name, {points: true}) : {x: [], y: []}), {over, end}));
  charts.rate.show(of((run, course) => curve(run, course.steps, 'lr')), {over, end, zero: true});
  charts.norm.show(of((run, course) => noisy(run, course.steps, 'grad_norm')), {over, end, zero: true});
  charts.speed.show(of((run, course) => speed(run, course.steps)), {over, end, zero: true});
  drawn = stamp;
}

// ---- what the user does

for (const id of ['smoothing', 'log', 'over']) {
  byId(id).addEventListener('input', renderCharts);
}
byId('filter').addEventListener('input', renderRuns);
byId('all').addEventListener('click', () => {
  chosen = new Set(state.runs.map(run => run.id));
  keep();
  refresh();
});
byId('none').addEventListener('click', () => {
  chosen = new Set();
  keep();
  refresh();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) {
    connection('', '');
  }
});
poll();
