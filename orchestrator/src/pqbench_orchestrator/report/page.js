"use strict";

const rows = JSON.parse(document.getElementById("data").textContent);
// Okabe and Ito's colours, told apart by the colour-blind; symbols tell targets apart without colour.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
const FILTERS = ["Model", "Dataset", "Batch Size"];
const COLUMNS = [
  ["Model"], ["Recipe"], ["Dataset"], ["Target"], ["Batch Size", 0], ["Repeat", 0], ["Outcome"], ["Accuracy", 2],
  ["Agreement (%)", 2], ["Inference Time (ms)", 3], ["Median Low (ms)", 3], ["Median High (ms)", 3], ["P99 (ms)", 3],
  ["Speedup", 2], ["Speedup Low", 2], ["Speedup High", 2], ["Images/s", 0], ["Stable"], ["Original Size", 3],
  ["Compressed Size", 3], ["Sparsity (%)", 1], ["MACs", 0], ["Executed Precision"], ["Prep Time (s)", 2],
  ["Build Time (s)", 2], ["Unstable Because"], ["Reason"],
];

const unique = (name) => [...new Set(rows.map((row) => row[name]))];
const targets = unique("Target");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function selected() {
  const form = new FormData(document.getElementById("filters"));
  return rows.filter((row) => FILTERS.every((name) => String(row[name]) === form.get(name)));
}

function buildFilters() {
  const form = document.getElementById("filters");
  for (const name of FILTERS) {
    const label = document.createElement("label");
    label.textContent = `${name} `;
    const select = document.createElement("select");
    select.name = name;
    for (const value of unique(name)) select.append(new Option(value, value));
    label.append(select);
    form.append(label);
  }
  form.addEventListener("change", drawCharts);
}

function layout(x, y, more = {}) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text") },
    margin: { t: 20, r: 10 }, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" }, hovermode: "closest",
    xaxis: { title: { text: x }, ...axis }, yaxis: { title: { text: y }, ...axis }, ...more,
  };
}

const plot = (id, traces, shape) => Plotly.react(id, traces, shape, { responsive: true, displaylogo: false });

function byTarget(cells, make) {
  return targets
    .map((target, index) => [target, cells.filter((row) => row.Target === target), index])
    .filter(([, own]) => own.length)
    .map(([target, own, index]) => ({ name: target, marker: { color: COLOURS[index % COLOURS.length] }, ...make(own, index) }));
}

function drawTradeoff(cells) {
  const timed = cells.filter((row) => row.Accuracy !== null && row["Inference Time (ms)"] !== null);
  const traces = byTarget(timed, (own, index) => ({
    type: "scatter", mode: "markers",
    x: own.map((row) => row["Inference Time (ms)"]), y: own.map((row) => row.Accuracy),
    error_x: {
      type: "data", symmetric: false, thickness: 1,
      array: own.map((row) => row["Median High (ms)"] - row["Inference Time (ms)"]),
      arrayminus: own.map((row) => row["Inference Time (ms)"] - row["Median Low (ms)"]),
    },
    text: own.map((row) => row.Recipe), hovertemplate: "%{text}<br>%{x:.3f} ms, %{y:.2f} %",
    marker: { color: COLOURS[index % COLOURS.length], symbol: SYMBOLS[index % SYMBOLS.length], size: 10 },
  }));
  const front = timed.filter((row) => row.front).sort((a, b) => a["Inference Time (ms)"] - b["Inference Time (ms)"]);
  traces.push({
    type: "scatter", mode: "lines+text", name: "Pareto front", line: { color: css("--soft"), dash: "dot", shape: "hv" },
    x: front.map((row) => row["Inference Time (ms)"]), y: front.map((row) => row.Accuracy),
    text: front.map((row) => row.Recipe), textposition: "top right", hoverinfo: "skip",
  });
  const shape = layout("Median latency of one batch (ms)", "Accuracy (%)");
  shape.xaxis.type = "log";
  plot("tradeoff", traces, shape);
}

function drawAmount(cells) {
  const pruned = cells.filter((row) => row.Accuracy !== null && (typeof row.Amount === "number" || row.Pruner === "-"));
  const groups = new Map();
  for (const row of pruned.filter((one) => one.Pruner !== "-")) {
    const key = [row.Target, row.Pruner, row.Quantizer].filter((part) => part !== "-").join(", ");
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  const traces = [...groups].map(([name, own], index) => {
    const { Target, Quantizer } = own[0];
    const unpruned = pruned.filter((r) => r.Pruner === "-" && r.Target === Target && r.Quantizer === Quantizer);
    const points = [...unpruned.map((row) => [0, row.Accuracy]), ...own.map((row) => [row.Amount, row.Accuracy])];
    points.sort((a, b) => a[0] - b[0]);
    return {
      type: "scatter", mode: "lines+markers", name, x: points.map((p) => p[0]), y: points.map((p) => p[1]),
      line: { color: COLOURS[index % COLOURS.length] },
      marker: { symbol: SYMBOLS[targets.indexOf(Target) % SYMBOLS.length], size: 8 },
      hovertemplate: "pruned %{x:.0%}<br>%{y:.2f} %",
    };
  });
  const shape = layout("Pruned share", "Accuracy (%)");
  shape.xaxis.tickformat = ".0%";
  plot("amount", traces, shape);
}

function drawBars(id, cells, column, title) {
  const known = cells.filter((row) => typeof row[column] === "number");
  const traces = byTarget(known, (own) => ({
    type: "bar", x: own.map((row) => row.Recipe), y: own.map((row) => row[column]), hovertemplate: "%{x}<br>%{y:.3f}",
  }));
  plot(id, traces, layout("", title, { barmode: "group" }));
}

function drawCharts() {
  const cells = selected();
  drawTradeoff(cells);
  drawAmount(cells);
  drawBars("latency", cells, "Inference Time (ms)", "Median latency (ms)");
  drawBars("size", cells, "Compressed Size", "Size (MB)");
}

function cell(row, [name, digits]) {
  const element = document.createElement("td");
  const value = row[name];
  if (value === null || value === undefined) return element;
  element.textContent = typeof value === "number" ? value.toFixed(digits ?? 2) : String(value);
  if (typeof value === "number") element.className = "number";
  if (name === "Outcome") element.className = value;
  if (name === "Reason" || name === "Unstable Because") element.className = "reason";
  return element;
}

function fillTable(ordered) {
  const body = document.querySelector("#table tbody");
  body.replaceChildren(...ordered.map((row) => {
    const line = document.createElement("tr");
    line.append(...COLUMNS.map((column) => cell(row, column)));
    return line;
  }));
}

function compare(a, b, name) {
  const [left, right] = [a[name], b[name]];
  return typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right));
}

function buildTable() {
  const head = document.createElement("tr");
  for (const [name] of COLUMNS) {
    const column = document.createElement("th");
    column.scope = "col";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => sortBy(name, column));
    column.append(button);
    head.append(column);
  }
  document.querySelector("#table thead").append(head);
  fillTable(rows);
}

function sortBy(name, column) {
  const falling = column.getAttribute("aria-sort") === "ascending";
  for (const other of document.querySelectorAll("#table th")) other.removeAttribute("aria-sort");
  column.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const known = rows.filter((row) => (row[name] ?? null) !== null);
  const absent = rows.filter((row) => (row[name] ?? null) === null);
  known.sort((a, b) => (falling ? -1 : 1) * compare(a, b, name));
  fillTable([...known, ...absent]);
}

buildFilters();
buildTable();
drawCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
