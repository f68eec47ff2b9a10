// The run's table, and the details of its cells, which are decompressed when a cell is opened.
const json = (id) => JSON.parse(document.getElementById(id).textContent);
const packed = json("data");
const rows = packed.rows.map((values) => Object.fromEntries(packed.columns.map((name, i) => [name, values[i]])));
const chunkOf = json("chunk-of");
const FILTERS = ["Model", "Dataset", "Batch Size", "Concurrency", "Target"];
const FREE = ["Target"]; // filters that may be set to "all"
const known = (value) => value !== null && value !== undefined;
const unique = (name) => [...new Set(rows.map((row) => row[name]))].filter(known);

async function detailsOf(cell) {
  if (!(cell in chunkOf)) return null;
  const bytes = Uint8Array.from(atob(document.getElementById(`chunk${chunkOf[cell]}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return (await new Response(stream).json())[cell];
}

function element(tag, text = "", more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...more });
}

// A command with a button that copies it.
function commandLine(command) {
  const line = element("p", "", { className: "command" });
  line.append(element("code", command), " ", copyButton(element("button", "Copy", { type: "button" }), command));
  return line;
}

function copyButton(button, text) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return button;
}

function buildFilters(onChange) {
  const form = document.getElementById("filters");
  for (const name of FILTERS) {
    const values = unique(name);
    if (values.length < 2 && name !== "Batch Size") continue;
    const label = element("label", `${name} `);
    const select = element("select", "", { name });
    if (FREE.includes(name)) select.append(new Option("all", ""));
    for (const value of values) select.append(new Option(value, value));
    label.append(select);
    form.append(label);
  }
  const label = element("label", "Recipe has ");
  label.append(element("input", "", { name: "Recipe", type: "search", size: 14 }));
  form.append(label);
  const everything = element("label", "All cells in the table ");
  everything.append(element("input", "", { name: "everything", type: "checkbox", defaultChecked: rows.length <= 2 * PAGE }));
  form.append(everything);
  form.addEventListener("input", onChange);
  form.addEventListener("submit", (event) => event.preventDefault());
}

// The rows that pass the filters, except those named in `except`, whose values a figure shows on an axis.
function selected(...except) {
  const form = new FormData(document.getElementById("filters"));
  const recipe = (form.get("Recipe") ?? "").toLowerCase();
  const wanted = FILTERS.filter((name) => !except.includes(name) && form.get(name));
  return rows.filter((row) =>
    wanted.every((name) => String(row[name]) === form.get(name)) && row.Recipe.toLowerCase().includes(recipe));
}
