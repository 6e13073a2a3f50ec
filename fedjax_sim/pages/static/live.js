// The list of runs, up to date without reloading.
"use strict";

const LOOKS = { finished: "good", failed: "bad", unreadable: "bad", running: "", interrupted: "idle", waiting: "idle" };
const lines = new Map(); // of the table, by run: what changes is replaced alone

function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// On a phone the head of the table is not there: each number says what it is.
const rate = (name, value) => el("td", { class: value === null ? "number none" : "number", "data-head": name }, number(value));

function cellsOf(one) {
  const name = one.of === null ? one.run : el("a", { href: one.page }, one.run);
  const bar = one.of === null ? "" : el("progress", { max: one.of, value: one.done, "aria-label": `rounds of ${one.run}` });
  return [
    el("th", { scope: "row" }, name),
    el("td", {}, el("span", { class: `badge ${LOOKS[one.status] ?? ""}` }, one.status)),
    el("td", {}, bar, one.of === null ? "" : ` ${one.done} / ${one.of}`),
    one.left === null ? el("td") : el("td", { "data-head": "left" }, duration(one.left)),
    rate("MTA", one.mta), rate("ASR", one.asr),
    el("td", { class: "line" }, one.line ? el("span", { title: one.line }, one.line) : null),
  ];
}

function show(rows) {
  const body = $("tbody");
  const focused = document.activeElement?.closest?.("tr")?.dataset.run;
  for (const [run, line] of lines) if (!rows.some((one) => one.run === run)) line.remove(), lines.delete(run);
  rows.forEach((one, i) => {
    let line = lines.get(one.run);
    const text = JSON.stringify(one);
    if (!line) lines.set(one.run, (line = el("tr", { "data-run": one.run })));
    if (line.dataset.text !== text) {
      line.dataset.text = text;
      line.replaceChildren(...cellsOf(one));
    }
    if (body.children[i] !== line) body.insertBefore(line, body.children[i] ?? null);
    if (one.run === focused) $("a", line)?.focus({ preventScroll: true });
  });
  const count = (status) => rows.filter((one) => one.status === status).length;
  const parts = ["running", "finished", "failed", "unreadable", "interrupted", "waiting"].filter(count).map((status) => `${count(status)} ${status}`);
  const left = Math.max(0, ...rows.map((one) => one.left ?? 0));
  $(".lead").textContent = parts.length ? parts.join(", ") + (left ? `; the runs in progress end in about ${duration(left)}` : "") : "No runs yet";
  $(".empty").hidden = rows.length > 0;
  $(".live").hidden = rows.length === 0;
}

show(JSON.parse($("#data").textContent));

// The next question waits for the answer: a large folder takes its time.
async function follow() {
  try {
    const answer = await fetch("/runs.json");
    if (answer.ok) show(await answer.json());
  } catch {
    $(".lead").textContent = "The server does not answer any more; this is how things stood.";
  }
  setTimeout(follow, 2000);
}
setTimeout(follow, 2000);
