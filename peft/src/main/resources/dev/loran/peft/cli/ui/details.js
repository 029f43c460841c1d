import {duration, element, shown, words} from '/element.js';

// What the files of one run say: facts, what loran doctor finds, answers, steps that jumped, options.

let stamp = '';

/** Shows `run` in `place`. */
export function details(place, run, {files, diagnosis, stamp: now}, close) {
  if (stamp === now && place.childElementCount > 0) {
    return;
  }
  stamp = now;
  const open = new Set([...place.querySelectorAll('details[open]')].map(node => node.dataset.key));
  place.tabIndex = -1;
  place.replaceChildren(...[
      element('div', {class: 'bar'},
          element('h2', {}, element('i', {class: `swatch dash-${run.dash % 4}`, color: run.color}), run.name),
          run.report ? element('a', {
            class: 'button', href: `/reports/${run.report}/report.html`, target: '_blank', rel: 'noopener'}, 'report')
            : null,
          element('button', {type: 'button', onclick: close}, 'close')),
      element('p', {class: 'folder'}, run.folder),
      run.note ? element('p', {class: 'note'}, `${run.state}: ${run.note}`) : null,
      files.problem ? element('p', {class: 'problem'}, files.problem) : null,
      facts(run, files),
      ...findings(run, diagnosis),
      ...answers(files.answers ?? [], open),
      ...spikes(files.spikes ?? [], open),
      fold('options', 'All options', pairs(files.options ?? {}, key => `--${key}`), open),
  ].filter(part => part !== null));
}

function fold(key, title, content, open) {
  return element('details', {'data-key': key, open: open.has(key)}, element('summary', {}, title), content);
}

function pairs(values, name) {
  return element('dl', {class: 'pairs'}, ...Object.entries(values).map(([key, v]) => element('div', {},
      element('dt', {}, name(key)),
      element('dd', {}, typeof v === 'object' ? JSON.stringify(v) : String(v)))));
}

function facts(run, {facts: known = {}, result = {}}) {
  const rows = part => part && `${shown(part.rows)} rows, the longest of ${shown(part.longest)} tokens`
    + (part.truncated ? `, ${shown(part.truncated)} cut` : '');
  const all = {
    'model': run.model,
    'trained on': rows(known.train),
    'held out': rows(known.held_out),
    'trainable parameters': run.trainable_parameters && shown(run.trainable_parameters)
      + (run.trainable_percentage ? ` (${run.trainable_percentage.toFixed(3)} % of all)` : ''),
    'learning rate': run.learning_rate && (run.learning_rate < 1e-3 ? shown(run.learning_rate)
      : String(Number(run.learning_rate.toPrecision(3)))),
    'time of a step': run.step_seconds && (run.step_seconds < 1
      ? `${Math.round(1000 * run.step_seconds)} ms` : duration(run.step_seconds)),
    'tensors': result.peak_tensor_mib
      ? `${result.peak_tensor_mib.toFixed(1)} MiB` + (result.planned_tensor_mib
        ? `, ${result.planned_tensor_mib.toFixed(1)} planned` : '')
      : known.planned_tensor_mib && `${known.planned_tensor_mib.toFixed(1)} MiB planned`,
    'process': result.peak_memory_mib && `${shown(Math.round(result.peak_memory_mib))} MiB`,
    'machine': known.backend?.replace(/^backend: /, ''),
  };
  return element('dl', {class: 'facts'}, ...Object.entries(all).filter(([, v]) => v).map(([key, v]) =>
    element('div', {}, element('dt', {}, key), element('dd', {}, v))));
}

function findings(run, {findings: found = [], not_checked: open = [], problem}) {
  const empty = problem ?? (run.step ? 'Nothing is wrong with it, as far as its files show.' : 'It has no steps yet.');
  return [
    element('h3', {}, 'What loran doctor finds'),
    found.length === 0 ? element('p', {class: problem ? 'problem' : 'empty'}, empty)
      : element('ul', {class: 'findings'}, ...found.map(f => element('li', {class: f.serious ? 'serious' : 'hint'},
          element('h4', {}, words(f.name), element('small', {}, `${f.serious ? 'problem' : 'hint'} · ${f.area}`)),
          element('p', {}, f.evidence),
          element('p', {class: 'advice'}, element('b', {}, 'try '), ...options(f.advice))))),
    open.length > 0 ? element('p', {class: 'empty'}, `Not checked: ${open.join('; ')}.`) : null,
  ];
}

/** A text whose options, as `--lr 1e-4`, are not broken across lines. */
function options(text) {
  return text.split(/(--[a-z][a-z-]*(?: [A-Z0-9.][\w.+-]*)?)/).map(part =>
    part.startsWith('--') ? element('code', {}, part) : part);
}

function answers(all, open) {
  return all.flatMap(({file, rows}) => [
    element('h3', {}, 'Answers', element('small', {}, file)),
    element('ol', {class: 'answers'}, ...rows.slice(0, 5).map(answer)),
    rows.length > 5
      ? fold(`answers ${file}`, `${rows.length - 5} more`,
          element('ol', {class: 'answers', start: 6}, ...rows.slice(5).map(answer)), open) : null,
  ]);
}

function answer(row) {
  return element('li', {},
      element('p', {class: 'asked'}, row.text, row.text_pair ? element('span', {}, row.text_pair) : null),
      element('p', {class: 'answered'}, row.answer ?? row.label,
          Number.isFinite(row.probability) ? element('small', {}, row.probability.toFixed(3)) : null,
          row.ended === false ? element('small', {}, 'not ended') : null));
}

function spikes(all, open) {
  return all.length === 0 ? [] : [
    element('h3', {}, 'Steps that jumped'),
    ...all.sort((a, b) => a.step - b.step).map(spike => fold(`spike ${spike.step}`,
        `step ${shown(spike.step)}: ${words(spike.of ?? 'loss')} ${shown(spike[spike.of] ?? spike.loss)}, `
        + `where ${shown(spike.median)} was usual`,
        element('ol', {class: 'answers'}, ...(spike.rows ?? []).map(row => element('li', {},
            element('p', {class: 'asked'}, (row.texts ?? []).join(' / '))))), open)),
  ];
}
