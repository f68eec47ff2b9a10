// The filters, the order and the columns live in the address, as #Target=ort&sort=-Speedup, so that a view can be shared.
const START = { checkbox: (field) => (field.defaultChecked ? "yes" : "no"), "select-one": (field) => field.options[0].value };
const startOf = (field) => START[field.type]?.(field) ?? "";
const valueOf = (field) => (field.type === "checkbox" ? (field.checked ? "yes" : "no") : field.value);
const filterFields = () => [...document.getElementById("filters").elements].filter((field) => field.name);

// What the address says of the view, or null if it names a cell or a part of the page.
function viewOfAddress() {
  const text = location.hash.slice(1);
  return text.includes("=") && !text.startsWith("cell=") ? new URLSearchParams(text) : null;
}

function applyView(view) {
  for (const field of filterFields()) {
    const wanted = view.get(field.name) ?? startOf(field);
    if (field.type === "checkbox") field.checked = wanted === "yes";
    else field.value = wanted;
    if (field.type === "select-one" && field.selectedIndex < 0) field.selectedIndex = 0;
  }
  const sort = view.get("sort");
  order = sort ? [sort.replace(/^-/, ""), sort.startsWith("-")] : null;
  chooseColumns(view.get("columns")?.split(","));
}

// Write what differs from the first view into the address, without a new entry in the browser's history.
function writeView() {
  const view = new URLSearchParams();
  for (const field of filterFields()) if (valueOf(field) !== startOf(field)) view.set(field.name, valueOf(field));
  if (order) view.set("sort", (order[1] ? "-" : "") + order[0]);
  if (chosenColumns) view.set("columns", [...chosenColumns].join(","));
  history.replaceState(null, "", `#${view}`);
}
