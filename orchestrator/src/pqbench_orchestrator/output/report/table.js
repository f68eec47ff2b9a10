// The table of cells, which can be sorted and filtered, and shows one page of rows at a time.
const COLUMNS = [
  ["Model"], ["Recipe"], ["Dataset"], ["Target"], ["Batch Size", 0], ["Concurrency", 0], ["Repeat", 0], ["Outcome"],
  ["Accuracy", 2], ["Accuracy Low", 2], ["Accuracy High", 2], ["Accuracy Change", 2], ["Indistinguishable"],
  ["Inference Time (ms)", 3], ["Median Low (ms)", 3], ["Median High (ms)", 3], ["P99 (ms)", 3],
  ["Speedup", 2], ["Speedup Low", 2], ["Speedup High", 2], ["Against Baseline"], ["Images/s", 0], ["Rate (1/s)", 1], ["Valid"], ["Stable"],
  ["Unstable Because"], ["State Dict (bytes)", 0], ["Engine (bytes)", 0], ["Sparsity (%)", 1], ["MACs", 0],
  ["Energy (mJ/image)", 3], ["Engine Memory (MB)", 1], ["Executed Precision"], ["Bound By"], ["Within-Run SD (%)", 2],
  ["Between-Build SD (%)", 2], ["Between-Session SD (%)", 2], ["Agreement (%)", 2], ["SQNR (dB)", 1], ["Fidelity (dB)", 1], ["Warnings"], ["Prep Time (s)", 2],
  ["Build Time (s)", 2], ["Load Time (s)", 3], ["Stopped Early"], ["Reason"],
].filter(([name]) => rows.some((row) => known(row[name]) && row[name] !== ""));
const LONG = ["Reason", "Warnings", "Unstable Because", "Stopped Early"];
const PAGE = 100;
let order = null; // [column's name, whether it is descending]; null: not sorted
let pageNumber = 0;

function text(value, digits) {
  if (!known(value)) return "";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? value.toFixed(digits ?? 2) : String(value);
}

function tableCell(row, [name, digits]) {
  const made = element("td", text(row[name], digits));
  if (typeof row[name] === "number") made.className = "number";
  if (name === "Outcome") made.className = row[name];
  if (LONG.includes(name)) made.className = "reason";
  if (name === "Recipe") made.replaceChildren(element("a", row.Recipe, { href: `#cell=${row.Cell}` }));
  return made;
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
  const cells = ordered(form.elements.everything?.checked ? rows : selected());
  const pages = Math.max(1, Math.ceil(cells.length / PAGE));
  pageNumber = Math.min(pageNumber, pages - 1);
  const shown = cells.slice(pageNumber * PAGE, (pageNumber + 1) * PAGE);
  document.querySelector("#table tbody").replaceChildren(...shown.map((row) => {
    const line = document.createElement("tr");
    line.append(...COLUMNS.map((column) => tableCell(row, column)));
    return line;
  }));
  const range = cells.length ? `${pageNumber * PAGE + 1} to ${pageNumber * PAGE + shown.length}` : "none";
  document.getElementById("shown").textContent = `${range} of ${cells.length} cells that match the filters, of ${rows.length} in all`;
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

function buildTable() {
  const head = document.createElement("tr");
  for (const [name] of COLUMNS) {
    const column = element("th", "", { scope: "col" });
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => sortBy(name, column));
    column.append(button);
    head.append(column);
  }
  document.querySelector("#table thead").append(head);
  const label = element("label", "All cells in the table ");
  label.append(element("input", "", { name: "everything", type: "checkbox", checked: rows.length <= 2 * PAGE }));
  document.getElementById("filters").append(label);
  fillTable();
}

function sortBy(name, column) {
  const falling = column.getAttribute("aria-sort") === "ascending";
  for (const other of document.querySelectorAll("#table th")) other.removeAttribute("aria-sort");
  column.setAttribute("aria-sort", falling ? "descending" : "ascending");
  order = [name, falling];
  pageNumber = 0;
  fillTable();
}
