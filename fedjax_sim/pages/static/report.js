// A report's page: who listens to what.
"use strict";

$("table.results").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.sort !== undefined) sortBy(button);
  else if (button.ariaExpanded !== null) fold(button);
  else openRuns(Number(button.closest("td").dataset.cell));
});

const form = $(".filters");
form?.addEventListener("change", () => applyFilters(form));
form?.addEventListener("reset", () => setTimeout(() => applyFilters(form)));
form?.addEventListener("submit", (event) => event.preventDefault());

$("#runs").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close(); // beside it
});

$("[data-more]")?.addEventListener("click", (event) => {
  $(".verdicts").classList.add("all");
  event.target.remove();
});

// The legend of all charts: press a row to show it alone, others to add them.
const buttons = data.rows.map((name, row) => {
  const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  sample.setAttribute("width", 22);
  sample.setAttribute("height", 8);
  sample.setAttribute("aria-hidden", "true");
  const stroke = document.createElementNS("http://www.w3.org/2000/svg", "path");
  stroke.setAttribute("d", "M0 4H22");
  stroke.setAttribute("style", `stroke:${color(row)};stroke-width:3;stroke-dasharray:${dash(row)}`);
  sample.append(stroke);
  const button = el("button", { type: "button", "aria-pressed": shown[row] }, sample, name);
  button.addEventListener("click", () => press(row));
  return button;
});
$(".series").append(...buttons);

function press(row) {
  const all = shown.every(Boolean);
  if (all) shown.fill(false);
  shown[row] = all || !shown[row];
  if (!shown.some(Boolean)) shown.fill(true);
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", shown[i]));
  redraw();
}

curvesChart();
tradeoffChart();
zonesChart();
scoresCharts();
if (!$("#charts figure")) $("#charts").remove();
