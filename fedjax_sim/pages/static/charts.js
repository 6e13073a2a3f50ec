// The charts of a report: specifications of Vega-Lite, filled with what is chosen.
"use strict";

const MANY = 12; // rows that are drawn at first
const shown = data.rows.map((_, row) => row < MANY);
const visible = (row) => shown[row] && chosen.rows[row];
const color = (row) => `var(--c${data.looks[row][0]})`;
const dash = (row) => (DASHES[data.looks[row][1]].length ? DASHES[data.looks[row][1]] : [1, 0]);

// The same colour and dash for a row in every chart.
function rowScales(rows) {
  const domain = rows.map((row) => data.rows[row]);
  const scale = (range) => ({ field: "row", type: "nominal", scale: { domain, range }, legend: null });
  return { color: scale(rows.map(color)), strokeDash: scale(rows.map(dash)) };
}

function nothing(element, text) {
  element.replaceChildren(el("p", { class: "empty" }, text));
}

// Several plots beside each other, below each other where there is no room.
async function side(element, specs) {
  const places = specs.map(() => el("div"));
  element.replaceChildren(el("div", { class: "plots" }, ...places));
  return Promise.all(specs.map((spec, i) => embed(places[i], spec)));
}

// ------------------------------------------------------------------ over the rounds

function curveOf(metric, runs) {
  const values = new Map();
  for (const run of runs) {
    const rounds = data.curves.grids[data.curves.of[run]];
    metric.of[run].forEach((value, i) => {
      if (value === null) return;
      if (!values.has(rounds[i])) values.set(rounds[i], []);
      values.get(rounds[i]).push(value);
    });
  }
  return [...values].sort((a, b) => a[0] - b[0]).map(([round, found]) => {
    const center = mean(found);
    const spread = deviation(found) ?? 0;
    return { round, mean: center, low: center - spread, high: center + spread, spread, runs: found.length };
  });
}

function curvesSpec(metric, lines, rows) {
  const scales = rowScales(rows);
  const y = { type: "quantitative", title: null, scale: metric.rate ? { domain: [0, 100], clamp: true, nice: false } : { zero: false } };
  const x = { field: "round", type: "quantitative", title: "round", axis: { grid: false, tickMinStep: 1, tickCount: 8 }, scale: { nice: false } };
  const tooltip = [
    { field: "row", title: "row" }, { field: "round" }, { field: "mean", title: metric.label, format: ".2f" },
    { field: "spread", title: "± over runs", format: ".2f" }, { field: "runs" },
  ];
  return {
    width: "container", height: 280, title: metric.label + (metric.rate ? " %" : ""), data: { values: lines },
    encoding: { x, color: scales.color },
    layer: [
      { mark: { type: "area", opacity: 0.13 }, encoding: { y: { ...y, field: "low" }, y2: { field: "high" } } },
      { mark: { type: "line", strokeWidth: 2 * unit, interpolate: "linear" }, encoding: { y: { ...y, field: "mean" }, strokeDash: scales.strokeDash } },
      {
        // Not `nearest`: Vega-Lite 6 then shows names as undefined. These are wide enough.
        params: [{ name: "near", select: { type: "point", on: "pointerover", clear: "pointerout" } }],
        mark: { type: "point", filled: true, size: 150 },
        encoding: { y: { ...y, field: "mean" }, opacity: { condition: { param: "near", empty: false, value: 1 }, value: 0 }, tooltip },
      },
    ],
  };
}

function curvesChart() {
  const figure = $("#curves");
  const metrics = Object.values(data.curves.metrics);
  if (!metrics.length) return figure.remove();
  if (data.curves.drawn < data.curves.recorded) {
    $("figcaption", figure).append(` Of ${data.curves.recorded} evaluated rounds ${data.curves.drawn} are drawn.`);
  }
  const drawn = (run) => metrics.some((metric) => metric.of[run].some((value) => value !== null));
  let column = Math.max(0, data.columns.findIndex((_, j) => data.cells.some((cell) => cell.column === j && cell.runs.some(drawn))));
  const select = choice(figure, "column", data.columns, (j) => { column = j; redraw(); });
  if (select) select.value = column;
  chart($(".plot", figure), (element) => {
    const rows = data.rows.map((_, row) => row).filter(visible);
    const specs = metrics.map((metric) => {
      const lines = rows.flatMap((row) => {
        const cell = data.cells[cellAt.get(`${row},${column}`)];
        return cell ? curveOf(metric, keptRuns(cell)).map((point) => ({ row: data.rows[row], ...point })) : [];
      });
      return lines.length ? curvesSpec(metric, lines, rows) : null;
    });
    if (!specs.some(Boolean)) return nothing(element, "Nothing that is chosen was evaluated more than once.");
    return side(element, specs.filter(Boolean));
  });
}

// ------------------------------------------------------------------------ trade-off

