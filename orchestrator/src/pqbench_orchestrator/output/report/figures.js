// The figures: each takes the selected rows and returns Plotly's traces and layout, or null without anything to show.
// Colours that the colour-blind can distinguish, by Okabe and Ito (the last by Tol); symbols and dashes need no colour.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const MOST_SERIES = 12;
const MOST_BARS = 300; // a series with more points has no error bars
const COSTS = {
  "Inference Time (ms)": "Median latency of one batch (ms)",
  "Engine (bytes)": "Size of the engine (bytes)",
  "Energy (mJ/image)": "Energy (mJ per image, idle subtracted)",
  "P99 (ms)": "99th percentile of the latency (ms)",
};
const targets = unique("Target");
const colour = (index) => COLOURS[index % COLOURS.length];
const symbol = (index) => SYMBOLS[index % SYMBOLS.length];

// The number of timed cells marked unstable. Every figure shows it, so that one copied out of the page does too.
const timed = rows.filter((row) => known(row["Inference Time (ms)"]));
const unsettled = timed.filter((row) => row.Stable === false).length;
const UNSTABLE = unsettled ? [{
  text: `${unsettled} of ${timed.length} timed cells are unstable`, xref: "paper", yref: "paper", x: 1, y: 1, xanchor: "right",
  yanchor: "bottom", showarrow: false,
}] : [];

function layout(x, y, more = {}) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text") },
    margin: { t: 24, r: 10 }, annotations: UNSTABLE, hovermode: "closest", boxmode: "group", barmode: "group",
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    xaxis: { title: { text: x }, ...axis, ...more.xaxis }, yaxis: { title: { text: y }, ...axis, ...more.yaxis },
  };
}

function grouped(cells, key) {
  const groups = new Map();
  for (const row of cells) groups.set(key(row), [...(groups.get(key(row)) ?? []), row]);
  return groups;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
}

// One row for each recipe, target, batch size and concurrency: the median, least and largest latency of its sessions.
function overSessions(cells) {
  const key = (row) => JSON.stringify([row.Recipe, row.Target, row["Batch Size"], row.Concurrency]);
  return [...grouped(cells, key).values()].map((own) => {
    const timed = own.filter((row) => known(row["Inference Time (ms)"]));
    const times = timed.map((row) => row["Inference Time (ms)"]);
    if (times.length < 2) return timed[0] ?? own[0];
    return {
      ...timed[0], "Inference Time (ms)": median(times), "Median Low (ms)": Math.min(...times), "Median High (ms)": Math.max(...times),
      "Images/s": median(timed.map((row) => row["Images/s"])),
    };
  });
}

function byTarget(cells, make) {
  return [...grouped(cells, (row) => row.Target)].map(([target, own]) => {
    const index = targets.indexOf(target);
    return { name: target, marker: { color: colour(index) }, ...make(own, index) };
  });
}

function bars(own, middle, low, high) {
  if (own.length > MOST_BARS) return undefined;
  const distance = (a, b) => own.map((row) => (known(row[a]) && known(row[b]) ? Math.abs(row[a] - row[b]) : 0));
  return { type: "data", symmetric: false, thickness: 1, array: distance(high, middle), arrayminus: distance(middle, low) };
}

// The Pareto front: cells that no other beats in both accuracy and cost, by rising cost.
function front(cells, cost) {
  let best = -Infinity;
  return [...cells].sort((a, b) => a[cost] - b[cost] || b.Accuracy - a.Accuracy)
    .filter((row) => row.Accuracy > best && ((best = row.Accuracy), true));
}

