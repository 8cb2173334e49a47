"use strict";
// Draws the page of a night from the JSON columns in #data. Text from packets becomes text nodes, never HTML.
const night = JSON.parse(document.getElementById("data").textContent), rows = night.rows, AT_ONCE = 60;
const at = id => document.getElementById(id), every = rows.id.map((_, row) => row);
const SVG = new Set(["svg", "path", "line", "rect", "text", "title"]);
const DATE = jd => jd === null ? "" : new Date((jd - 2440587.5) * 864e5).toISOString().slice(0, 16).replace("T", " ");

function make(tag, attributes, ...children) {
  const element = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function named(name) {
  const number = night.classes.indexOf(name);
  return number < 0 ? document.createTextNode(name) : make("span", {class: `class c${number}`}, make("i", {}, night.looks[number][0]), "\u00a0" + name);
}

function addresses(id, ra, dec) {
  return night.sites.filter(([, , pattern]) => pattern ? new RegExp(`^(?:${pattern})$`).test(id) : ra != null && dec != null).map(([name, url]) =>
    make("a", {href: url.replaceAll("{id}", encodeURIComponent(id)).replaceAll("{ra}", ra).replaceAll("{dec}", dec), rel: "noreferrer", target: "_blank"}, name));
}

// A column: its name, the value of a row (for sorting), and the child nodes of its cell.
const column = (name, value, cell = row => [value(row) ?? ""]) => ({name, value, cell});
const number = (name, values, digits) => column(name, row => values[row], row => [values[row] === null ? "" : values[row].toFixed(digits)]);
const text = (name, values, cell) => column(name, row => values[row] || null, row => values[row] ? cell(values[row]) : []);
const places = new Map(rows.id.map((id, row) => [id, row]));
const q = (row, of) => rows.q[of][row] / night.unit;
const COLUMNS = [
  ...night.classes.map((name, of) => column(`q ${name}`, row => rows.q[of][row], row => [q(row, of).toFixed(3)])),
  text("predicted", rows.predicted, name => [named(name)]),
  rows.label && text("label", rows.label, name => [named(name)]),
  rows.set && text("set", rows.set, names => [names.replaceAll("{{ joined }}", " ")]),
  rows.magpsf && number("magnitude", rows.magpsf, 2), rows.snr && number("S/N", rows.snr, 1),
  rows.fid && text("filter", rows.fid.map(fid => night.filters[fid] ?? fid), name => [name]),
  rows.jd && column("date (UTC)", row => rows.jd[row], row => [DATE(rows.jd[row])]),
  rows.ndethist && number("detections", rows.ndethist, 0), rows.entropy && number("entropy", rows.entropy, 2),
  rows.ra && number("RA (deg)", rows.ra, 5), rows.dec && number("Dec (deg)", rows.dec, 5),
].filter(Boolean);
const object = ids => column("object", row => ids[row]);
const elsewhere = (ids, at) => column("links", () => null, row => addresses(ids[row], rows.ra?.[at(row)], rows.dec?.[at(row)]));
const TABLE = [object(rows.id), ...COLUMNS, elsewhere(rows.id, row => row)];
const seen = night.objects, odds = Object.keys(seen).find(name => name.startsWith("log_odds_"));
const OBJECTS = [
  object(seen.id),
  number("alerts", seen.alerts, 0), number(`mean log-odds of ${odds.slice(9)}`, seen[odds], 2),
  ...["first", "last"].flatMap(end => [text(`${end} call`, seen[`${end}_call`], name => [named(name)]),
    seen[`${end}_jd`] && column(`${end} date (UTC)`, row => seen[`${end}_jd`][row], row => [DATE(seen[`${end}_jd`][row])])]),
  elsewhere(seen.id, row => places.get(seen.id[row])),
].filter(Boolean);
const columnsOf = view => view === "objects" ? OBJECTS : TABLE;
const sorts = {};  // by view: [name of the column, 1 for descending or -1]

function sorted(numbers, columns, [name, way]) {
  const {value} = columns.find(one => one.name === name) ?? columns[0];
  const order = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? 1 : -1) * way;
  return [...numbers].sort((a, b) => order(value(a), value(b)));
}

