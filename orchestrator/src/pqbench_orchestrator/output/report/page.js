// Builds the page. `#cell=KEY` shows a cell; `#export` writes all figures into it for `pqbench report --figures`.
function follow() {
  const key = /^#cell=(.+)$/.exec(location.hash)?.[1];
  if (key) {
    showCell(decodeURIComponent(key));
    return;
  }
  const view = viewOfAddress();
  if (view) {
    applyView(view);
    update();
  }
  document.querySelector("#cell a").href = view ? location.hash : "#cells";
  if (document.getElementById("cell").hidden) return;
  showOverview();
  document.querySelector(view ? "#cells" : location.hash || "h1")?.scrollIntoView();
}

function update() {
  pageNumber = 0;
  redraw();
  fillHead();
  fillTable();
}

// The combinations of model, dataset, batch size and concurrency that have cells: pairs of a filter's name and value.
function choices() {
  const names = FILTERS.filter((name) => !FREE.includes(name));
  const seen = new Map(rows.map((row) => [names.map((name) => row[name]).join(" "), names.map((name) => [name, row[name]])]));
  return [...seen.values()];
}

function choose(values) {
  const form = document.getElementById("filters");
  for (const [name, value] of values) if (form.elements[name]) form.elements[name].value = value;
}

async function exportFigures() {
  const found = {};
  const add = async (name, traces, layout) => {
    layout.paper_bgcolor = layout.plot_bgcolor = "#ffffff";
    for (const format of ["svg", "png"]) {
      const size = { format, width: 1000, height: 600, scale: format === "png" ? 2 : 1 };
      found[`${name}.${format}`] = await Plotly.toImage({ data: traces, layout }, size);
    }
  };
  const all = choices();
  for (const choice of all) {
    choose(choice);
    const told = choice.filter(([name]) => name !== "Concurrency" || unique(name).length > 1).map(([, value]) => value);
    const prefix = all.length > 1 ? `${told.join("-").replace(/[^\w.-]+/g, "-")}-` : "";
    for (const figure of FIGURES) {
      const result = made(figure);
      if (result) await add(`${prefix}${figure.id}`, result.traces, result.layout);
    }
  }
  for (const [index, figure] of sensitivityFigures().entries()) await add(`sensitivity-${index + 1}`, figure.data, figure.layout);
  document.body.append(element("script", JSON.stringify(found), { id: "exported", type: "application/json" }));
}

buildFilters(() => {
  writeView();
  update();
});
buildTable();
buildFigures();
drawSensitivity();
for (const button of document.querySelectorAll("[data-copy]")) copyButton(button, button.dataset.copy);
window.addEventListener("hashchange", follow);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  redraw();
  drawSensitivity();
  follow();
});
follow();
if (location.hash === "#export") exportFigures();
