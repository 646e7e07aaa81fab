// Figures of the page's data -> plotly's traces and layouts. Colours of text and grid are the page's own.
"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const SANS = 'system-ui, -apple-system, "Segoe UI", sans-serif';
const hidden = new Set();                                    // labels that the reader has switched off
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Plotly reads a few tags in its texts.
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const faint = (colour, share) => colour + Math.round(255 * share).toString(16).padStart(2, "0");
// Methods that share a colour differ in their symbol, and in the dashes of their lines.
const DASHES = ["solid", "dash", "dashdot"];
const dash = label => {
  const alike = Object.keys(page.looks).filter(other => page.looks[other][0] === page.looks[label][0]);
  return DASHES[alike.indexOf(label) % DASHES.length];
};
const look = label => ({colour: page.looks[label][0], symbol: page.looks[label][1], dash: dash(label)});
const short = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;
const shown = list => list.filter(one => !hidden.has(one.label));
const four = value => value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(4)));

function layoutOf(width, height, x, y) {
  const small = width < 520, size = small ? 11 : 12.5;
  const axis = (spec, side) => ({
    title: {text: escaped(short(spec.title || "", small ? 44 : 80)), standoff: side === "x" ? 12 : 8, font: {color: ink("--ink"), size}},
    type: spec.log ? "log" : "-", gridcolor: ink("--line"), zeroline: false, automargin: true, linecolor: ink("--strong-line"),
    nticks: small ? 5 : 8,
  });
  return {
    width, height, showlegend: false, hovermode: "closest", dragmode: small ? false : "zoom",
    font: {color: ink("--quiet"), size, family: SANS}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: {l: 52, r: 14, t: 10, b: 46}, xaxis: axis(x, "x"), yaxis: axis(y, "y"),
    modebar: {bgcolor: "rgba(0,0,0,0)", color: ink("--quiet"), activecolor: ink("--ink")},
    hoverlabel: {bgcolor: "#20242b", bordercolor: "#20242b", align: "left", font: {color: "#ffffff", family: SANS, size: 12.5}},
  };
}

// Round numbers for a logarithmic axis, at most seven where powers of ten allow it.
function logarithmic(axis, values, small) {
  const logs = values.map(Math.log10), [low, high] = [Math.min(...logs), Math.max(...logs)];
  const air = Math.max(0.08 * (high - low), (1 - (high - low)) / 2), [from, to] = [low - air, high + air];
  let ticks = [];
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    ticks = [];
    for (let decade = Math.floor(from); decade <= to; decade++) for (const step of steps) ticks.push(Number(`${step}e${decade}`));
    ticks = ticks.filter(tick => from <= Math.log10(tick) && Math.log10(tick) <= to);
    if (ticks.length <= (small ? 5 : 7)) break;
  }
  const brief = tick => [[1e9, "G"], [1e6, "M"], [1e3, "k"]].reduce((text, [scale, letter]) => text || (tick >= scale ? `${tick / scale}${letter}` : ""), "") || String(tick);
  Object.assign(axis, {range: [from, to], tickvals: ticks, ticktext: ticks.map(brief), nticks: undefined});
}

// A place on a line, between its points.
function heightAt(one, at) {
  for (let i = 1; i < one.x.length; i++) {
    const [a, b, from, to] = [one.x[i - 1], one.x[i], one.y[i - 1], one.y[i]];
    if (a <= at && at <= b && from !== null && to !== null) return from + (to - from) * (b > a ? (at - a) / (b - a) : 0);
  }
  return null;
}

function lines(view, width) {
  const traces = [];
  for (const one of shown(view.series)) {
    const {colour, symbol, dash} = look(one.label);
    const sparse = one.x.length <= 12;
    traces.push({
      x: one.x, y: one.y, name: escaped(one.name), mode: one.dash ? "lines" : "lines+markers", connectgaps: false,
      line: {color: colour, width: one.dash ? 1.3 : 2, dash: one.dash ? "dot" : dash},
      marker: {color: colour, symbol, size: 7, ...(sparse ? {} : {maxdisplayed: 8})},
      hovertemplate: `<b>${escaped(one.name)}</b><br>${escaped(view.x.title)} %{x}<br>${escaped(view.y.title)} %{y}<extra></extra>`,
    });
    const marks = (one.marks || []).map(at => [at, heightAt(one, at)]).filter(([, y]) => y !== null);
    if (marks.length) traces.push({
      x: marks.map(([x]) => x), y: marks.map(([, y]) => y), mode: "markers", name: `${escaped(one.name)}: a new link`,
      marker: {symbol: "line-ns-open", color: colour, size: 17, line: {width: 2, color: colour}},
      hovertemplate: `<b>${escaped(one.label)}</b><br>a new link at step %{x}<extra></extra>`,
    });
  }
  const layout = layoutOf(width, width < 520 ? 320 : 380, view.x, view.y);
  const places = view.series.flatMap(one => one.x);
  if (view.x.log && places.length) logarithmic(layout.xaxis, places, width < 520);
  return {data: traces, layout};
}

