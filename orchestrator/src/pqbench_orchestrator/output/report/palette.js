"use strict";

// Colours that the colour-blind can distinguish, by Okabe and Ito (the last by Tol); symbols need no colour.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
const MOST_SERIES = COLOURS.length; // no two series have the same colour
const colour = (index) => COLOURS[index % COLOURS.length];
const symbol = (index) => SYMBOLS[index % SYMBOLS.length];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What a figure says of the series for which there is no colour.
function leftOut(series) {
  return series.length > MOST_SERIES ? ` The first ${MOST_SERIES} of ${series.length} series; filter for others.` : "";
}

// Layout of a figure in the page's colours, with titles of its axes.
function plainLayout(x, y, more = {}) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text") },
    margin: { t: 24, r: 10 }, hovermode: "closest", legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    xaxis: { title: { text: x }, ...axis, ...more.xaxis }, yaxis: { title: { text: y }, ...axis, ...more.yaxis },
  };
}
