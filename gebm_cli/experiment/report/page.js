"use strict";

// Sliders along a chain, and tables sorted by their heads. Without this script all of the page can still be read.
document.documentElement.classList.add("live");

function makeSlider(slider) {
  const frames = [...slider.querySelectorAll(".frame")];
  const range = slider.querySelector("input");
  if (!range) return;
  const output = slider.querySelector("output");
  const play = slider.querySelector(".play");
  let timer = null;

  if (slider.dataset.beside) {
    const still = frames[0].cloneNode(true);
    still.className = "still";
    slider.querySelector(".frames").prepend(still);
  }

  function show(index) {
    frames.forEach((frame, k) => frame.classList.toggle("now", k === index));
    const label = frames[index].dataset.label;
    range.value = index;
    range.setAttribute("aria-valuetext", label);
    output.textContent = label;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  function start() {
    if (Number(range.value) >= frames.length - 1) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      show(Number(range.value) + 1);
      if (Number(range.value) >= frames.length - 1) stop();
    }, Math.min(500, Math.max(80, 4000 / frames.length)));
  }

  range.addEventListener("input", () => {
    stop();
    show(Number(range.value));
  });
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  slider.classList.add("moving");
  show(Number(range.value));
}

// Numbers before text, and text as people count it (run-2 before run-10).
function compare(a, b) {
  const numbers = [a, b].map((cell) => "number" in cell.dataset);
  if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
  if (!numbers[0]) return a.dataset.text.localeCompare(b.dataset.text, "en", { numeric: true });
  const [x, y] = [Number(a.dataset.number), Number(b.dataset.number)];
  return x < y ? -1 : x > y ? 1 : 0;
}

function sortBy(table, head) {
  const heads = [...head.parentElement.children];
  const column = heads.indexOf(head);
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const body = table.tBodies[0];
  const absent = (row) => !row.cells[column] || "absent" in row.cells[column].dataset;
  const known = [...body.rows].filter((row) => !absent(row));
  const unknown = [...body.rows].filter(absent);
  known.sort((a, b) => direction * compare(a.cells[column], b.cells[column]));
  body.append(...known, ...unknown);
}

function makeSortable(table) {
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sortBy(table, button.parentElement));
  }
}

// What is folded is printed open, and folded again.
let opened = [];
function openAll() {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((part) => (part.open = true));
}
function closeAgain() {
  opened.forEach((part) => (part.open = false));
  opened = [];
}

document.querySelectorAll(".slider").forEach(makeSlider);
document.querySelectorAll("table.sortable").forEach(makeSortable);
window.addEventListener("beforeprint", openAll);
window.addEventListener("afterprint", closeAgain);