function card(row) {
  const id = rows.id[row], stamp = night.stamps[row], element = make("article", {class: "alert", "data-id": id});
  if (stamp) {
    const image = make("img", {alt: `${night.channels.join(", ")} of ${id}`, decoding: "async", src: `data:image/webp;base64,${stamp}`});
    const frame = make("div", {class: "stamp"}, image);
    image.onload = () => {
      const {naturalWidth: width, naturalHeight: side} = image, y = Math.floor(side / 2) + .5;  // of the central pixel
      const centres = [...night.channels.keys()].map(tile => tile * (side + night.gap) + y);
      const d = centres.map(x => `M${x + side * .09} ${y}h${side * .17}M${x} ${y - side * .09}v${-side * .17}`).join("");
      frame.append(make("svg", {viewBox: `0 0 ${width} ${side}`}, make("path", {d})));
    };
    element.append(frame, make("div", {class: "heads"}, ...night.channels.map(name => make("span", {}, name))));
  }
  const facts = [rows.magpsf?.[row] != null && `${rows.magpsf[row].toFixed(2)} mag`, rows.snr?.[row] != null && `S/N ${rows.snr[row].toFixed(1)}`,
    rows.fid?.[row] != null && (night.filters[rows.fid[row]] ?? rows.fid[row]), rows.jd?.[row] != null && `${DATE(rows.jd[row])} UTC`,
    rows.ndethist?.[row] != null && `${rows.ndethist[row]} detection${rows.ndethist[row] === 1 ? "" : "s"}`, rows.trained?.[row] && "used in training"].filter(Boolean);
  const of = +at("of").value, label = rows.label?.[row];
  element.append(make("div", {class: "facts"},
    make("div", {}, make("b", {title: rows.candid ? `candid ${rows.candid[row]}` : null}, id), make("b", {}, `${night.classes[of]} ${q(row, of).toFixed(3)}`)),
    make("div", {}, make("span", {}, "predicted ", named(rows.predicted[row])), label ? make("span", {class: label === rows.predicted[row] ? null : "wrong"}, "label ", named(label)) : "",
      rows.set ? make("span", {}, `set {${rows.set[row].replaceAll("{{ joined }}", ", ")}}`) : ""),
    make("div", {}, facts.join(" \u00b7 ")), make("div", {class: "links"}, ...addresses(id, rows.ra?.[row], rows.dec?.[row]))));
  return element;
}

function table(columns, view) {
  const heads = columns.map(({name}) => {
    const button = make("button", {type: "button"}, name), head = make("th", {scope: "col"}, button);
    if (sorts[view][0] === name) head.ariaSort = sorts[view][1] > 0 ? "descending" : "ascending";
    button.onclick = () => {
      sorts[view] = [name, sorts[view][0] === name ? -sorts[view][1] : 1];
      draw();
      [...at("shown").querySelectorAll("th button")].find(other => other.textContent === name)?.focus();
    };
    return head;
  });
  const body = make("tbody", {});
  return [make("div", {class: "scroll"}, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)), body];
}

// Show rows in an element, a page at a time.
function list(place, numbers, view) {
  const columns = columnsOf(view), [outer, inner] = view === "gallery" ? Array(2).fill(make("div", {class: "gallery"})) : table(columns, view);
  const one = view === "gallery" ? card : row => make("tr", {}, ...columns.map(({cell}) => make("td", {}, ...cell(row))));
  const more = make("button", {type: "button", class: "more"});
  const add = () => {
    const start = inner.childElementCount;
    inner.append(...numbers.slice(start, start + AT_ONCE).map(one));
    const left = numbers.length - inner.childElementCount;
    more.textContent = `Show ${Math.min(left, AT_ONCE)} more of ${left.toLocaleString("en")}`;
    more.hidden = !left;
  };
  more.onclick = add;
  place.replaceChildren(...numbers.length ? [outer, more] : []);
  add();
}

