// The page of one run.
"use strict";

let data = JSON.parse($("#data").textContent);
const KINDS = { domain: ["benign", "malicious"], range: ["var(--cool)", "var(--warm)"] };

// Panels of curves, of an element and a key of the data.
for (const name of ["progress", "distilled"]) if ($(`#${name}`)) chart($(`#${name} .plot`), (element) => {
  const specs = data[name].map((panel) => {
    const axis = panel.axis ?? "round";
    const values = panel.lines.flatMap((one) => one.values.map((value, i) => ({ name: one.name, [axis]: panel.rounds[i], value })));
    const rates = panel.title.endsWith("%");
    return {
      width: "container", height: 230, title: panel.title, data: { values },
      mark: { type: "line", strokeWidth: 2 * unit, point: { size: 150, opacity: 0 }, tooltip: true },
      encoding: {
        x: { field: axis, type: "quantitative", axis: { grid: false, tickMinStep: 1, tickCount: 8 }, scale: { nice: false, zero: false } },
        y: { field: "value", type: "quantitative", title: null, scale: rates ? { domain: [0, 100] } : { zero: true } },
        color: { field: "name", type: "nominal", sort: null, scale: { domain: panel.lines.map((one) => one.name), range: ["var(--c0)", "var(--c6)", "var(--c4)", "var(--c1)"] }, legend: { title: null, orient: "top", columns: 2 } },
        tooltip: [{ field: "name", title: "curve" }, { field: axis }, { field: "value", format: ".4~g" }],
      },
    };
  });
  const places = specs.map(() => el("div"));
  element.replaceChildren(el("div", { class: "plots" }, ...places));
  return Promise.all(specs.map((spec, i) => embed(places[i], spec)));
});

// --------------------------------------------------------------- clients by rounds

const WORDS = { ".": "not chosen", b: "benign", B: "benign, left out", m: "malicious", M: "malicious, left out" };

let at = null; // {i, client}: the place that is read
let mark = () => {};
const base = document.createElement("canvas"); // the map without a mark on that place

function paintMap() {
  if (!data.map || !$("#map")) return;
  const canvas = $("#map canvas");
  const { rounds, lines } = data.map;
  const [left, below] = [11 * unit * String(lines.length).length + 6, 20 * unit];
  const right = 10 * unit; // half of the last round's number
  const room = canvas.parentElement.clientWidth - left - right - 6;
  const width = Math.max(2, Math.min(22 * unit, Math.floor(room / rounds.length)));
  const height = Math.max(2, Math.min(16 * unit, Math.floor(640 * unit / lines.length)));
  const size = [left + width * rounds.length + right, height * lines.length + below];
  const scale = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = size.map((one) => one * scale);
  [canvas.style.width, canvas.style.height] = size.map((one) => `${one}px`);
  const color = (name) => getComputedStyle($(`.key.${name}`)).backgroundColor;
  const colors = { b: color("b"), B: color("B"), m: color("m"), M: color("M") };
  const page = getComputedStyle(document.documentElement);
  [base.width, base.height] = [canvas.width, canvas.height];
  const pen = base.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = page.getPropertyValue("--faint");
  pen.fillRect(left, 0, width * rounds.length, height * lines.length);
  const gap = Math.min(width, height) > 4 ? 1 : 0;
  lines.forEach((line, client) => {
    for (let i = 0; i < line.length; i++) {
      if (line[i] === ".") continue;
      pen.fillStyle = colors[line[i]];
      pen.fillRect(left + i * width, client * height, width - gap, height - gap);
    }
  });
  // The numbers of clients, and of the rounds below, as many as there is room for.
  pen.font = `${11 * unit}px ${LOOK.font}`;
  pen.fillStyle = page.getPropertyValue("--soft");
  [pen.textAlign, pen.textBaseline] = ["right", "middle"];
  const stride = (room) => [1, 2, 5, 10, 20, 50, 100, 200, 500].find((one) => one >= room) ?? 1000;
  const each = stride(13 * unit / height);
  for (let client = 0; client < lines.length; client += each) pen.fillText(client, left - 6, (client + 0.5) * height);
  [pen.textAlign, pen.textBaseline] = ["center", "top"];
  const every = stride(34 * unit / width);
  rounds.forEach((round, i) => {
    if (i === 0 || (i + 1) % every === 0) pen.fillText(round, left + (i + 0.5) * width, height * lines.length + 5);
  });
  mark = () => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(base, 0, 0);
    if (!at) return;
    pen.strokeStyle = page.getPropertyValue("--ink");
    pen.lineWidth = 2 * scale;
    pen.strokeRect(...[left + at.i * width, at.client * height, width, height].map((one) => one * scale));
  };
  mark();
  canvas.onpointermove = (event) => read(Math.floor((event.offsetX - left) / width), Math.floor(event.offsetY / height));
}

