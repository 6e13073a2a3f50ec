// What every page's scripts share: elements, numbers, and charts drawn when they are seen.
"use strict";

// Text is always set as text: nothing of a results folder becomes HTML.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && typeof value === "function") made[key] = value;
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const known = (values) => values.filter((value) => value !== null && value !== undefined);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

// Of a sample (n - 1), as in the tables; null below two values.
function deviation(values) {
  if (values.length < 2) return null;
  const center = mean(values);
  const squares = values.map((value) => (value - center) ** 2);
  return Math.sqrt(squares.reduce((sum, value) => sum + value, 0) / (values.length - 1));
}

// Colours are the page's variables, so that a chart follows light and dark by itself.
const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
const LOOK = {
  background: null,
  font: "Inter, 'Helvetica Neue', 'Segoe UI', system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "var(--soft)", titleColor: "var(--soft)", gridColor: "var(--line)",
    domain: false, ticks: false, labelPadding: 8, titlePadding: 12, titleFontWeight: 400,
    labelFontSize: 12 * unit, titleFontSize: 12 * unit,
  },
  title: { color: "var(--ink)", anchor: "start", fontSize: 13 * unit, fontWeight: 550, offset: 14 },
  header: { labelColor: "var(--ink)", titleColor: "var(--soft)", labelFontSize: 12 * unit },
  legend: { labelFontSize: 11 * unit, titleFontSize: 11 * unit, labelColor: "var(--soft)", titleColor: "var(--soft)", titleFontWeight: 400 },
  text: { color: "var(--ink)" },
};

function embed(element, spec) {
  const options = { renderer: "svg", actions: false, defaultStyle: false, config: LOOK, tooltip: { disableDefaultStyle: true } };
  const height = typeof spec.height === "number" ? { height: spec.height * unit } : {};
  return vegaEmbed(element, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", autosize: { type: "fit-x", contains: "padding" }, ...spec, ...height }, options);
}

// A chart is drawn when it comes into sight, and again when `redraw` says so; the others
// one by one when nothing else is to be done, for those who print the page.
const charts = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = charts.get(entry.target);
    if (!chart) continue;
    chart.seen = entry.isIntersecting;
    if (chart.seen && chart.stale) paint(entry.target, chart);
  }
}, { rootMargin: "300px" });

async function paint(element, chart) {
  chart.stale = false;
  try {
    await chart.draw(element);
    element.dataset.drawn = Number(element.dataset.drawn || 0) + 1;
  } catch (error) {
    element.replaceChildren(el("p", { class: "empty" }, `This chart could not be drawn: ${error.message}`));
    throw error;
  }
}

function chart(element, draw) {
  charts.set(element, { draw, stale: true, seen: false });
  watcher.observe(element);
  drawRest();
}

function redraw() {
  for (const [element, one] of charts) {
    one.stale = true;
    if (one.seen) paint(element, one);
  }
  drawRest();
}

const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 200));
let resting = false;

function drawRest() {
  if (resting) return;
  resting = true;
  whenIdle(async () => {
    const left = [...charts].find(([, one]) => one.stale);
    try {
      if (left) await paint(...left);
    } finally {
      resting = false;
      if (left) drawRest();
    }
  });
}

// A choice above a chart; returns the select element, or null where there is none.
function choice(figure, label, texts, changed) {
  if (texts.length < 2) return null;
  const select = el("select", {}, ...texts.map((text, i) => el("option", { value: i }, text)));
  select.addEventListener("change", () => changed(Number(select.value)));
  $(".controls", figure).append(el("label", {}, label, select));
  return select;
}

for (const button of $$("[data-copy]")) {
  button.addEventListener("click", () => {
    const code = $("code", button.parentElement);
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).then(() => (button.textContent = "Copied"));
  });
}
