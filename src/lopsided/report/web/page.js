// What a reader does with the page: sort, filter, choose, download; plots are drawn when they come into view.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const say = text => { document.getElementById("status").textContent = text; };
const figures = new Map(page.groups.flatMap(group => group.figures.map(figure => [figure.key, figure])));

// ---- figures

const viewOf = figure => {
  const host = document.getElementById(figure.key), choice = host.querySelector("select.view");
  const view = figure.views[choice ? Number(choice.value) : 0];
  const [x, y] = ["x", "y"].map(side => host.querySelector(`select.${side}`));
  return x ? {...view, x: x.value, y: y.value} : view;
};
const CONFIG = {displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]]};
const CONFIG_3D = {displaylogo: false, modeBarButtons: [["toImage", "resetCameraDefault3d"]]};

// Plotly is most of this file: it runs once the page stands.
let library = null;
const plotly = () => library ||= new Promise(resolve => setTimeout(() => {
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
  resolve();
}));

async function draw(div, width) {
  const figure = figures.get(div.dataset.figure), across = Math.floor(width || div.clientWidth), small = across < 520;
  if (!across) return;
  div.dirty = false;
  await plotly();
  const {data, layout, labels, front, titles} = KINDS[div.dataset.kind](viewOf(figure), across);
  const solid = div.dataset.kind === "surface";
  if (solid && div.camera) layout.scene.camera = div.camera;
  if (front) tellFront(figure, front, titles);
  await Plotly.react(div, data, layout, {...(solid ? CONFIG_3D : CONFIG), displayModeBar: small ? false : "hover"});
  if (labels) await Plotly.relayout(div, {annotations: placeLabels(div, labels, small)});
  if (div.wired) return;
  div.wired = true;
  div.on("plotly_relayout", change => {
    // Turned by hand, plotly's layout learns of the camera later than this.
    if (solid) div.camera = change["scene.camera"] || div._fullLayout.scene.camera;
    // Zoomed: the points moved.
    else if (labels && !("annotations" in change)) Plotly.relayout(div, {annotations: placeLabels(div, labels, small)});
  });
}

function tellFront(figure, front, [x, y]) {
  const listed = front.length > 1 ? `${front.slice(0, -1).join(", ")} and ${front[front.length - 1]}` : front[0];
  const {none, one, several} = figure.views[0].words, words = {x, y, front: listed};
  const sentence = !front.length ? none : front.length === 1 ? one : several;
  document.getElementById(figure.key).querySelector(".means").textContent = sentence.replace(/\{(x|y|front)\}/g, (_, name) => words[name]);
}

const seen = new Set();
const observer = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (isIntersecting) {
      seen.add(target);
      if (target.dirty !== false) draw(target);
    } else {
      seen.delete(target);
      // Browsers keep some sixteen 3-D drawings; one that is out of view is drawn again when it comes back.
      if (target.dataset.kind === "surface" && target.wired) { Plotly.purge(target); target.wired = false; target.dirty = true; }
    }
  }
}, {rootMargin: "150px"});
all(".plot").forEach(div => observer.observe(div));

function redraw(divs = all(".plot")) {
  for (const div of divs) { div.dirty = true; if (seen.has(div)) draw(div); }
}
all("figure select").forEach(select => select.addEventListener("change", () => {
  const figure = select.closest("figure");
  redraw(all(".plot", figure));
  const table = figure.querySelector("details");
  if (table && table.open) fill(table);
}));
all('.plot[data-kind="surface"]').forEach(div => div.addEventListener("keydown", event => {
  const turn = {ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.12], ArrowDown: [0, -0.12]}[event.key];
  if (!turn || !div._fullLayout) return;
  event.preventDefault();
  const camera = div.camera || div._fullLayout.scene.camera, {x, y, z} = camera.eye, [sin, cos] = [Math.sin(turn[0]), Math.cos(turn[0])];
  Plotly.relayout(div, {"scene.camera": {...camera, eye: {x: x * cos - y * sin, y: x * sin + y * cos, z: Math.max(-0.5, Math.min(2, z + turn[1]))}}});
}));