// Accuracy lost by each cell: against the row without a defence, else the column's best.
function losses(accuracy, success) {
  const best = new Map();
  for (const cell of data.cells) {
    const value = stats(cell, accuracy).mean;
    if (value !== null) best.set(cell.column, Math.max(value, best.get(cell.column) ?? -Infinity));
  }
  const points = [];
  data.cells.forEach((cell, index) => {
    if (!visible(cell.row) || !chosen.columns[cell.column]) return;
    const [own, rate] = [stats(cell, accuracy), stats(cell, success)];
    if (own.mean === null || rate.mean === null) return;
    const reference = data.cells[cellAt.get(`${data.references[cell.row]},${cell.column}`)];
    const from = reference ? stats(reference, accuracy).mean : null;
    const seconds = known(finished(keptRuns(cell)).map((run) => data.runs.server.seconds[run]));
    points.push({
      cell: index, row: data.rows[cell.row], column: data.columns[cell.column],
      lost: (from ?? best.get(cell.column)) - own.mean, rate: rate.mean, accuracy: own.mean, spread: rate.spread,
      seconds: seconds.length ? mean(seconds) : 0, against: from === null ? "the column's best" : data.rows[data.references[cell.row]],
    });
  });
  return points;
}

function tradeoffChart() {
  const figure = $("#tradeoff");
  const accuracy = data.metrics.findIndex((metric) => metric.kind === "accuracy");
  const success = data.metrics.findIndex((metric) => metric.kind === "success");
  if (accuracy < 0 || success < 0) return figure.remove();
  const timed = data.runs.server.timed;
  const what = timed ? "seconds at the server" : "seconds of the rounds";
  const why = timed ? "" : ", client and server together (config.execution.clock was off)";
  $("figcaption", figure).append(` Size: ${what}${why}. The line: ${data.held} %, up to which a defence holds.`);
  chart($(".plot", figure), async (element) => {
    const points = losses(accuracy, success);
    if (!points.length) return nothing(element, "Nothing that is chosen has both rates.");
    const rows = data.rows.map((_, row) => row).filter(visible);
    const name = (metric) => data.metrics[metric].label;
    const away = 12 * unit; // the numbers of the axes, from points that lie on them
    const made = await embed(element, {
      width: "container", height: 380, data: { values: points },
      layer: [
        { data: { values: [{ at: data.held }] }, mark: { type: "rule", strokeDash: [4, 4], color: "var(--soft)" }, encoding: { x: { field: "at", type: "quantitative" } } },
        {
          mark: { type: "point", filled: true, opacity: 0.78, stroke: "var(--paper)", strokeWidth: 1, cursor: "pointer" },
          encoding: {
            x: { field: "rate", type: "quantitative", title: `${name(success)} %`, scale: { domain: [0, 100], nice: false }, axis: { tickCount: 10, offset: away, labelOverlap: "parity", labelSeparation: 8 } },
            y: { field: "lost", type: "quantitative", title: `${name(accuracy)} lost, points`, axis: { tickCount: 6, offset: away } },
            color: rowScales(rows).color,
            size: { field: "seconds", type: "quantitative", scale: { range: [70 * unit ** 2, 700 * unit ** 2], zero: true }, legend: { title: what, orient: "top", symbolFillColor: "var(--soft)", symbolStrokeColor: "var(--soft)", tickCount: 3 } },
            tooltip: [
              { field: "row" }, { field: "column" }, { field: "rate", title: name(success), format: ".1f" },
              { field: "accuracy", title: name(accuracy), format: ".1f" }, { field: "lost", title: "lost", format: "+.1f" },
              { field: "against" }, { field: "seconds", title: what, format: ".1f" },
            ],
          },
        },
      ],
    });
    made.view.addEventListener("click", (event, item) => {
      if (item?.datum?.cell !== undefined) openRuns(item.datum.cell);
    });
  });
}

// --------------------------------------------------------------------- danger zones

