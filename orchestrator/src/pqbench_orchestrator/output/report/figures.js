// The figures: each takes the selected rows and returns Plotly's traces and layout, or null without anything to show.
const FEWEST_AMOUNTS = 3; // with fewer, a line over them shows nothing that the table does not
const MOST_BARS = 300; // a series with more points has no error bars
const OUTLIER = 20; // times the median: with a larger value, an axis is logarithmic
const FEW_POINTS = 12; // with more points, a scatter plot has intervals at the recommended cell alone
const UNIT = { "Inference Time (ms)": "ms", "Engine (bytes)": "bytes", "Energy (mJ/image)": "mJ", "P99 (ms)": "ms" };
const COSTS = {
  "Inference Time (ms)": "Median latency of one batch (ms)",
  "Engine (bytes)": "Size of the engine (bytes)",
  "Energy (mJ/image)": "Energy (mJ per image, idle subtracted)",
  "P99 (ms)": "99th percentile of the latency (ms)",
};
const recommended = new Set(json("recommended"));
const targets = unique("Target");

// The number of timed cells marked unstable. Every figure of times shows it, so that one copied out of the page does too.
const timed = rows.filter((row) => known(row["Inference Time (ms)"]));
const unsettled = timed.filter((row) => row.Stable === false).length;
const UNSTABLE = unsettled ? [{
  text: `${unsettled} of ${timed.length} timed cells are unstable`, xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left",
  yanchor: "bottom", showarrow: false,
}] : [];

const TIMES = /latency|seconds?\b/i; // in the title of an axis

function layout(x, y, more = {}) {
  return { ...plainLayout(x, y, more), annotations: TIMES.test(`${x} ${y}`) ? UNSTABLE : [], boxmode: "group", barmode: "group" };
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

function bars(own, middle, low, high, color) {
  if (own.length > MOST_BARS) return undefined;
  const distance = (a, b) => own.map((row) => (known(row[a]) && known(row[b]) ? Math.abs(row[a] - row[b]) : 0));
  return { type: "data", symmetric: false, thickness: 1, color, array: distance(high, middle), arrayminus: distance(middle, low) };
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
  const intervals = (own) => ({
    error_x: timed ? bars(own, cost, "Median Low (ms)", "Median High (ms)") : undefined,
    error_y: bars(own, "Accuracy", "Accuracy Low", "Accuracy High"),
  });
  const traces = byTarget(points, (own, index) => ({
    type: "scatter", mode: "markers", x: own.map((row) => row[cost]), y: own.map((row) => row.Accuracy),
    ...(points.length > FEW_POINTS ? {} : intervals(own)),
    text: own.map((row) => row.Recipe), hovertemplate: `%{text}<br>%{x:.4~g} ${UNIT[cost]}, %{y:.2f} %`, customdata: own.map((row) => row.Cell),
    marker: { color: colour(index), symbol: symbol(index), size: 10 },
  }));
  const best = front(points, cost);
  traces.push({
    type: "scatter", mode: "lines", name: "Pareto front", line: { color: css("--soft"), dash: "dot", shape: "hv" },
    x: best.map((row) => row[cost]), y: best.map((row) => row.Accuracy), hoverinfo: "skip",
  });
  const chosen = points.filter((row) => recommended.has(row.Cell));
  traces.push({
    type: "scatter", mode: "markers", name: "Recommended", x: chosen.map((row) => row[cost]), y: chosen.map((row) => row.Accuracy),
    marker: { symbol: "circle-open", size: 22, color: css("--text"), line: { width: 3 } }, text: chosen.map((row) => `${row.Recipe} on ${row.Target}`),
    customdata: chosen.map((row) => row.Cell), hovertemplate: "recommended: %{text}", ...intervals(chosen),
  });
  const made = layout(COSTS[cost], "Accuracy (%)", { xaxis: { type: "log", ...ticks(points.map((row) => row[cost])) } });
  made.annotations = [...made.annotations, ...labels(best, points, cost)];
  return { traces, layout: made };
}

// Names of the cells on the front, each at the first place beside its point where it covers no other label or point.
function labels(best, points, cost) {
  const place = placer(points, cost);
  const taken = points.map((row) => box(...place(row), 0, POINT));
  return best.map((row) => {
    const [x, y] = place(row);
    const up = SHIFTS.find((shift) => !taken.some((other) => overlap(other, labelBox(row, x, y, shift)))) ?? SHIFTS[0];
    taken.push(labelBox(row, x, y, up));
    return {
      text: row.Recipe, x: Math.log10(row[cost]), y: row.Accuracy, showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: css("--soft"),
      standoff: 6, ax: LABEL_RIGHT, ay: -up, xanchor: "left", yanchor: "middle",
    };
  });
}

// Where a cell's point is, in pixels, about: the real size of the plot is known only when it is drawn.
function placer(points, cost) {
  const scale = (values, size) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => ((value - low) / (high - low || 1)) * size;
  };
  const x = scale(points.map((row) => Math.log10(row[cost])), PLOT[0]);
  const y = scale(points.map((row) => row.Accuracy), PLOT[1]);
  return (row) => [x(Math.log10(row[cost])), y(row.Accuracy)];
}