function tradeoff(cells, cost) {
  const points = cells.filter((row) => known(row.Accuracy) && known(row[cost]));
  if (!points.length) return null;
  const timed = cost === "Inference Time (ms)";
  const traces = byTarget(points, (own, index) => ({
    type: "scatter", mode: "markers", x: own.map((row) => row[cost]), y: own.map((row) => row.Accuracy),
    error_x: timed ? bars(own, cost, "Median Low (ms)", "Median High (ms)") : undefined,
    error_y: bars(own, "Accuracy", "Accuracy Low", "Accuracy High"),
    text: own.map((row) => row.Recipe), hovertemplate: "%{text}<br>%{x:.4~g}, %{y:.2f} %", customdata: own.map((row) => row.Cell),
    marker: { color: colour(index), symbol: symbol(index), size: 10 },
  }));
  const best = front(points, cost);
  traces.push({
    type: "scatter", mode: "lines+text", name: "Pareto front", line: { color: css("--soft"), dash: "dot", shape: "hv" },
    x: best.map((row) => row[cost]), y: best.map((row) => row.Accuracy),
    text: best.map((row) => row.Recipe), textposition: "top right", hoverinfo: "skip",
  });
  return { traces, layout: layout(COSTS[cost], "Accuracy (%)", { xaxis: { type: "log" } }) };
}

// Lines over the pruned share, one for each technique and target; each begins at the unpruned model, if there is one.
function overAmount(column, title, only = () => true) {
  return (cells) => {
    const pruned = cells.filter((row) => typeof row.Amount === "number" && known(row[column]) && only(row));
    if (!pruned.length) return null;
    const series = [...grouped(pruned, (row) => JSON.stringify([row.Technique, row.Target])).values()].slice(0, MOST_SERIES);
    const names = lineNames(series.map((own) => own[0]));
    const traces = series.map((own, index) => {
      const first = own[0];
      const whole = cells.filter((row) => row.Target === first.Target && known(row[column]) && isUnpruned(row, first));
      const points = [...whole.map((row) => [0, row[column]]), ...own.map((row) => [row.Amount, row[column]])];
      points.sort((a, b) => a[0] - b[0]);
      return {
        type: "scatter", mode: "lines+markers", name: names[index], x: points.map((p) => p[0]), y: points.map((p) => p[1]),
        line: { color: colour(index), dash: DASHES[Math.floor(index / COLOURS.length) % DASHES.length] },
        marker: { symbol: symbol(targets.indexOf(first.Target)), size: 8 }, hovertemplate: "%{x:.0%} pruned<br>%{y:.4~g}",
      };
    });
    return { traces, layout: layout("Pruned share", title, { xaxis: { tickformat: ".0%" } }) };
  };
}

// Whether a row's recipe is that of the pruned row without the pruning.
function isUnpruned(row, pruned) {
  return row.Pruner === "-" && row.Quantizer === pruned.Quantizer && (row.Baseline || pruned.Technique.endsWith(row.Technique));
}

// Names of lines: pruner, quantizer and target, or the whole technique where two lines would have the same name.
function lineNames(firsts) {
  const name = (row, ...parts) => [...parts, targets.length > 1 ? row.Target : "-"].filter((part) => part !== "-").join(", ");
  const short = firsts.map((row) => name(row, row.Pruner, row.Quantizer));
  return short.map((own, index) =>
    short.filter((other) => other === own).length > 1 ? name(firsts[index], firsts[index].Technique) : own);
}

function boxes(cells) {
  const timed = cells.filter((row) => row.box);
  if (!timed.length) return null;
  const series = [...grouped(timed, (row) => [row.Recipe, targets.length > 1 ? row.Target : ""].filter(Boolean).join(", "))];
  const traces = series.slice(0, MOST_SERIES).map(([name, own], index) => ({
    type: "box", name, marker: { color: colour(index) }, x: own.map((row) => `batch ${row["Batch Size"]}`),
    lowerfence: own.map((row) => row.box[0]), q1: own.map((row) => row.box[1]), median: own.map((row) => row.box[2]),
    q3: own.map((row) => row.box[3]), upperfence: own.map((row) => row.box[4]),
  }));
  const left = series.length - MOST_SERIES;
  const note = left > 0 ? ` The first ${MOST_SERIES} of ${series.length} series; filter for others.` : "";
  return { traces, layout: layout("", "Latency of one batch (ms)", { yaxis: { type: "log" } }), note };
}