function passes(row) {
  const value = id => at(id)?.value ?? "", label = rows.label?.[row] ?? "", set = (rows.set?.[row] ?? "").split("{{ joined }}").filter(Boolean);
  const bright = at("from") && rows[at("from").dataset.column][row], words = value("named").trim().toLowerCase(), from = value("from"), to = value("to");
  return (!value("predicted") || rows.predicted[row] === value("predicted"))
    && ({"": () => true, 1: () => set.length === 1, 2: () => set.length > 1}[value("set")] ?? (() => set.includes(value("set").slice(1))))()
    && ({"": () => true, 1: () => label, 0: () => !label, x: () => label && label !== rows.predicted[row]}[value("label")] ?? (() => label === value("label").slice(1)))()
    && (from === "" || (bright !== null && bright >= +from)) && (to === "" || (bright !== null && bright <= +to))
    && (!words || rows.id[row].toLowerCase().includes(words) || (rows.candid?.[row] ?? "").toLowerCase().includes(words))
    && !(at("untrained")?.checked && rows.trained[row]);
}

function histogram() {
  const of = +at("of").value, least = +at("least").value || 0, found = every.filter(passes), name = night.classes[of];
  at("charted").textContent = name;
  const bins = Array(20).fill(0), place = at("histogram"), [left, foot, height] = [34, 135, 122], width = place.clientWidth - left - 12;
  const add = (tag, attributes, ...children) => place.append(make(tag, attributes, ...children));
  found.forEach(row => bins[Math.min(19, Math.floor(q(row, of) * 20))]++);
  const scale = height / Math.log10(1 + Math.max(10, ...bins));
  place.replaceChildren();
  for (let count = 1; count <= Math.max(10, ...bins); count *= 10) {
    const y = foot - scale * Math.log10(1 + count);
    add("line", {x1: left, x2: left + width, y1: y, y2: y});
    add("text", {x: left - 5, y: y + 4, "text-anchor": "end"}, count.toLocaleString("en", {notation: "compact"}));
  }
  bins.forEach((count, bin) => {
    const size = scale * Math.log10(1 + count), words = make("title", {}, `${bin / 20} to ${(bin + 1) / 20}: ${count}`);
    add("rect", {x: left + bin * width / 20 + 1, y: foot - size, width: width / 20 - 2, height: size, class: (bin + 1) / 20 > least ? "on" : null}, words);
  });
  for (const tick of [0, .25, .5, .75, 1]) add("text", {x: left + tick * width, y: foot + 16, "text-anchor": "middle"}, String(tick));
  add("text", {x: left + width / 2, y: foot + 29, "text-anchor": "middle"}, `probability of ${name}`);
}

const RIGHT = Math.PI / 180;
let spots = [], unfolded = [];  // [row, x, y] of each point on the sky map, and the rows drawn as large points

function hammer(ra, dec) {
  const l = (180 - ra) * RIGHT / 2, b = dec * RIGHT, z = Math.sqrt(1 + Math.cos(b) * Math.cos(l));
  return [Math.cos(b) * Math.sin(l) / z, Math.sin(b) / z];  // both in [-1, 1]
}