const PLOT = [480, 220]; // pixels
const POINT = 6; // half of a point's width
const LABEL_RIGHT = 14; // pixels from the point to its label
const SHIFTS = [22, 38, -22, 54, -38, 70]; // pixels above the point
const box = (x, y, right, half) => [x - half, x + Math.max(half, right), y - half, y + half];
const labelBox = (row, x, y, up) => box(x + LABEL_RIGHT, y + up, 7 * row.Recipe.length, 8);
const overlap = (a, b) => a[0] < b[1] && b[0] < a[1] && a[2] < b[3] && b[2] < a[3];

// Ticks of a logarithmic axis at 1, 2 and 5 of each decade of the values; at 1 alone where these are many, and evenly
// where these are few.
function ticks(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const decades = Array.from({ length: last - first + 1 }, (_, index) => first + index);
  const steps = decades.length > 5 ? [1] : [1, 2, 5];
  const tickvals = high < 5 * low ? even(low, high) : decades.flatMap((decade) => steps.map((step) => Number(`${step}e${decade}`)));
  return { tickvals, ticktext: tickvals.map((value) => value.toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: true })) };
}

// About five multiples of 1, 2 or 5 times a power of ten, from below `low` to above `high`.
function even(low, high) {
  const least = Math.max(high - low, low / 50) / 5;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= least);
  const first = Math.max(1, Math.floor(low / step)), count = Math.ceil(high / step) - first + 1;
  return Array.from({ length: count }, (_, index) => (first + index) * step);
}

// Lines over the pruned share, one for each technique and target; each begins at the unpruned model, if there is one.
function overAmount(column, title, only = () => true) {
  return (all) => {
    const isPruned = (row) => typeof row.Amount === "number" && known(row[column]) && only(row);
    const target = column === "Accuracy" ? all.find(isPruned)?.Target : null; // accuracy hardly depends on the target
    const cells = target ? all.filter((row) => row.Target === target) : all;
    const pruned = cells.filter(isPruned);
    if (new Set(pruned.map((row) => row.Amount)).size + 1 < FEWEST_AMOUNTS) return null;
    const found = [...grouped(pruned, (row) => JSON.stringify([row.Technique, row.Target])).values()];
    const series = found.slice(0, MOST_SERIES);
    const names = lineNames(series.map((own) => own[0]));
    const wholes = series.map(([first]) => cells.filter((row) => row.Target === first.Target && known(row[column]) && isUnpruned(row, first)));
    const traces = series.map((own, index) => {
      const points = [...wholes[index].map((row) => [0, row[column]]), ...own.map((row) => [row.Amount, row[column]])];
      points.sort((a, b) => a[0] - b[0]);
      return {
        type: "scatter", mode: "lines+markers", name: names[index], x: points.map((p) => p[0]), y: points.map((p) => p[1]),
        line: { color: colour(index) }, marker: { symbol: symbol(index), size: 8 }, hovertemplate: "%{x:.0%} pruned<br>%{y:.4~g}",
      };
    });
    const yaxis = column === "Accuracy" ? accuracyAxis([...pruned, ...wholes.flat()]) : {};
    return { traces, layout: layout("Pruned share", title, { xaxis: { tickformat: ".0%" }, yaxis }), note: (target ? ` On ${target}.` : "") + leftOut(found) };
  };
}

// An axis at least as high as the widest 95 % interval, so that one image's difference is not shown as a climb.
function accuracyAxis(cells) {
  const points = cells.map((row) => row.Accuracy);
  const widest = Math.max(0, ...cells.filter((row) => known(row["Accuracy High"])).map((row) => row["Accuracy High"] - row["Accuracy Low"]));
  const [low, high] = [Math.min(...points), Math.max(...points)];
  const missing = Math.max(0.2 * (high - low), widest - (high - low)) / 2;
  return { range: [low - missing, high + missing] };
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
  if (new Set(timed.map((row) => row["Batch Size"])).size < 2) return null;
  const series = [...grouped(timed, (row) => [row.Recipe, targets.length > 1 ? row.Target : ""].filter(Boolean).join(", "))];
  const traces = series.slice(0, MOST_SERIES).map(([name, own], index) => ({
    type: "box", name, marker: { color: colour(index) }, x: own.map((row) => `batch ${row["Batch Size"]}`),
    lowerfence: own.map((row) => row.box[0]), q1: own.map((row) => row.box[1]), median: own.map((row) => row.box[2]),
    q3: own.map((row) => row.box[3]), upperfence: own.map((row) => row.box[4]),
  }));
  const times = timed.flatMap((row) => [row.box[0], row.box[4]]);
  const yaxis = { type: "log", ...ticks(times) };
  return { traces, layout: layout("", "Latency of one batch (ms)", { yaxis }), note: leftOut(series) };
}