// Says what a client did in a round.
function read(i, client) {
  const { rounds, lines } = data.map;
  if (lines[client]?.[i] === undefined) return;
  const banned = data.expelled.includes(client) ? "; expelled for good" : "";
  $("#map output").textContent = `client ${client}, round ${rounds[i]}: ${WORDS[lines[client][i]]}${banned}`;
  at = { i, client };
  mark();
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function step(event) {
  const [right, down] = STEPS[event.key] ?? [];
  if (right === undefined) return;
  event.preventDefault();
  read(at ? at.i + right : 0, at ? at.client + down : 0);
}

if ($("#map")) {
  paintMap();
  $("#map canvas").addEventListener("keydown", step);
  addEventListener("resize", paintMap);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintMap);
  if (data.map.rounds.length < data.map.recorded) $("#map figcaption").append(` Of ${data.map.recorded} rounds ${data.map.rounds.length} are drawn.`);
  if (data.expelled.length) $("#map output").textContent = `expelled for good: ${data.expelled.join(", ")}`;
}

if ($("#quantities")) {
  let at = 0;
  choice($("#quantities"), "quantity", data.quantities.map((one) => one.name), (i) => { at = i; redraw(); });
  chart($("#quantities .plot"), (element) => {
    const one = data.quantities[at];
    const x = { field: "round", type: "quantitative", axis: { grid: false, tickMinStep: 1, tickCount: 10 }, scale: { nice: false, zero: false } };
    const y = { type: "quantitative", title: one.name };
    const legend = { title: null, orient: "top", symbolOpacity: 1, symbolType: "stroke", symbolSize: 300 * unit };
    return embed(element, {
      width: "container", height: 260, data: { values: one.points },
      encoding: { x, color: { field: "kind", type: "nominal", scale: KINDS, legend } },
      layer: [
        { mark: { type: "area", opacity: 0.15 }, encoding: { y: { ...y, field: "low" }, y2: { field: "high" } } },
        { mark: { type: "line", strokeWidth: 2 * unit, point: { size: 150, opacity: 0 } }, encoding: { y: { ...y, field: "mean" }, strokeDash: { field: "kind", type: "nominal", scale: { domain: KINDS.domain, range: [[1, 0], [7, 5]] }, legend }, tooltip: [{ field: "kind", title: "clients" }, { field: "round" }, ...["mean", "low", "high"].map((field) => ({ field, format: ".4~g" }))] } },
      ],
    });
  });
}

// ------------------------------------------------------------- matrices and classes

// As large as there is room for, up to a size.
function heat(title, cells, x, y, value, text, room, across) {
  const step = Math.max(20, Math.min(34 * unit, Math.floor((room - 62 * unit) / across)));
  return {
    autosize: "pad", width: { step }, height: { step }, title, data: { values: cells },
    encoding: { x: { field: "x", type: "ordinal", title: x, axis: { labelAngle: 0, orient: "bottom" } }, y: { field: "y", type: "ordinal", title: y } },
    layer: [
      { mark: { type: "rect", cornerRadius: 3 }, encoding: { fill: { value: "var(--cool)" }, fillOpacity: { field: value, type: "quantitative", scale: { range: [0.03, 0.85] }, legend: null }, tooltip: [{ field: "y", title: y }, { field: "x", title: x }, { field: "count" }] } },
      ...(text ? [{ transform: [{ filter: "datum.count > 0" }], mark: { type: "text", fontSize: 11 * unit }, encoding: { text: { field: "count" } } }] : []),
    ],
  };
}

if ($("#matrices")) chart($("#matrices .plot"), (element) => {
  const specs = data.matrices.map(({ title, counts }) => {
    const cells = counts.flatMap((line, y) => line.map((count, x) => ({ x, y, count, share: count / Math.max(1, line.reduce((sum, one) => sum + one, 0)) })));
    return (room) => heat(title, cells, "the model says", "true class", "share", counts.length <= 20, room, counts.length);
  });
  const places = specs.map(() => el("div"));
  element.replaceChildren(el("div", { class: "plots" }, ...places));
  return Promise.all(specs.map((spec, i) => embed(places[i], spec(places[i].clientWidth))));
});

if ($("#classes")) chart($("#classes .plot"), (element) => {
  const bad = new Set(data.attackers);
  const cells = data.classes.flatMap((line, client) => line.map((count, y) => ({ x: client, y, count, share: count })));
  const spec = heat(undefined, cells, "client (bold: malicious)", "class", "share", data.classes.length <= 40, element.clientWidth, data.classes.length);
  spec.width = data.classes.length <= 40 ? spec.width : { step: Math.max(4, 1400 / data.classes.length) };
  spec.encoding.x.axis = { ...spec.encoding.x.axis, labelOverlap: true, labelFontWeight: { condition: { test: `indexof(${JSON.stringify([...bad])}, datum.value) >= 0`, value: "bold" }, value: "normal" }, labelColor: { condition: { test: `indexof(${JSON.stringify([...bad])}, datum.value) >= 0`, value: "var(--warm)" }, value: "var(--soft)" } };
  return embed(element, spec);
});

// ----------------------------------------------------------------------------- live

async function update() {
  const answer = await fetch(data.live);
  if (!answer.ok) return;
  const newer = await answer.json();
  const [done, grown] = [newer.status !== "running", newer.done !== data.done];
  data = { ...data, ...newer, matrices: data.matrices, classes: data.classes, expelled: data.expelled };
  $(".status progress").value = data.done;
  $(".status span").textContent = `round ${data.done} of ${data.of}, ${data.status}`;
  $(".lead").textContent = data.lead;
  if (grown) {
    paintMap();
    redraw();
  }
  if (done) clearInterval(timer);
}
const timer = data.live ? setInterval(() => update().catch(() => {}), 2000) : null;