let waiting = 0, drawn = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawn) return;                          // phones fire this when the address bar hides
  clearTimeout(waiting);
  waiting = setTimeout(() => { drawn = innerWidth; redraw(); }, 150);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
addEventListener("beforeprint", () => all('.plot:not([data-kind="surface"])').forEach(div => draw(div, 640)));
addEventListener("afterprint", () => redraw());

// ---- figures as rows: for CSV, and as a table that screen readers read

const ROWS = {
  lines: v => [["series", "method", v.x.title, v.y.title], v.series.flatMap(s => s.x.map((x, i) => [s.name, s.label, x, s.y[i]]))],
  intervals: v => [["series", "method", v.x.title, "low", "high"], v.series.map(s => [s.name, s.label, s.x[0], s.low ? s.low[0] : null, s.high ? s.high[0] : null])],
  timeline: v => {
    const keys = Object.keys(v.rows[0].links[0]);
    return [["method", ...keys], v.rows.flatMap(row => row.links.map(link => [row.label, ...keys.map(key => link[key])]))];
  },
  matrix: v => [["run", "other run", "similarity"], v.names.flatMap((a, i) => v.names.map((b, j) => [a, b, v.values[i][j]]))],
  landscape: v => [["what", "step", "a", "b", "loss"], [
    ...v.loss.flatMap((row, i) => row.map((loss, j) => ["loss", null, v.axis[j], v.axis[i], loss])),
    ...v.path.a.map((a, i) => ["path", v.path.step[i], a, v.path.b[i], null]),
  ]],
  pareto: v => [["method", ...v.columns.flatMap(c => [c.title, `${c.title}, half of the 95 % interval`])],
    v.points.map(p => [p.label, ...v.columns.flatMap(c => p.cells[c.key])])],
};
function rowsOf(figure, views) {
  const several = views.length > 1, parts = views.map(view => [view.name, ...ROWS[figure.kind](view)]);
  const head = several ? [figure.choose, ...parts[0][1]] : parts[0][1];
  return [head, ...parts.flatMap(([name, , rows]) => rows.map(row => several ? [name, ...row] : row))];
}
// A spreadsheet would run a text that begins like a formula.
const cell = value => {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t]/.test(value) ? `'${value}` : String(value);
  return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
};
function download(name, rows) {
  const blob = new Blob([rows.map(row => row.map(cell).join(",")).join("\r\n") + "\r\n"], {type: "text/csv"});
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: `${name}.csv`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`${name}.csv was downloaded.`);
}
all("figure button.csv").forEach(button => button.addEventListener("click", () => {
  const figure = figures.get(button.closest("figure").id);
  download(figure.key, rowsOf(figure, figure.views));
}));
const MOST = 300;
function fill(details) {
  const figure = figures.get(details.closest("figure").id), [head, ...rows] = rowsOf(figure, [viewOf(figure)]);
  const table = document.createElement("table"), put = (row, tag, list) => list.forEach(value => {
    const one = document.createElement(tag);
    if (tag === "th") one.scope = "col";
    one.textContent = value === null || value === undefined ? "–" : value;
    row.append(one);
  });
  table.createCaption().textContent = figure.title + (rows.length > MOST ? `: the first ${MOST} of ${rows.length} rows; the CSV has all` : "");
  put(table.createTHead().insertRow(), "th", head);
  const body = table.createTBody();
  rows.slice(0, MOST).forEach(row => put(body.insertRow(), "td", row));
  details.querySelector(".scroll").replaceChildren(table);
}
all("figure details").forEach(details => details.addEventListener("toggle", () => { if (details.open) fill(details); }));

// ---- tables: sort, CSV