function sky(above = unfolded) {
  const canvas = at("sky");
  unfolded = above;
  if (!canvas) return;
  const {clientWidth: width, clientHeight: height} = canvas, pen = canvas.getContext("2d"), colour = name => getComputedStyle(document.body).getPropertyValue(name);
  const ratio = devicePixelRatio || 1, project = (ra, dec) => { const [x, y] = hammer(ra, dec); return [width / 2 * (1 + .98 * x), height / 2 * (1 - .98 * y)]; };
  canvas.width = width * ratio; canvas.height = height * ratio;
  pen.scale(ratio, ratio);
  pen.strokeStyle = colour("--line"); pen.fillStyle = colour("--faint"); pen.font = "11px system-ui";
  const curve = points => { pen.beginPath(); points.forEach((point, i) => pen[i ? "lineTo" : "moveTo"](...project(...point))); pen.stroke(); };
  const steps = (from, to) => Array.from({length: 61}, (_, i) => from + (to - from) * i / 60);
  for (let ra = 0; ra <= 360; ra += 60) curve(steps(-90, 90).map(dec => [ra, dec]));
  for (let dec = -60; dec <= 60; dec += 30) curve(steps(0, 360).map(ra => [ra, dec]));
  for (let ra = 60; ra <= 300; ra += 60) { const [x, y] = project(ra, 0); pen.fillText(`${ra}\u00b0`, x + 3, y - 3); }
  for (const dec of [-60, -30, 30, 60]) { const [x, y] = project(180, dec); pen.fillText(`${dec > 0 ? "+" : "\u2212"}${Math.abs(dec)}\u00b0`, x + 3, y - 3); }
  const inside = new Set(above), placed = every.filter(row => rows.ra[row] !== null && rows.dec[row] !== null);
  spots = [...placed.filter(row => !inside.has(row)), ...placed.filter(row => inside.has(row))].map(row => [row, ...project(rows.ra[row], rows.dec[row])]);
  for (const [row, x, y] of spots) {
    pen.globalAlpha = inside.has(row) ? .9 : .35;
    pen.fillStyle = inside.has(row) ? night.looks[night.classes.indexOf(rows.predicted[row])]?.[1] ?? colour("--ink") : colour("--faint");
    pen.beginPath(); pen.arc(x, y, inside.has(row) ? 3.5 : 1.5, 0, 7); pen.fill();
  }
}
function draw() {
  const of = +at("of").value, least = +at("least").value || 0, view = document.querySelector("[name=view]:checked").value, folded = at("folded");
  sorts[view] ??= view === "objects" ? [`mean log-odds of ${odds.slice(9)}`, 1] : [`q ${night.classes[of]}`, 1];
  const way = view === "gallery" ? sorts.gallery = [at("sort").value, at("down").value ? 1 : -1] : sorts[view];
  const found = every.filter(passes), above = found.filter(row => q(row, of) >= least), below = found.filter(row => q(row, of) < least), name = night.classes[of];
  const count = numbers => numbers.length.toLocaleString("en");
  at("night").classList.toggle("bare", !at("cross").checked);
  histogram();
  sky(above);
  const show = (place, numbers) => {
    const ids = view === "objects" && new Set(numbers.map(row => rows.id[row]));
    const those = ids ? [...seen.id.keys()].filter(row => ids.has(seen.id[row])) : numbers;
    list(place, sorted(those, columnsOf(view), way), view);
  };
  at("count").textContent = `${count(above)} of ${count(every)} alerts have a probability of ${name} of ${least} or more${found.length < every.length ? `, of the ${count(found)} that pass the filters` : ""}.`;
  show(at("shown"), above);
  folded.hidden = !below.length;
  folded.querySelector("summary").textContent = `${count(below)} alert${below.length === 1 ? "" : "s"} below ${least}`;
  const fill = () => folded.open ? show(folded.querySelector("div"), below) : folded.querySelector("div").replaceChildren();
  folded.ontoggle = fill;
  fill();
  document.dispatchEvent(new Event("toggle"));  // updates the hints on scrolling tables
}

document.addEventListener("DOMContentLoaded", () => {
  at("sort").append(...TABLE.slice(0, -1).map(({name}) => make("option", {value: name}, name)));
  at("sort").value = `q ${night.target}`;
  at("controls").addEventListener("submit", event => event.preventDefault());
  at("controls").addEventListener("input", event => {
    if (event.target.id === "of") at("sort").value = `q ${night.classes[+at("of").value]}`;
    draw();
  });
  at("sky")?.addEventListener("click", ({offsetX, offsetY}) => {
    const near = spots.map(([row, x, y]) => [row, Math.hypot(x - offsetX, y - offsetY)]).reduce((a, b) => b[1] <= a[1] ? b : a, [null, 10]);
    at("named").value = near[0] === null ? "" : rows.id[near[0]];
    draw();
  });
  const chart = () => { histogram(); sky(); };
  addEventListener("resize", chart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", chart);
  at("tools").open = innerWidth > 700;
  at("tools").addEventListener("toggle", chart);
  draw();
});
