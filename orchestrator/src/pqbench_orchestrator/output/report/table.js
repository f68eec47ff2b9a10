// The table of cells, which can be sorted and filtered, and shows one page of rows at a time.
// Name, digits and, of the first columns, those of its interval, which is shown beside the figure.
const FIRST = [
  ["Cell"], ["Model"], ["Dataset"], ["Recipe"], ["Target"], ["Batch Size", 0], ["Concurrency", 0], ["Repeat", 0],
  ["Inference Time (ms)", 3, "Median Low (ms)", "Median High (ms)"], ["Speedup", 2, "Speedup Low", "Speedup High"],
  ["Accuracy Change", 2, "Accuracy Change Low", "Accuracy Change High"], ["Engine (bytes)", 0], ["Executed Precision"], ["Outcome"],
];
const MORE = [
  ["Accuracy", 2, "Accuracy Low", "Accuracy High"], ["Against Baseline"], ["Indistinguishable"], ["P99 (ms)", 3], ["Images/s", 0],
  ["Rate (1/s)", 1], ["Valid"], ["State Dict (bytes)", 0], ["Sparsity (%)", 1], ["MACs", 0],
  ["Energy (mJ/image)", 3], ["Engine Memory (MB)", 1], ["Bound By"], ["Within-Run SD (%)", 2],
  ["Between-Build SD (%)", 2], ["Between-Session SD (%)", 2], ["Agreement (%)", 2], ["SQNR (dB)", 1], ["Fidelity (dB)", 1], ["Warnings"],
  ["Prep Time (s)", 2], ["Build Time (s)", 2], ["Load Time (s)", 3], ["Stopped Early"],
];
const CONSTANT = ["Model", "Dataset", "Concurrency", "Repeat"]; // columns that a sentence replaces where they have one value
const SHORT = 8; // characters of a cell's key, which commands take in place of the whole
const isConstant = ([name]) => CONSTANT.includes(name) && unique(name).length < 2;
const filled = ([name]) => rows.some((row) => known(row[name]) && row[name] !== "");
const offered = [...FIRST, ...MORE].filter((column) => filled(column) && !isConstant(column));
const columns = () => offered.filter((column) => (chosenColumns ? chosenColumns.has(column[0]) : FIRST.includes(column)));
const LONG = ["Warnings", "Stopped Early"];
const PAGE = 100;
let order = null; // [column's name, whether it is descending]; null: not sorted
let chosenColumns = null; // the names of those that are shown; null: the first ones
let pageNumber = 0;

function text(value, digits) {
  if (!known(value)) return "";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  return digits === 0 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : value.toFixed(digits ?? 2);
}

// A figure with its interval, as "0.050 (0.049 to 0.089)".
function withInterval(row, [name, digits, low, high]) {
  const value = text(row[name], digits);
  return value && low && known(row[low]) && known(row[high]) ? `${value} (${text(row[low], digits)} to ${text(row[high], digits)})` : value;
}

function tableCell(row, column) {
  const name = column[0];
  const made = element("td", withInterval(row, column));
  if (typeof row[name] === "number") made.className = "number";
  if (name === "Outcome") made.replaceChildren(outcomeOf(row));
  if (LONG.includes(name)) made.className = "reason";
  if (name === "Recipe") made.replaceChildren(element("a", row.Recipe, { href: `#cell=${row.Cell}` }));
  if (name === "Cell") made.replaceChildren(element("code", row.Cell.slice(0, SHORT)));
  return made;
}

// How the cell ended, with its reasons on demand.
function outcomeOf(row) {
  const unstable = row.Stable === false;
  const words = element("span", row.Outcome + (unstable ? ", unstable" : ""), { className: unstable ? "refused" : row.Outcome });
  const reasons = [row.Reason, unstable ? row["Unstable Because"] : ""].filter((reason) => known(reason) && reason !== "");
  if (!reasons.length) return words;
  const more = document.createElement("details");
  const summary = document.createElement("summary");
  summary.append(words);
  more.append(summary, element("span", reasons.join("; ")));
  return more;
}

function compare(a, b, name) {
  const [left, right] = [a[name], b[name]];
  return typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right));
}

function ordered(cells) {
  if (!order) return cells;
  const [name, falling] = order;
  const there = cells.filter((row) => known(row[name]));
  there.sort((a, b) => (falling ? -1 : 1) * compare(a, b, name));
  return [...there, ...cells.filter((row) => !known(row[name]))];
}

function fillTable() {
  const form = document.getElementById("filters");
  const cells = ordered(form.elements.everything.checked ? rows : selected());
  const pages = Math.max(1, Math.ceil(cells.length / PAGE));
  pageNumber = Math.min(pageNumber, pages - 1);
  const shown = cells.slice(pageNumber * PAGE, (pageNumber + 1) * PAGE);
  document.querySelector("#table tbody").replaceChildren(...shown.map((row) => {
    const line = document.createElement("tr");
    line.append(...columns().map((column) => tableCell(row, column)));
    return line;
  }));
  const range = `${pageNumber * PAGE + 1} to ${pageNumber * PAGE + shown.length} of ${cells.length} cells that match the filters`;
  document.getElementById("shown").textContent = `${cells.length ? range : "No cell matches the filters"}, of ${rows.length} in all${constants()}`;
  fillPages(pages);
}

function fillPages(pages) {
  const place = document.getElementById("pages");
  place.replaceChildren();
  if (pages < 2) return;
  for (const [label, to] of [["Previous", pageNumber - 1], ["Next", pageNumber + 1]]) {
    const button = element("button", label, { type: "button", disabled: to < 0 || to >= pages });
    button.addEventListener("click", () => {
      pageNumber = to;
      fillTable();
    });
    place.append(button, " ");
  }
  place.append(`page ${pageNumber + 1} of ${pages}`);
}

// The values that all cells have in common, as a sentence.
function constants() {
  const told = FIRST.filter(isConstant).filter(([name]) => known(rows[0]?.[name])).map(([name]) => `${name.toLowerCase()} ${rows[0][name]}`);
  return told.length ? `; all: ${told.join(", ")}` : "";
}

function fillHead() {
  const head = document.createElement("tr");
  for (const [name] of columns()) {
    const column = element("th", "", { scope: "col" });
    if (order?.[0] === name) column.setAttribute("aria-sort", order[1] ? "descending" : "ascending");
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => sortBy(name));
    column.append(button);
    head.append(column);
  }
  document.querySelector("#table thead").replaceChildren(head);
}

function buildTable() {
  for (const [name] of offered) {
    const label = element("label");
    const box = element("input", "", { type: "checkbox", value: name });
    box.addEventListener("change", () => {
      chooseColumns([...document.querySelectorAll("#columns input:checked")].map((one) => one.value));
      writeView();
      update();
    });
    label.append(box, ` ${name}`);
    document.getElementById("columns").append(label, " ");
  }
  chooseColumns(null);
  fillHead();
  fillTable();
}

// Show the columns with these names; where none of them is offered, the first ones.
function chooseColumns(names) {
  const wanted = offered.map(([name]) => name).filter((name) => names?.includes(name));
  chosenColumns = wanted.length ? new Set(wanted) : null;
  const shown = new Set(columns().map(([name]) => name));
  for (const box of document.querySelectorAll("#columns input")) box.checked = shown.has(box.value);
}

function sortBy(name) {
  order = [name, order?.[0] === name && !order[1]];
  writeView();
  pageNumber = 0;
  const focused = document.activeElement?.textContent === name;
  fillHead();
  fillTable();
  if (focused) [...document.querySelectorAll("#table th button")].find((button) => button.textContent === name).focus();
}