// Bars of one figure with the interval between two others, on a logarithmic axis where few are far above the others.
function barsOf(column, title, low = column, high = column) {
  return (cells) => {
    const points = cells.filter((row) => typeof row[column] === "number");
    if (!points.length) return null;
    const traces = byTarget(points, (own) => ({
      type: "bar", x: own.map((row) => row.Recipe), y: own.map((row) => row[column]), error_y: low === column ? undefined : bars(own, column, low, high, css("--text")),
      hovertemplate: `%{x}<br>%{y:.4~g} ${UNIT[column]}`,
    }));
    const values = points.map((row) => row[column]);
    const isWide = Math.min(...values) > 0 && Math.max(...values) > OUTLIER * median(values);
    const yaxis = isWide ? { type: "log", ...ticks(values) } : {};
    return { traces, layout: layout("", title, { yaxis }), note: isWide ? " The axis is logarithmic." : "" };
  };
}

function combined(cells) {
  const kind = (row) => (row.Pruner !== "-" ? 1 : 0) + (row.Quantizer !== "-" ? 2 : 0);
  const scored = cells.filter((row) => known(row["Accuracy Change"]) && !row.Baseline);
  const target = scored.find((row) => kind(row) === 3)?.Target; // accuracy hardly depends on the target: one is enough
  if (!target) return null;
  const points = scored.filter((row) => row.Target === target);
  const names = ["neither", "pruned", "quantized", "pruned and quantized"];
  const traces = names.map((name, index) => {
    const own = points.filter((row) => kind(row) === index);
    return {
      type: "bar", name, marker: { color: colour(index) }, y: own.map((row) => row["Accuracy Change"]),
      x: own.map((row) => row.Recipe), error_y: bars(own, "Accuracy Change", "Accuracy Change Low", "Accuracy Change High", css("--text")),
      hovertemplate: "%{x}<br>%{y:+.2f} points",
    };
  });
  return { traces: traces.filter((trace) => trace.x.length), layout: layout("", "Change of accuracy (points)"), note: ` On ${target}.` };
}

function throughput(cells) {
  const points = cells.filter((row) => known(row["Images/s"]));
  if (new Set(points.map((row) => row.Concurrency)).size < 2) return null;
  const series = [...grouped(points, (row) => `${row.Recipe}, ${row.Target}`)];
  const traces = series.slice(0, MOST_SERIES).map(([name, own], index) => {
    const sorted = [...own].sort((a, b) => a.Concurrency - b.Concurrency);
    return {
      type: "scatter", mode: "lines+markers", name, x: sorted.map((row) => row.Concurrency), y: sorted.map((row) => row["Images/s"]),
      line: { color: colour(index) }, marker: { symbol: symbol(index), size: 8 },
    };
  });
  return { traces, layout: layout("Concurrency", "Images per second"), note: leftOut(series) };
}

const FIGURES = [
  { id: "tradeoff", title: "Accuracy against cost", costs: true,
    caption: `The line joins the cells that no other beats in both. Bars are 95 % intervals, with more than ${FEW_POINTS} points those of the recommended cell; with several sessions, bars of latency reach from the fastest to the slowest. Click a point to see its cell.`,
    draw: tradeoff },
  { id: "amount", title: "Accuracy against pruning amount", caption: "Each line begins at the unpruned model.",
    draw: overAmount("Accuracy", "Accuracy (%)") },
  { id: "latency", title: "Latency", caption: "Median latency of one batch with its 95 % interval; with several sessions, their median and range. Lower is better.",
    draw: barsOf("Inference Time (ms)", "Median latency (ms)", "Median Low (ms)", "Median High (ms)") },
  { id: "batch", title: "Latency against batch size", spread: ["Batch Size"],
    caption: "Boxes are quartiles of all calls of the first session, whiskers the 5th and 95th percentile.", draw: boxes },
  { id: "removal-latency", title: "Latency against removal amount", caption: "Only recipes that remove channels.",
    draw: overAmount("Inference Time (ms)", "Median latency (ms)", (row) => row.Pruner === "removal") },
  { id: "removal-size", title: "Size against removal amount", caption: "The engine's file: what is deployed.",
    draw: overAmount("Engine (bytes)", COSTS["Engine (bytes)"], (row) => row.Pruner === "removal") },
  { id: "size", title: "Size", caption: "The engine's file: what is deployed.",
    draw: barsOf("Engine (bytes)", COSTS["Engine (bytes)"]) },
  { id: "combined", title: "Pruning and quantization, alone and together", caption: "Points of accuracy gained or lost against the uncompressed model, with 95 % intervals from a paired bootstrap.", draw: combined },
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
    (figure.costs ? document.getElementById("beside") : charts).append(box);
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