function intervals(view, width) {
  const rows = shown(view.series), names = [...new Set(rows.map(one => one.y[0]))];
  const values = rows.flatMap(one => [one.x[0], one.low ? one.low[0] : null, one.high ? one.high[0] : null]).filter(v => v !== null);
  const positive = values.filter(value => value > 0), floor = Math.min(...positive) / 3;
  const data = rows.map(one => {
    const {colour, symbol} = look(one.label), at = one.x[0];
    // An interval that holds zero goes to the edge of a logarithmic axis.
    const low = one.low ? (view.x.log ? Math.max(one.low[0], floor) : one.low[0]) : at;
    return {
      x: [at], y: [escaped(one.y[0])], name: escaped(one.name), mode: "markers",
      marker: {color: colour, symbol: symbol + (one.hollow ? "-open" : ""), size: 10, line: {width: one.hollow ? 2 : 0, color: colour}},
      error_x: one.low ? {type: "data", symmetric: false, array: [one.high[0] - at], arrayminus: [at - low], color: faint(colour, 0.6), thickness: 1.6, width: 3} : {},
      hovertemplate: `<b>${escaped(one.name)}</b><br>${escaped(view.x.title)} ${four(at)}` +
        (one.low ? `<br>95 % interval ${four(one.low[0])} to ${four(one.high[0])}` : "") + "<extra></extra>",
    };
  });
  const layout = layoutOf(width, 84 + 30 * Math.max(names.length, 3), view.x, {title: ""});
  const most = width < 520 ? 13 : 26;
  Object.assign(layout.yaxis, {
    type: "category", autorange: "reversed", tickvals: names.map(escaped), ticktext: names.map(name => escaped(short(name, most))), nticks: undefined,
  });
  if (view.x.log && values.length) {
    logarithmic(layout.xaxis, [floor, ...positive], width < 520);
    layout.xaxis.range[0] = Math.log10(floor);
  }
  if (!view.x.log) layout.shapes = [{type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: {color: ink("--strong-line"), width: 1}}];
  return {data, layout};
}

function timeline(view, width) {
  const rows = shown(view.rows), data = [];
  for (const row of rows) {
    const {colour} = look(row.label);
    for (const link of row.links) {
      const said = [`<b>${escaped(row.label)}</b>, link ${link.link + 1}`, `steps ${link.first_step} to ${link.last_step}`];
      if (link.loss_first !== null) said.push(`loss ${four(link.loss_first)} to ${four(link.loss_last)}`);
      if (link.learning_rate_first !== null) said.push(`learning rate ${four(link.learning_rate_first)} to ${four(link.learning_rate_last)}`);
      if (link.norm !== null) said.push(`norm of its update ${four(link.norm)}, rank ${link.rank}`);
      if (link.columns_covered !== null) said.push(`columns covered so far ${four(100 * link.columns_covered)} %`);
      data.push({
        type: "bar", orientation: "h", y: [escaped(row.label)], base: [link.first_step], x: [link.last_step - link.first_step],
        marker: {color: faint(colour, link.link % 2 ? 0.3 : 0.55), line: {color: ink("--paper"), width: 2}},
        text: [String(link.link + 1)], textposition: "inside", insidetextanchor: "middle", textangle: 0, textfont: {color: ink("--ink"), size: 12},
        hovertemplate: said.join("<br>") + "<extra></extra>",
      });
    }
  }
  const layout = layoutOf(width, 84 + 36 * Math.max(rows.length, 2), view.x, {title: ""});
  const most = width < 520 ? 13 : 26;
  Object.assign(layout, {barmode: "overlay", bargap: 0.3});
  Object.assign(layout.yaxis, {
    type: "category", autorange: "reversed", nticks: undefined,
    tickvals: rows.map(row => escaped(row.label)), ticktext: rows.map(row => escaped(short(row.label, most))),
  });
  return {data, layout};
}

