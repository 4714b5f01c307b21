// The scores of all words, and the tables: sorting, walking with the arrow keys, means or differences.
const page = document.querySelector(".dcam-table");
let scores = new Float32Array(0);
const score = (method, metric, word) => scores[(method * data.metrics.length + metric) * data.words.length + word];

const written = (value, sign = false) =>
  Number.isFinite(value) ? ((sign && value > 0 ? "+" : "") + value.toFixed(3)).replace("-", "−") : "–";

const tables = [...page.querySelectorAll("table.numbers")];

const sort = (table, column, heading) => {
  const before = heading.getAttribute("aria-sort");
  // The better end comes first; asked again, the other; asked a third time, the order of the run.
  const better = column.dataset.higher === "false" ? "ascending" : "descending";
  const other = better === "ascending" ? "descending" : "ascending";
  const now = before === better ? other : before === other ? "none" : better;
  table.querySelectorAll("th[aria-sort]").forEach((each) => each.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", now);
  const sign = now === "ascending" ? 1 : -1;
  const valueOf = (row) => parseFloat(row.children[heading.cellIndex].dataset.value);
  const orderOf = (row) => Number(row.dataset.order);
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [one, two] = [valueOf(a), valueOf(b)];
    if (now === "none" || one === two || (isNaN(one) && isNaN(two))) return orderOf(a) - orderOf(b);
    return isNaN(one) ? 1 : isNaN(two) ? -1 : sign * (one - two);
  });
  table.tBodies[0].append(...rows);
};

for (const table of tables) {
  for (const column of table.querySelectorAll("th[data-higher]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort";
    button.append(...column.childNodes);
    column.append(button);
    column.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(table, column, column));
  }
  table.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    const row = table.rows[cell.parentElement.rowIndex + step[0]];
    const link = row?.cells[cell.cellIndex + step[1]]?.querySelector("a");
    event.preventDefault();
    link?.focus();
  });
}

const chooser = page.querySelector(".kinds");
const showTable = (kind) => {
  for (const table of tables) table.closest(".kind").hidden = table.dataset.kind !== kind;
  const choice = chooser?.querySelector(`[value=${kind}]`);
  if (choice) choice.checked = true;
};
if (chooser) {
  chooser.hidden = false;
  chooser.addEventListener("change", (event) => showTable(event.target.value));
}
showTable("mean");
