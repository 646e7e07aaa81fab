// Where the names of points go: how wide a label is, is known only where it is drawn.
"use strict";
const LINE = 15, AIR = 3;
const pen = document.createElement("canvas").getContext("2d");
const overlap = (a, b) =>
  Math.max(0, Math.min(a.r, b.r) - Math.max(a.l, b.l)) * Math.max(0, Math.min(a.b, b.b) - Math.max(a.t, b.t));

// Every place that a label may take: the four sides, the corners, then rings further out with a line.
function places(w, point) {
  const near = point + w / 2 + AIR + 1, found = [];
  for (const [x, y] of [[near, 0], [-near, 0], [0, -point - 9], [0, point + 9]]) found.push([x, y, 0]);
  for (let ring = 1; ring <= 14; ring++)
    for (let turn = 0; turn < 24; turn++) {
      const a = turn * Math.PI / 12, d = point + 6 + ring * 11;
      found.push([Math.cos(a) * (d + w / 2), Math.sin(a) * d, ring]);
    }
  return found;
}

function placeLabels(div, labels, small) {
  const {xaxis, yaxis} = div._fullLayout, size = small ? 11 : 12.5, half = small ? 6 : 8;
  pen.font = `${size}px system-ui, -apple-system, "Segoe UI", sans-serif`;
  const longest = small ? 14 : 24, cut = name => name.length > longest ? name.slice(0, longest - 1) + "…" : name;
  const items = labels.map(({x, y, name}) => ({x, y, name: cut(name)})).map((label, i) => ({
    ...label, x0: xaxis.d2p(label.x), y0: yaxis.d2p(label.y), w: pen.measureText(label.name).width + 4, box: null,
    bars: [div.data[i].error_x, div.data[i].error_y].map((bar, side) => {
      const reach = bar && bar.array ? bar.array[0] : 0, [axis, at] = side ? [yaxis, label.y] : [xaxis, label.x];
      const low = axis.d2p(at - reach), high = axis.d2p(at + reach), mid = side ? xaxis.d2p(label.x) : yaxis.d2p(label.y);
      const [from, to] = [Math.min(low, high), Math.max(low, high)];
      return side ? {l: mid - 2, r: mid + 2, t: from, b: to} : {l: from, r: to, t: mid - 2, b: mid + 2};
    }),
  })).filter(p => p.x0 >= 0 && p.x0 <= xaxis._length && p.y0 >= 0 && p.y0 <= yaxis._length);
  const lines = div.layout.shapes.map(shape => {            // the floor's
    const y = yaxis.d2p(shape.y0);
    return {l: 0, r: xaxis._length, t: y - 2, b: y + 2};
  });
  const points = items.map(p => ({l: p.x0 - half, r: p.x0 + half, t: p.y0 - half, b: p.y0 + half}));

  const cost = (item, [dx, dy, ring]) => {
    const x = item.x0 + dx, y = item.y0 + dy;
    const box = {l: x - item.w / 2 - AIR, r: x + item.w / 2 + AIR, t: y - LINE / 2 - 1, b: y + LINE / 2 + 1};
    if (box.l < 0 || box.t < 0 || box.r > xaxis._length || box.b > yaxis._length) return null;
    let sum = ring * 6 + (ring ? 8 : 0);
    for (const point of points) sum += 20 * overlap(box, point);
    for (const line of lines) sum += 1.5 * overlap(box, line);
    for (const other of items) {
      if (other !== item && other.box) sum += 40 * overlap(box, other.box);
      for (const bar of other.bars) sum += 1.5 * overlap(box, bar);
    }
    if (ring) for (let step = 1; step < 8; step++) {       // what the line to the label runs through
      const px = item.x0 + dx * step / 8, py = item.y0 + dy * step / 8;
      for (const other of items)
        if (other !== item && other.box && px > other.box.l && px < other.box.r && py > other.box.t && py < other.box.b)
          sum += 120;
      for (const point of points)
        if (px > point.l && px < point.r && py > point.t && py < point.b && step > 3) sum += 40;
    }
    return {sum, box, dx, dy, ring};
  };
  for (let round = 0; round < 4; round++)                  // later rounds know where the others went
    for (const item of items) {
      const best = places(item.w, half).map(p => cost(item, p)).filter(Boolean).sort((a, b) => a.sum - b.sum)[0];
      if (best) Object.assign(item, best);
    }
  return items.filter(item => item.box).map(item => ({
    x: xaxis.type === "log" ? Math.log10(item.x) : item.x, y: item.y, text: escaped(item.name),
    xanchor: item.ring && Math.abs(item.dx) > item.w / 2 ? (item.dx > 0 ? "left" : "right") : "center",
    ax: item.ring && Math.abs(item.dx) > item.w / 2 ? item.dx - Math.sign(item.dx) * item.w / 2 : item.dx, ay: item.dy,
    font: {size}, borderpad: 1, showarrow: true, arrowhead: 0, arrowwidth: item.ring ? 1 : 0.1, standoff: 5,
    arrowcolor: item.ring ? "rgba(128,134,145,0.75)" : "rgba(0,0,0,0)",
  }));
}