function barsOf(column, title) {
  return (cells) => {
    const points = cells.filter((row) => typeof row[column] === "number");
    if (!points.length) return null;
    const traces = byTarget(points, (own) => ({
      type: "bar", x: own.map((row) => row.Recipe), y: own.map((row) => row[column]), hovertemplate: "%{x}<br>%{y:.4~g}",
    }));
    return { traces, layout: layout("", title) };
  };
}

function combined(cells) {
  const kind = (row) => (row.Pruner !== "-" ? 1 : 0) + (row.Quantizer !== "-" ? 2 : 0);
  const scored = cells.filter((row) => known(row.Accuracy));
  const target = scored.find((row) => kind(row) === 3)?.Target; // accuracy hardly depends on the target: one is enough
  if (!target) return null;
  const points = scored.filter((row) => row.Target === target);
  const names = ["neither", "pruned", "quantized", "pruned and quantized"];
  const traces = names.map((name, index) => {
    const own = points.filter((row) => kind(row) === index);
    return {
      type: "bar", name, marker: { color: colour(index) }, y: own.map((row) => row.Accuracy),
      x: own.map((row) => row.Recipe),
      error_y: bars(own, "Accuracy", "Accuracy Low", "Accuracy High"), hovertemplate: "%{x}<br>%{y:.2f} %",
    };
  });
  return { traces: traces.filter((trace) => trace.x.length), layout: layout("", "Accuracy (%)"), note: ` On ${target}.` };
}

function throughput(cells) {
  const points = cells.filter((row) => known(row["Images/s"]));
  if (new Set(points.map((row) => row.Concurrency)).size < 2) return null;
  const series = [...grouped(points, (row) => `${row.Recipe}, ${row.Target}`)].slice(0, MOST_SERIES);
  const traces = series.map(([name, own], index) => {
    const sorted = [...own].sort((a, b) => a.Concurrency - b.Concurrency);
    return {
      type: "scatter", mode: "lines+markers", name, x: sorted.map((row) => row.Concurrency), y: sorted.map((row) => row["Images/s"]),
      line: { color: colour(index) }, marker: { symbol: symbol(index), size: 8 },
    };
  });
  return { traces, layout: layout("Concurrency", "Images per second") };
}

const FIGURES = [
  { id: "tradeoff", title: "Accuracy against cost", costs: true,
    caption: "The line joins the cells that no other beats in both. Bars are 95 % intervals; with several sessions, bars of latency reach from the fastest to the slowest. Click a point to see its cell.",
    draw: tradeoff },
  { id: "amount", title: "Accuracy against pruning amount", caption: "Each line begins at the unpruned model.",
    draw: overAmount("Accuracy", "Accuracy (%)") },
  { id: "latency", title: "Latency", caption: "Median latency of one batch; with several sessions, the median over them. Lower is better.",
    draw: barsOf("Inference Time (ms)", "Median latency (ms)") },
  { id: "batch", title: "Latency against batch size", spread: ["Batch Size"],
    caption: "Boxes are quartiles of all calls of the first session, whiskers the 5th and 95th percentile.", draw: boxes },
  { id: "removal-latency", title: "Latency against removal amount", caption: "Only recipes that remove channels.",
    draw: overAmount("Inference Time (ms)", "Median latency (ms)", (row) => row.Pruner === "removal") },
  { id: "removal-size", title: "Size against removal amount", caption: "The engine's file: what is deployed.",
    draw: overAmount("Engine (bytes)", COSTS["Engine (bytes)"], (row) => row.Pruner === "removal") },
  { id: "size", title: "Size", caption: "The engine's file: what is deployed.",
    draw: barsOf("Engine (bytes)", COSTS["Engine (bytes)"]) },
  { id: "combined", title: "Pruning and quantization, alone and together", caption: "Bars are Wilson's 95 % intervals.", draw: combined },
  { id: "energy", title: "Energy", caption: "Per image, without what the idle machine uses.",
    draw: barsOf("Energy (mJ/image)", "Energy (mJ per image)") },
  { id: "throughput", title: "Throughput against concurrency", spread: ["Concurrency"], caption: "Several instances of one engine run at the same time.",
    draw: throughput },
];