function zonesChart() {
  const figure = $("#zones");
  if (!figure) return;
  const { cells, mta, asr } = data.zones;
  $("figcaption", figure).append(` Danger: MTA from ${mta} and ASR from ${asr} % on; grey: MTA below that.`);
  const axis = (field, title) => ({ field, type: "ordinal", title, axis: { labelAngle: 0 }, sort: "ascending" });
  chart($(".plot", figure), (element) => embed(element, {
    autosize: "pad", data: { values: cells },
    facet: { row: { field: "map", title: null, header: { labelAngle: 0, labelAlign: "left", labelLimit: 160 } }, column: { field: "client_epochs", title: "local epochs" } },
    spec: {
      width: { step: 54 * unit }, height: { step: 34 * unit },
      encoding: { x: axis("client_lr", "learning rate"), y: { ...axis("client_batch_size", "batch size"), sort: "descending" }, tooltip: [
        { field: "map" }, { field: "client_lr", title: "learning rate" }, { field: "client_batch_size", title: "batch size" },
        { field: "client_epochs", title: "epochs" }, { field: "mta", title: "MTA", format: ".1f" }, { field: "asr", title: "ASR", format: ".1f" }] },
      layer: [
        { mark: { type: "rect", cornerRadius: 3, stroke: "var(--paper)", strokeWidth: 2 }, encoding: { color: { condition: { test: "!datum.useful", value: "var(--line)" }, field: "asr", type: "quantitative", scale: { domain: [0, 100], scheme: "viridis" }, legend: { title: "ASR %" } } } },
        { transform: [{ filter: "datum.danger" }], mark: { type: "rect", cornerRadius: 3, filled: false, stroke: "var(--bad)", strokeWidth: 2.5 } },
        { mark: { type: "text", fontSize: 12 * unit }, encoding: { text: { field: "asr", format: ".0f" }, color: { condition: [{ test: "!datum.useful", value: "var(--soft)" }, { test: "datum.asr > 60", value: "#111" }], value: "#fff" } } },
      ],
    },
    resolve: { axis: { x: "shared", y: "shared" } },
  }));
}

// --------------------------------------------------------------------------- scores

function scoresCharts() {
  if (!data.scores.length) return;
  let at = 0;
  const name = (one) => [data.rows[one.row], data.columns[one.column]].filter(Boolean).join(", ");
  choice($("#scores"), "cell and score", data.scores.map((one) => `${name(one)}: ${one.score}`), (i) => { at = i; redraw(); });
  const kinds = { domain: ["benign", "malicious"], range: ["var(--cool)", "var(--warm)"] };
  chart($("#distribution .plot"), (element) => {
    const one = data.scores[at];
    const values = kinds.domain.flatMap((kind) => one[kind].map((share, i) => ({ kind, share, from: one.edges[i], to: one.edges[i + 1] })));
    const lost = one.undefined ? `, ${one.undefined} % undefined` : "";
    return embed(element, {
      width: "container", height: 280, data: { values },
      layer: [
        {
          mark: { type: "bar", opacity: 0.6 },
          encoding: {
            x: { field: "from", type: "quantitative", title: one.score + lost, scale: { type: one.log ? "log" : "linear", ...(one.log ? {} : { zero: false }), nice: false }, axis: { grid: false, tickCount: 6 } },
            x2: { field: "to" }, y: { field: "share", type: "quantitative", stack: null, title: "share", axis: { tickCount: 5 } }, y2: { datum: 0 },
            color: { field: "kind", type: "nominal", scale: kinds, legend: { title: null, orient: "top" } },
            tooltip: [{ field: "kind", title: "clients" }, { field: "from", title: `${one.score} from`, format: ".4~g" }, { field: "to", format: ".4~g" }, { field: "share", title: "share of them", format: ".1%" }],
          },
        },
        ...(one.roc ? [{ data: { values: [{ at: one.roc.threshold }] }, mark: { type: "rule", strokeDash: [4, 4], color: "var(--ink)" }, encoding: { x: { field: "at", type: "quantitative" } } }] : []),
      ],
    });
  });
  chart($("#roc .plot"), (element) => {
    const one = data.scores[at];
    const same = data.scores.filter((other) => other.roc && other.score === one.score);
    if (!one.roc) return nothing(element, "No ROC: only one kind of clients was judged by this score.");
    const values = same.flatMap((other) => other.roc.x.map((x, i) => ({ x, y: other.roc.y[i], order: i, name: name(other), row: data.rows[other.row], area: other.roc.area, own: other === one })));
    const rows = [...new Set(same.map((other) => other.row))];
    const side = one.roc.above ? "above" : "below";
    return embed(element, {
      width: "container", height: 280, title: `Area ${one.roc.area.toFixed(3)}; best threshold: ${side} ${one.roc.threshold}`, data: { values },
      layer: [
        { data: { values: [{ x: 0, y: 0 }, { x: 100, y: 100 }] }, mark: { type: "line", color: "var(--line)" }, encoding: { x: { field: "x", type: "quantitative" }, y: { field: "y", type: "quantitative" } } },
        {
          mark: { type: "line", strokeWidth: 2.2 * unit },
          encoding: {
            x: { field: "x", type: "quantitative", title: "benign flagged %", scale: { domain: [0, 100] }, axis: { tickCount: 6 } },
            y: { field: "y", type: "quantitative", title: "malicious flagged %", scale: { domain: [0, 100] }, axis: { tickCount: 6 } },
            color: rowScales(rows).color, detail: { field: "name" }, order: { field: "order" },
            opacity: { condition: { test: "datum.own", value: 1 }, value: 0.45 },
            tooltip: [{ field: "name", title: "cell" }, { field: "area", title: "area under the curve", format: ".3f" }],
          },
        },
      ],
    });
  });
}
