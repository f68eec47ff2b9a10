// The page of one cell: plots of its samples, its figures, its layers, and the environment of its measurement.
const LAYER_COLUMNS = ["Layer", "Type", "Executed in", "Provider", "Time (ms)", "Share"];
const BASELINE_COLUMNS = ["Baseline (ms)", "Baseline in"];
const SAME_BASELINE = ["Model", "Dataset", "Target", "Batch Size", "Concurrency", "Repeat"];
const HIDDEN = ["box", "Cell"];

async function showCell(key) {
  const row = rows.find((one) => one.Cell === key);
  const details = row ? await detailsOf(key) : null;
  const baseline = row && !row.Baseline ? rows.find((one) => one.Baseline && SAME_BASELINE.every((name) => one[name] === row[name])) : null;
  const page = document.getElementById("cell");
  page.querySelector("h2").textContent = row
    ? `${row.Model}, ${row.Recipe} on ${row.Target}, batch ${row["Batch Size"]}` : `There is no cell ${key}`;
  fillState(row);
  const again = details?.confirmed ? `Measured again after it was chosen: ${details.confirmed}. ` : "";
  page.querySelector(".answer").textContent = again + (details?.texts.Why ?? row?.Reason ?? "");
  fillFigures(row ?? {});
  fillLayers(details, baseline ? await detailsOf(baseline.Cell) : null);
  fillEnvironment(details);
  document.getElementById("overview").hidden = true;
  page.hidden = false;
  window.scrollTo(0, 0);
  drawSamples(details);
}

// The cell's key, how it ended and why, whether its times are stable, and what to do with it.
function fillState(row) {
  const state = document.getElementById("cell-state");
  const commands = document.getElementById("cell-commands");
  state.replaceChildren();
  commands.replaceChildren();
  if (!row) return;
  state.append(element("span", row.Outcome, { className: `outcome ${row.Outcome}` }), element("code", row.Cell));
  const told = [row.Reason, row.Stable === false ? `unstable: ${row["Unstable Because"]}` : "", row.Warnings].filter((text) => known(text) && text !== "");
  if (told.length) state.append(` ${told.join("; ")}`);
  if (row.Outcome === "ok") commands.append(commandLine(`pqbench export ${json("run")} ${row.Cell} --out bundle`));
  if (known(row["Engine (bytes)"])) commands.append(commandLine(`pqbench why ${json("run")} ${row.Cell}`));
}

// Both figures are of all calls: the file holds them as bins, with the extremes of each.
function drawSamples(details) {
  const place = document.getElementById("cell-figures");
  place.replaceChildren();
  const samples = Object.entries(details?.samples ?? {}).sort((a, b) => (a[0] < b[0] ? 1 : -1));
  if (!samples.length) return;
  const traces = { histogram: [], series: [] };
  for (const [index, [role, one]] of samples.entries()) {
    traces.histogram.push(histogramOf(role, one, index));
    traces.series.push(...seriesOf(role, one, index));
  }
  const beyond = samples.filter(([, one]) => one.beyond).map(([role, one]) => `${one.beyond} of the ${role}, the slowest ${one.slowest.toPrecision(4)} ms`);
  const notes = {
    histogram: beyond.length ? `Each engine has an axis of its own. Not shown are the slowest calls: ${beyond.join("; ")}.` : "All calls; each engine has an axis of its own.",
    series: "Lines are medians, areas reach from the fastest to the slowest call of each stretch of time.",
  };
  for (const [id, title] of [["histogram", "How often each latency was seen"], ["series", "Latency over the measurement"]]) {
    const box = document.createElement("figure");
    box.append(element("h3", title), element("div", "", { id: `cell-${id}`, className: "chart" }), element("figcaption", notes[id]));
    place.append(box);
  }
  const histogram = plainLayout("Latency (ms)", "Calls");
  const second = { ...histogram.xaxis, domain: [0.55, 1] };
  const axes = samples.length > 1 ? { xaxis: { ...histogram.xaxis, domain: [0, 0.45] }, xaxis2: second } : {};
  Plotly.newPlot("cell-histogram", traces.histogram, { ...histogram, ...axes, bargap: 0 }, CONFIG);
  Plotly.newPlot("cell-series", traces.series, plainLayout("Seconds since the measurement began", "Latency (ms)", { yaxis: { rangemode: "tozero" } }), CONFIG);
}