function matrix(view, width) {
  const kept = view.labels.map((label, i) => i).filter(i => !hidden.has(view.labels[i]));
  const most = width < 520 ? 12 : 22, numbers = kept.map((_, i) => i);
  const text = kept.map(i => escaped(short(view.names[i], most)));
  const layout = layoutOf(width, Math.min(640, 150 + Math.max(220, 22 * kept.length)), {title: ""}, {title: ""});
  for (const axis of [layout.xaxis, layout.yaxis]) Object.assign(axis, {tickvals: numbers, ticktext: text, showgrid: false, nticks: undefined});
  Object.assign(layout.xaxis, {tickangle: -45});
  layout.yaxis.autorange = "reversed";
  const names = kept.map(i => escaped(view.names[i]));
  // Up to the largest value of all runs: factors of unlike runs are near chance, and on a scale up to 1 all dark.
  const most_alike = Math.max(...view.values.flat().filter(value => value !== null));
  return {layout, data: [{
    type: "heatmap", z: kept.map(i => kept.map(j => view.values[i][j])), x: numbers, y: numbers, zmin: 0, zmax: most_alike, colorscale: "Cividis",
    customdata: kept.map((_, i) => kept.map((_, j) => [names[i], names[j]])), hoverongaps: false, xgap: 1, ygap: 1,
    hovertemplate: "%{customdata[0]} and %{customdata[1]}<br>similarity %{z}<extra></extra>",
    colorbar: {thickness: 10, len: 0.9, outlinewidth: 0, tickfont: {color: ink("--quiet")}},
  }]};
}

// The grid's loss at any place inside it; null next to a gap.
function lossAt(view, a, b) {
  const n = view.axis.length, first = view.axis[0], step = (view.axis[n - 1] - first) / (n - 1);
  const [x, y] = [(a - first) / step, (b - first) / step], [i, j] = [Math.floor(x), Math.floor(y)].map(k => Math.min(Math.max(k, 0), n - 2));
  const [u, v] = [x - i, y - j];
  if (u < -0.01 || v < -0.01 || u > 1.01 || v > 1.01) return null;
  const corners = [view.loss[j][i], view.loss[j][i + 1], view.loss[j + 1][i], view.loss[j + 1][i + 1]];
  if (corners.includes(null)) return null;
  return corners[0] * (1 - u) * (1 - v) + corners[1] * u * (1 - v) + corners[2] * (1 - u) * v + corners[3] * u * v;
}

function contour(view, width) {
  const layout = layoutOf(width, width < 520 ? 320 : 400, {title: "along the first direction"}, {title: "along the second direction"});
  const range = [view.axis[0], view.axis[view.axis.length - 1]];
  Object.assign(layout.xaxis, {range, showgrid: false}); Object.assign(layout.yaxis, {range, showgrid: false});
  const data = [{
    type: "contour", x: view.axis, y: view.axis, z: view.loss, zmin: view.span[0], zmax: view.span[1], colorscale: "Cividis", ncontours: 24,
    contours: {coloring: "fill"}, line: {width: 0.6, color: "rgba(255,255,255,0.55)"}, connectgaps: false,
    colorbar: {thickness: 10, len: 0.9, outlinewidth: 0, tickfont: {color: ink("--quiet")}},
    hovertemplate: "loss %{z}<br>a %{x}, b %{y}<extra></extra>",
  }];
  if (view.path.a.length) data.push({
    x: view.path.a, y: view.path.b, text: view.path.step.map(step => `step ${step}`), mode: "lines+markers",
    line: {color: "#ffffff", width: 2}, marker: {color: view.path.a.map((_, i, all) => i + 1 < all.length ? "#ffffff" : "#cf4257"), size: 8, line: {color: "#20242b", width: 1}},
    hovertemplate: "%{text}<extra></extra>",
  });
  return {data, layout};
}

function surface(view, width) {
  const layout = layoutOf(width, width < 520 ? 320 : 400, {title: ""}, {title: ""});
  const axis = title => ({title: {text: title}, color: ink("--quiet"), gridcolor: ink("--strong-line"), backgroundcolor: "rgba(0,0,0,0)", showspikes: false, nticks: 4});
  delete layout.xaxis; delete layout.yaxis;
  const [low, high] = view.span, cut = low + 1.15 * (high - low);
  layout.margin = {l: 0, r: 0, t: 0, b: 0};
  layout.dragmode = "turntable";
  layout.scene = {
    xaxis: axis("a"), yaxis: axis("b"), zaxis: {...axis("loss"), range: [low - 0.05 * (high - low), cut]},
    aspectmode: "manual", aspectratio: {x: 1, y: 1, z: 0.7}, camera: {eye: width < 520 ? {x: 1.6, y: -1.6, z: 1} : {x: 1.35, y: -1.35, z: 0.85}, center: {x: 0, y: 0, z: -0.12}},
  };
  const data = [{
    // Above the axis a surface would be drawn outside of it.
    type: "surface", x: view.axis, y: view.axis, z: view.loss.map(row => row.map(loss => loss === null ? null : Math.min(loss, cut))),
    cmin: low, cmax: high, colorscale: "Cividis", showscale: false, hovertemplate: "loss %{z}<br>a %{x}, b %{y}<extra></extra>",
  }];
  const path = view.path.a.map((a, i) => [a, view.path.b[i], lossAt(view, a, view.path.b[i])]).filter(([, , z]) => z !== null);
  if (path.length) data.push({
    type: "scatter3d", x: path.map(p => p[0]), y: path.map(p => p[1]), z: path.map(p => p[2] + 0.02 * (high - low)), mode: "lines+markers",
    line: {color: "#cf4257", width: 5}, marker: {color: "#cf4257", size: 3}, hoverinfo: "skip",
  });
  return {data, layout};
}