const CONFIG = { responsive: true, displaylogo: false };
const drawn = new Set(); // ids of the figures that have come into view, or near it

function buildFigures() {
  const charts = document.getElementById("charts");
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || drawn.has(entry.target.id)) continue;
      drawn.add(entry.target.id);
      drawFigure(FIGURES.find((figure) => `figure-${figure.id}` === entry.target.id));
    }
  }, { rootMargin: "300px" });
  for (const figure of FIGURES) {
    const box = element("figure", "", { id: `figure-${figure.id}` });
    const head = element("h3", figure.title);
    const controls = element("p", "", { className: "controls" });
    if (figure.costs) controls.append(costSelect(figure));
    for (const format of ["svg", "png"]) {
      const button = element("button", format.toUpperCase(), { type: "button" });
      button.setAttribute("aria-label", `Download ${figure.title} as ${format.toUpperCase()}`);
      button.addEventListener("click", () => Plotly.downloadImage(figure.id, { format, filename: figure.id, width: 1000, height: 600 }));
      controls.append(button);
    }
    box.append(head, controls, element("div", "", { id: figure.id, className: "chart" }), element("figcaption", figure.caption));
    charts.append(box);
    seen.observe(box);
  }
  redraw();
}

function costSelect(figure) {
  const label = element("label", "Cost ");
  const select = element("select", "", { id: "cost" });
  for (const [column, title] of Object.entries(COSTS)) {
    if (rows.some((row) => known(row[column]))) select.append(new Option(title, column));
  }
  select.addEventListener("change", () => drawFigure(figure));
  label.append(select);
  return label;
}

function made(figure) {
  const cost = document.getElementById("cost")?.value;
  return figure.draw(overSessions(selected(...(figure.spread ?? []))), cost || "Inference Time (ms)");
}

// Draw a figure if it has come into view or near it; hide it where it has nothing to show.
function drawFigure(figure) {
  const result = made(figure);
  const box = document.getElementById(`figure-${figure.id}`);
  box.classList.toggle("empty", !result);
  if (!result || !drawn.has(box.id)) return;
  const chart = document.getElementById(figure.id);
  box.querySelector("figcaption").textContent = figure.caption + (result.note ?? "");
  Plotly.react(chart, result.traces, result.layout, CONFIG);
  if (figure.id === "tradeoff" && !chart.dataset.linked) {
    chart.dataset.linked = "yes";
    chart.on("plotly_click", (event) => {
      const cell = event.points[0].customdata;
      if (cell) location.hash = `cell=${cell}`;
    });
  }
}

function redraw() {
  for (const figure of FIGURES) drawFigure(figure);
}

// The figures of the layer sensitivity in the page's colours; none where no such analysis was made.
function sensitivityFigures() {
  if (!document.getElementById("sensitivity")) return [];
  return json("sensitivity-data").map((figure) => {
    const own = layout("", "");
    const axes = ["xaxis", "yaxis", "yaxis2"].map((name) => [name, { ...own.xaxis, ...figure.layout[name] }]);
    return { data: figure.data, layout: { ...own, ...figure.layout, ...Object.fromEntries(axes) } };
  });
}

function drawSensitivity() {
  for (const [index, figure] of sensitivityFigures().entries()) {
    const id = `sensitivity${index}`;
    if (!document.getElementById(id)) document.getElementById("sensitivity").append(element("div", "", { id, className: "chart" }));
    Plotly.react(id, figure.data, figure.layout, CONFIG);
  }
}