function histogramOf(role, { low, high, counts }, index) {
  const width = (high - low) / counts.length || high / 100;
  return {
    type: "bar", name: role, xaxis: index ? "x2" : "x", x: counts.map((_, bin) => low + (bin + 0.5) * width), y: counts, width: counts.map(() => width),
    marker: { color: colour(index) }, hovertemplate: "%{x:.4~g} ms<br>%{y} calls",
  };
}

function seriesOf(role, { series }, index) {
  const times = series.map(([start]) => start);
  const edge = { type: "scatter", mode: "lines", x: times, line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: role };
  return [
    { ...edge, y: series.map(([, least]) => least) },
    { ...edge, y: series.map(([, , , most]) => most), fill: "tonexty", fillcolor: `${colour(index)}40` },
    {
      type: "scatter", mode: "lines+markers", name: role, legendgroup: role, x: times, y: series.map(([, , middle]) => middle),
      customdata: series.map(([, , , most]) => most), line: { color: colour(index) }, marker: { symbol: symbol(index), size: 5 },
      hovertemplate: "%{x:.2f} s<br>median %{y:.4~g} ms, slowest %{customdata:.4~g} ms",
    },
  ];
}

function fillFigures(row) {
  const shown = Object.entries(row).filter(([name, value]) => known(value) && value !== "" && !HIDDEN.includes(name));
  document.getElementById("cell-facts").replaceChildren(...shown.map(([name, value]) => {
    const line = document.createElement("div");
    const figure = typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(5) : text(value, 0);
    line.append(element("dt", name), element("dd", figure));
    return line;
  }));
}

// The layers; beside each, the baseline's layer of the same name. Below them, those that only the baseline has.
function fillLayers(details, baseline) {
  const layers = details?.layers ?? [];
  const others = new Map((layers.length ? baseline?.layers ?? [] : []).map((layer) => [layer[0], layer]));
  const whole = layers.reduce((sum, layer) => sum + layer[4], 0) || 1;
  document.getElementById("cell-tool").textContent = layers.length
    ? `Times by ${details.tool}, in a separate run: profiling slows a call, so only the shares are meaningful.${others.size ? " A layer of the baseline stands beside that of the same name; fused layers may have other names." : ""}`
    : "There is no profile of this cell.";
  const head = document.createElement("tr");
  const names = others.size ? [...LAYER_COLUMNS, ...BASELINE_COLUMNS] : LAYER_COLUMNS;
  head.append(...names.map((name) => element("th", name, { scope: "col" })));
  const lines = layers.map((layer) => [...layer.slice(0, 4), layer[4].toFixed(4), `${(100 * layer[4] / whole).toFixed(1)} %`, ...besides(others.get(layer[0]))]);
  const seen = new Set(layers.map(([name]) => name));
  for (const layer of others.values()) if (!seen.has(layer[0])) lines.push([layer[0], layer[1], "only in the baseline", "", "", "", ...besides(layer)]);
  document.querySelector("#cell-layers thead").replaceChildren(...(layers.length ? [head] : []));
  document.querySelector("#cell-layers tbody").replaceChildren(...lines.map((values) => {
    const line = document.createElement("tr");
    line.append(...names.map((name, i) => element("td", values[i] ?? "", { className: /ms|Share/.test(name) ? "number" : "" })));
    return line;
  }));
}

function besides(layer) {
  return layer ? [layer[4].toFixed(4), layer[2]] : [];
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
