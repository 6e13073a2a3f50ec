// The table of results: sorting, folding, and filters that average again what is left.
"use strict";

const data = JSON.parse($("#data").textContent);
const cellAt = new Map(data.cells.map((cell, i) => [`${cell.row},${cell.column}`, i]));
// What a reader has chosen: rows and columns in sight, runs that count.
const chosen = {
  rows: data.rows.map(() => true),
  columns: data.columns.map(() => true),
  runs: null, // of each run whether it counts; null: all do
};

function keptRuns(cell) {
  return chosen.runs ? cell.runs.filter((run) => chosen.runs[run]) : cell.runs;
}

function finished(runs) {
  return runs.filter((run) => data.runs.status[run] === "finished");
}

// {mean, spread, runs} of a metric over the runs that count.
function stats(cell, metric) {
  if (!chosen.runs) {
    const [center, spread, runs] = cell.values[metric];
    return { mean: center, spread, runs };
  }
  const column = data.runs.values[data.metrics[metric].key];
  const values = known(finished(keptRuns(cell)).map((run) => column[run]));
  return { mean: values.length ? mean(values) : null, spread: deviation(values), runs: values.length };
}

function applyFilters(form) {
  const places = { row: data.rows.map(() => true), column: data.columns.map(() => true) };
  const fields = { row: data.rowFields, column: data.columnFields };
  const wanted = [];
  for (const select of $$("select", form)) {
    if (select.value === "") continue;
    const text = select.selectedOptions[0].textContent;
    const [kind, place] = select.name.split(":");
    if (place === undefined) wanted.push([select.name, Number(select.value)]);
    else fields[kind][place].of.forEach((label, i) => (places[kind][i] &&= label === text));
  }
  chosen.runs = null;
  if (wanted.length) {
    chosen.runs = data.runs.run.map((_, run) => wanted.every(([key, value]) => data.settings[key].of[run] === value));
  }
  const alive = { row: new Set(), column: new Set() };
  for (const cell of data.cells) {
    if (chosen.runs && !keptRuns(cell).length) continue;
    if (places.row[cell.row] && places.column[cell.column]) {
      alive.row.add(cell.row);
      alive.column.add(cell.column);
    }
  }
  chosen.rows = data.rows.map((_, i) => alive.row.has(i));
  chosen.columns = data.columns.map((_, i) => alive.column.has(i));
  showChosen();
  const left = chosen.runs ? chosen.runs.filter(Boolean).length : data.runs.run.length;
  const all = chosen.rows.every(Boolean) && chosen.columns.every(Boolean) && !chosen.runs;
  $("output", form).textContent = all ? "" : `${alive.row.size} rows, ${alive.column.size} columns; ${left} of ${data.runs.run.length} runs count`;
  redraw();
}

function showChosen() {
  const table = $("table.results");
  for (const line of $$("tr[data-row]", table)) line.hidden = !chosen.rows[line.dataset.row];
  for (const cell of $$("[data-column]:not(button)", table)) cell.hidden = !chosen.columns[cell.dataset.column];
  for (const body of $$("tbody", table)) body.hidden = !$$("tr[data-row]", body).some((line) => !line.hidden);
  for (const cell of $$("td[data-cell]", table)) showNumber(cell);
}

function showNumber(cell) {
  const button = $("button", cell);
  if (!button) return;
  const metric = Number(cell.dataset.metric);
  const found = stats(data.cells[cell.dataset.cell], metric);
  const digits = data.metrics[metric].decimals;
  const spread = found.spread === null ? [] : [" ", el("span", {}, `± ${number(found.spread, digits)}`)];
  const flags = $("sup", button) ?? "";
  button.replaceChildren(number(found.mean, digits), ...spread, flags);
  const published = data.cells[cell.dataset.cell].values[metric][3];
  const apart = $("small abbr + abbr", cell);
  if (apart && found.mean !== null) {
    const difference = found.mean - published;
    apart.textContent = (difference < 0 ? "" : "+") + number(difference, digits);
  }
}

// ------------------------------------------------------------------------- sorting

function sortBy(button) {
  const heading = button.closest("th");
  const metric = button.dataset.sort === "" ? null : Number(button.dataset.sort);
  // Where less is better, the least comes first.
  const usual = metric === null || data.metrics[metric].kind === "success" ? "ascending" : "descending";
  const other = usual === "ascending" ? "descending" : "ascending";
  const order = heading.ariaSort === usual ? other : usual;
  for (const one of $$("th[aria-sort]")) one.ariaSort = "none";
  heading.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => {
    if (metric === null) return data.rows[row];
    const cell = cellAt.get(`${row},${button.dataset.column}`);
    return cell === undefined ? null : stats(data.cells[cell], metric).mean;
  };
  // What was not measured comes last, whatever the order.
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  };
  const table = $("table.results");
  const bodies = $$("tbody", table).map((body) => {
    const lines = $$("tr[data-row]", body).map((line) => [value(Number(line.dataset.row)), line]);
    lines.sort((a, b) => compare(a[0], b[0]));
    body.append(...lines.map(([, line]) => line));
    return [lines[0][0], body];
  });
  bodies.sort((a, b) => compare(a[0], b[0]));
  table.append(...bodies.map(([, body]) => body));
}

function fold(button) {
  const open = button.ariaExpanded !== "true";
  button.ariaExpanded = String(open);
  button.closest("tbody").classList.toggle("folded", !open);
}
