"use strict";
// Sorting of tables, and charts in the colours of the page.

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.sort;
      const rows = [...body.rows].sort((a, b) => {
        if (!key(a) || !key(b)) return Number(!key(a)) - Number(!key(b)); // what is unknown, last
        return (ascending ? 1 : -1) * compare(key(a), key(b));
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}

const figures = JSON.parse(document.getElementById("figures").textContent);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(layout) {
  const line = { gridcolor: color("--line"), zerolinecolor: color("--line"), automargin: true };
  return {
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--text"), family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { bgcolor: color("--panel"), font: { color: color("--text") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", ...layout.legend },
    margin: { t: 12, r: 12, b: 48, l: 56 },
    xaxis: { ...line, ...layout.xaxis },
    yaxis: { ...line, ...layout.yaxis },
  };
}

// A chart says its size as a view box, so that print can scale it without drawing it anew.
function fit(plot) {
  const { width, height } = plot._fullLayout;
  plot.style.setProperty("--ratio", `${width} / ${height}`);
  for (const svg of plot.querySelectorAll(".main-svg")) {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }
}

function draw(name) {
  const { data, layout } = figures[name];
  const plot = document.getElementById(name);
  for (const trace of data) if (trace.texttemplate) trace.textfont = { color: color("--text") };
  const first = !plot.on;
  Plotly.react(plot, data, themed(layout), { responsive: true, displayModeBar: false });
  if (first) plot.on("plotly_afterplot", () => fit(plot));
  fit(plot);
}

// What is in view is drawn at once, and the rest while nothing else is to do.
function drawAll() {
  const drawn = new Set();
  const waiting = new Set(Object.keys(figures));
  const take = (name) => {
    if (!waiting.delete(name)) return;
    draw(name);
    drawn.add(name);
  };
  const later = window.requestIdleCallback ?? ((step) => setTimeout(step, 50));
  const rest = () => {
    for (const name of waiting) {
      take(name);
      break;
    }
    if (waiting.size) later(rest);
  };
  const view = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) take(entry.target.id);
    later(rest);
  });
  document.querySelectorAll(".plot").forEach((plot) => view.observe(plot));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  matchMedia("print").addEventListener("change", () => waiting.forEach(take));
}

// The library takes a second to start: only then, when all else is shown and can be used.
const library = document.getElementById("plotly");
if (library) {
  requestAnimationFrame(() => setTimeout(() => {
    const script = document.createElement("script");
    script.textContent = library.textContent;
    document.head.append(script);
    drawAll();
  }));
}