// The front of the methods shown: those whom no other one that is shown beats, best on x first.
function frontOf(view) {
  const away = number => hidden.has(view.points[number].label);
  return view.fronts[view.x][view.y].filter(([number, beatenBy]) => !away(number) && beatenBy.every(away)).map(([number]) => view.points[number]);
}

// Methods of exactly equal cost a little apart, or their points and bars hide each other: by 1.8 % of the axis, and
// less where the next cost is near.
function sideBySide(costs, log) {
  const at = costs.map(cost => log ? Math.log10(cost) : cost), distinct = [...new Set(at)].sort((a, b) => a - b);
  const axis = distinct[distinct.length - 1] - distinct[0] || (log ? 0.6 : Math.abs(distinct[0]) || 1);
  const moved = at.map((place, i) => {
    const members = at.map((other, j) => [other, j]).filter(([other]) => other === place).map(([, j]) => j), k = distinct.indexOf(place);
    const room = Math.min(axis, ...[k > 0 ? place - distinct[k - 1] : axis, k + 1 < distinct.length ? distinct[k + 1] - place : axis]);
    return place + Math.min(0.018 * axis, 0.5 * room / members.length) * (members.indexOf(i) - (members.length - 1) / 2);
  });
  return log ? moved.map(place => 10 ** place) : moved;
}

const SCALES = {percent: 100, points: 100, bytes: 1 / 2 ** 20}, NAMES = {percent: " (%)", bytes: " (MiB)", loss: " (nats)"};

function pareto(view, width) {
  const [x, y] = [view.x, view.y].map(key => view.columns.find(column => column.key === key));
  const known = point => [x, y].every(axis => point.cells[axis.key][0] !== null && (!axis.log || point.cells[axis.key][0] > 0));
  const points = shown(view.points).filter(known), scale = axis => SCALES[axis.unit] || 1;
  const at = (point, axis) => point.cells[axis.key][0] * scale(axis);
  const bar = (point, axis) => point.cells[axis.key][1] && {array: [point.cells[axis.key][1] * scale(axis)], color: faint(look(point.label).colour, 0.5), thickness: 1.5, width: 3};
  const titled = axis => ({title: axis.title + (NAMES[axis.unit] || ""), log: axis.log});
  const front = frontOf(view), places = sideBySide(points.map(point => at(point, x)), x.log);
  const placed = new Map(points.map((point, i) => [point, places[i]]));
  const data = points.map(point => ({
    x: [placed.get(point)], y: [at(point, y)], error_x: bar(point, x) || {}, error_y: bar(point, y) || {}, mode: "markers", name: escaped(point.label),
    marker: {color: look(point.label).colour, symbol: look(point.label).symbol, size: width < 520 ? 9 : 11},
    hovertemplate: `<b>${escaped(point.label)}</b><br>${escaped(x.title)} ${four(at(point, x))}<br>${escaped(y.title)} ${four(at(point, y))}<extra></extra>`,
  }));
  data.push({x: front.map(point => placed.get(point)), y: front.map(point => at(point, y)), mode: "lines", name: "front", hoverinfo: "skip", line: {color: ink("--strong-line"), width: 1.5, dash: "dash"}});
  const layout = layoutOf(width, width < 520 ? 360 : 460, titled(x), titled(y));
  layout.shapes = [];
  for (const [axis, side] of [[x, layout.xaxis], [y, layout.yaxis]])
    if (side.type === "log") logarithmic(side, points.map(point => at(point, axis)), width < 520);
  const labels = points.map(point => ({name: point.label, x: placed.get(point), y: at(point, y)}));
  return {data, layout, labels, front: front.map(point => point.label), titles: [x.title, y.title]};
}

const KINDS = {lines, intervals, timeline, matrix, contour, surface, pareto};
