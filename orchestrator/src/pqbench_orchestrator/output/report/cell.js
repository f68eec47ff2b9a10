// The page of one cell: plots of its samples, its figures, its layers, and the environment of its measurement.
const LAYER_COLUMNS = ["Layer", "Type", "Executed in", "Provider", "Time (ms)", "Share"];
const HIDDEN = ["box", "Cell"];

async function showCell(key) {
  const row = rows.find((one) => one.Cell === key);
  const details = row ? await detailsOf(key) : null;
  const page = document.getElementById("cell");
  page.querySelector("h2").textContent = row
    ? `${row.Model}, ${row.Recipe} on ${row.Target}, batch ${row["Batch Size"]}` : `There is no cell ${key}`;
  page.querySelector(".answer").textContent = details?.texts.Why ?? row?.Reason ?? "";
  fillFigures(row ?? {});
  fillLayers(details);
  fillEnvironment(details);
  document.getElementById("overview").hidden = true;
  page.hidden = false;
  window.scrollTo(0, 0);
  drawSamples(details);
}

function drawSamples(details) {
  const place = document.getElementById("cell-figures");
  place.replaceChildren();
  const samples = Object.entries(details?.samples ?? {});
  if (!samples.length) return;
  const traces = { histogram: [], series: [] };
  for (const [index, [role, values]] of samples.sort((a, b) => (a[0] < b[0] ? 1 : -1)).entries()) {
    const more = { name: role, marker: { color: colour(index), symbol: symbol(index), size: 5 } };
    traces.histogram.push({ type: "histogram", x: values.map((v) => v[1]), opacity: 0.7, nbinsx: 60, ...more });
    traces.series.push({ type: "scatter", mode: "markers", x: values.map((v) => v[0]), y: values.map((v) => v[1]), ...more });
  }
  for (const [id, title] of [["histogram", "How often each latency was seen"], ["series", "Latency over the measurement"]]) {
    const box = document.createElement("figure");
    box.append(element("h3", title), element("div", "", { id: `cell-${id}`, className: "chart" }));
    place.append(box);
  }
  const histogram = layout("Latency (ms)", "Calls");
  Plotly.newPlot("cell-histogram", traces.histogram, { ...histogram, barmode: "overlay" }, CONFIG);
  Plotly.newPlot("cell-series", traces.series, layout("Seconds since the measurement began", "Latency (ms)"), CONFIG);
}

function fillFigures(row) {
  const shown = Object.entries(row).filter(([name, value]) => known(value) && value !== "" && !HIDDEN.includes(name));
  document.querySelector("#cell-figures-table tbody").replaceChildren(...shown.map(([name, value]) => {
    const line = document.createElement("tr");
    const figure = typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(5) : text(value, 0);
    line.append(element("th", name, { scope: "row" }), element("td", figure));
    return line;
  }));
}

function fillLayers(details) {
  const layers = details?.layers ?? [];
  const whole = layers.reduce((sum, layer) => sum + layer[4], 0) || 1;
  document.getElementById("cell-tool").textContent = layers.length
    ? `Times by ${details.tool}, in a separate run: profiling slows a call, so only the shares are meaningful.` : "There is no profile of this cell.";
  const head = document.createElement("tr");
  head.append(...LAYER_COLUMNS.map((name) => element("th", name, { scope: "col" })));
  document.querySelector("#cell-layers thead").replaceChildren(...(layers.length ? [head] : []));
  document.querySelector("#cell-layers tbody").replaceChildren(...layers.map((layer) => {
    const line = document.createElement("tr");
    const values = [...layer.slice(0, 4), layer[4].toFixed(4), `${(100 * layer[4] / whole).toFixed(1)} %`];
    line.append(...values.map((value, i) => element("td", value, { className: i > 3 ? "number" : "" })));
    return line;
  }));
}

function fillEnvironment(details) {
  const texts = details?.texts ?? {};
  const parts = { Versions: details?.versions, Options: texts.Options, "Engine's settings": details?.settings,
    "Measured with": details?.measured, Environment: details?.environment };
  const list = document.getElementById("cell-environment");
  list.replaceChildren();
  for (const [name, value] of Object.entries(parts)) {
    if (!value) continue;
    const lines = typeof value === "string" ? value : Object.entries(value).map(([key, one]) => `${key}: ${one}`).join("\n");
    list.append(element("dt", name), element("dd", lines, { className: "lines" }));
  }
}

function showOverview() {
  document.getElementById("cell").hidden = true;
  document.getElementById("overview").hidden = false;
}
