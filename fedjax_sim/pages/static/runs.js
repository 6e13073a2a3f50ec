// What a number of the table opens: its runs, their settings, curves and origin.
"use strict";

function rowsOf(heads, lines) {
  const head = el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text))));
  return el("div", { class: "wide", tabindex: 0 }, el("table", { class: "plain" }, head, el("tbody", {}, ...lines)));
}

const line = (...texts) => el("tr", {}, ...texts.map((text) => (text instanceof Node ? text : el("td", {}, text))));

function listOfRuns(runs) {
  const values = Object.entries(data.runs.values);
  const seeds = data.runs.seeds.filter((key) => key in data.settings);
  const labels = values.map(([key]) => data.metrics.find((metric) => metric.key === key)?.label ?? (key === "seconds" ? key : key.toUpperCase()));
  const lines = runs.flatMap((run) => {
    const path = data.runs.pages?.[run];
    const name = path ? el("a", { href: path }, data.runs.run[run]) : data.runs.run[run];
    const cells = [
      el("td", {}, name), el("td", {}, data.runs.status[run]),
      ...seeds.map((key) => el("td", { class: "number" }, settingOf(key, run))),
      ...values.map(([, column]) => el("td", { class: "number" }, number(column[run], 2))),
      el("td", {}, data.runs.started[run].replace("T", " ")),
    ];
    const error = data.runs.error[run];
    if (!error) return [el("tr", {}, ...cells)];
    const text = el("td", { colspan: cells.length }, error);
    return [el("tr", { class: "failed" }, ...cells), el("tr", { class: "error" }, text)];
  });
  return rowsOf(["run", "status", ...seeds.map((key) => data.settings[key].label), ...labels, "started"], lines);
}

function settingOf(key, run) {
  const setting = data.settings[key];
  return setting.values[setting.of[run]] ?? "–";
}

function listOfSettings(runs) {
  const lines = [];
  for (const [key, setting] of Object.entries(data.settings)) {
    const own = [...new Set(runs.map((run) => settingOf(key, run)))];
    if (own.length === 1 && own[0] === "–") continue;
    const others = [...new Set(setting.values.map((value) => value ?? "–"))].filter((value) => !own.includes(value));
    const more = others.length > 6 ? `${others.slice(0, 6).join(", ")} and ${others.length - 6} more` : others.join(", ");
    lines.push(line(setting.label, own.join(", "), more));
  }
  return lines;
}

function listOfMachines(runs) {
  const text = (one) => [
    Object.entries(one.versions ?? {}).map(([key, value]) => `${key} ${value}`).join(", "),
    one.python && `Python ${one.python}`, one.platform,
    one.devices && `${one.devices.length} × ${one.devices[0]} (${one.backend})`, one.git && `revision ${one.git}`,
  ].filter(Boolean).join("; ") || "unknown: the runs have no provenance.json";
  return [...new Set(runs.map((run) => data.runs.machine[run]))].map((i) => {
    const count = runs.filter((run) => data.runs.machine[run] === i).length;
    return el("p", { class: "hint" }, `${count} run${count === 1 ? "" : "s"}: ${text(data.runs.machines[i])}`);
  });
}

function curvesOfRuns(place, runs) {
  const specs = Object.values(data.curves.metrics).map((metric) => {
    const values = runs.flatMap((run) => metric.of[run].map((value, i) => ({ round: data.curves.grids[data.curves.of[run]][i], value, run: data.runs.run[run] })));
    return {
      width: "container", height: 190, title: metric.label, data: { values },
      mark: { type: "line", strokeWidth: 1.6, opacity: 0.8, tooltip: true, point: { size: 14 } },
      encoding: {
        x: { field: "round", type: "quantitative", axis: { grid: false, tickMinStep: 1 }, scale: { nice: false } },
        y: { field: "value", type: "quantitative", title: null, scale: metric.rate ? { domain: [0, 100] } : { zero: false } },
        color: { field: "run", type: "nominal", scale: { domain: runs.map((run) => data.runs.run[run]), range: runs.map((_, i) => `var(--c${i % 10})`) }, legend: null },
        tooltip: [{ field: "run" }, { field: "round" }, { field: "value", title: metric.label, format: ".2f" }],
      },
    };
  });
  return side(place, specs);
}

function openRuns(index) {
  const cell = data.cells[index];
  const runs = keptRuns(cell);
  const title = [data.rows[cell.row], data.columns[cell.column]].filter(Boolean).join(", ");
  const place = el("div");
  const settings = listOfSettings(runs);
  const parts = [
    el("h2", { id: "runs-title" }, title || "Runs"),
    el("p", { class: "hint" }, `${runs.length} run${runs.length === 1 ? "" : "s"}, ${finished(runs).length} finished`),
    listOfRuns(runs), place,
  ];
  if (settings.length) parts.push(el("h3", {}, "Settings that vary in this report"), rowsOf(["setting", "here", "elsewhere"], settings));
  if (cell.apart.length) parts.push(el("h3", {}, "Differences from the published protocol"), rowsOf(["key", "published", "here"], cell.apart.map((one) => line(...one))));
  parts.push(el("h3", {}, "Provenance"), ...listOfMachines(runs));
  const dialog = $("#runs");
  $(".inside", dialog).replaceChildren(...parts);
  dialog.showModal();
  dialog.scrollTop = 0;
  if (Object.keys(data.curves.metrics).length) curvesOfRuns(place, runs);
}