const valueIn = (row, at) => {
  const data = row.cells[at].querySelector("data");
  return data ? Number(data.value) : row.cells[at].dataset.text || null;
};
function sortBy(button, direction) {
  const header = button.closest("th"), table = header.closest("table"), at = header.cellIndex;
  all("th[aria-sort]", table).forEach(other => other.setAttribute("aria-sort", other === header ? direction : "none"));
  const sign = direction === "ascending" ? 1 : -1;
  const rows = all("tbody tr", table).sort((a, b) => {
    const [x, y] = [valueIn(a, at), valueIn(b, at)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
  table.tBodies[0].append(...rows);
  say(`Sorted by ${button.dataset.title}, ${direction}.`);
}
all("th button.sort").forEach(button => button.addEventListener("click", () => {
  const now = button.closest("th").getAttribute("aria-sort"), first = button.dataset.first;
  const other = first === "ascending" ? "descending" : "ascending";
  sortBy(button, now === first ? other : first);
}));
all("button.table-csv").forEach(button => button.addEventListener("click", () => {
  const table = document.getElementById(button.dataset.table), keys = all("thead th button", table).map(one => one.dataset.title);
  const head = keys.flatMap((title, i) => i ? [title, `${title}, half of the 95 % interval`] : [title]);
  const rows = all("tbody tr", table).map(row => [...row.cells].flatMap((one, i) => {
    const data = one.querySelector("data");
    return i ? [data ? Number(data.value) : null, data && data.dataset.half ? Number(data.dataset.half) : null] : [one.dataset.text];
  }));
  download(button.dataset.table, [head, ...rows]);
}));

// ---- filters

const chips = all("button.chip"), pick = name => document.getElementById(`filter-${name}`);
function filter() {
  hidden.clear();
  chips.filter(chip => chip.getAttribute("aria-pressed") === "false").forEach(chip => hidden.add(chip.dataset.label));
  all("[data-label]:not(.chip)").forEach(one => { one.hidden = hidden.has(one.dataset.label); });
  const chosen = ["model", "task"].map(name => [name, pick(name) ? pick(name).value : ""]);
  all(".group").forEach(group => { group.hidden = chosen.some(([name, value]) => value && group.dataset[name] !== value); });
  const groups = all(".group").filter(group => !group.hidden).length;
  say(`${chips.length - hidden.size} of ${chips.length} methods, ${groups} of ${page.groups.length} tasks and models shown.`);
  redraw();
}
chips.forEach(chip => chip.addEventListener("click", () => {
  chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") === "false"));
  filter();
}));
["model", "task"].forEach(name => pick(name) && pick(name).addEventListener("change", filter));
document.getElementById("filter-all").addEventListener("click", () => {
  chips.forEach(chip => chip.setAttribute("aria-pressed", "true"));
  ["model", "task"].forEach(name => { if (pick(name)) pick(name).value = ""; });
  filter();
});

// ---- `lopsided report --watch`: the page is loaded again when a run has finished, with the reader's choices kept

const live = document.documentElement.dataset.live;
if (live) {
  const controls = () => all("select").map(one => [one.id, one.value]);
  const kept = JSON.parse(sessionStorage.getItem("lopsided") || "null");
  if (kept) {
    sessionStorage.removeItem("lopsided");
    chips.forEach(chip => { if (kept.off.includes(chip.dataset.label)) chip.setAttribute("aria-pressed", "false"); });
    kept.controls.forEach(([id, value]) => {
      const one = document.getElementById(id);
      if (one && [...one.options].some(option => option.value === value)) one.value = value;
    });
    kept.sorted.forEach(([id, direction]) => { const one = document.getElementById(id); if (one) sortBy(one, direction); });
    filter();
    scrollTo(0, kept.scroll);
  }
  setInterval(async () => {
    const answer = await fetch("version").catch(() => null);
    if (!answer || !answer.ok || (await answer.text()) === live) return;
    const sorted = all("th[aria-sort]").filter(one => one.getAttribute("aria-sort") !== "none");
    sessionStorage.setItem("lopsided", JSON.stringify({
      scroll: scrollY, off: [...hidden], controls: controls(),
      sorted: sorted.map(one => [one.querySelector("button").id, one.getAttribute("aria-sort")]),
    }));
    location.reload();
  }, 2000);
}
