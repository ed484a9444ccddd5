// The page of `mlclip report`: look at labels, mark them right or wrong, download the corrections.
//
// All data comes as JSON in the element #data; all text is set with textContent. Nothing is loaded and nothing is sent.
// Letters: N photos, C classes. A cell is photo * C + class.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const N = data.paths.length, C = data.classes.length;
  const SCALE = data.scale, UNKNOWN = -1;
  const CHIPS = 5, MIN_CHIPS = 4, CARD_WIDTH = 236, GAP = 14, ROW_HEIGHT = 372;
  const BINS = 25, MOST_IN_MATRIX = 60;
  const STORE = "mlclip-marks-" + data.key;

  const unpack = (text) => {
    if (!text) return null;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  };
  const scores = unpack(data.scores) || new Int16Array(0);
  const predictions = unpack(data.predictions), truth = unpack(data.truth);
  const thresholds = data.thresholds, modelThresholds = data.model_thresholds;

  const $ = (id) => document.getElementById(id);
  function el(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  // Control characters would break the layout; they are shown as escapes.
  const shown = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/g, (c, at) => {
    const code = c.charCodeAt(0), next = text.charCodeAt(at + 1), before = text.charCodeAt(at - 1);
    if (code >= 0xd800 && code < 0xdc00 && next >= 0xdc00 && next < 0xe000) return c;
    if (code >= 0xdc00 && code < 0xe000 && before >= 0xd800 && before < 0xdc00) return c;
    return "\\u" + code.toString(16).padStart(4, "0");
  });
  const decimal = (value) => (value / SCALE).toFixed(2);

  // ---- Beliefs: how probable a label is, and how probable it is that it is wrong ----

  function stretched(score, threshold) {
    if (score === UNKNOWN) return NaN;
    const t = Math.min(Math.max(threshold, 1), SCALE - 1);
    return score < threshold ? score / t / 2 : 0.5 + (score - t) / (SCALE - t) / 2;
  }
  const belief = (cell) => stretched(scores[cell], thresholds[cell % C]);
  const modelBelief = (cell) => (predictions ? stretched(predictions[cell], modelThresholds[cell % C]) : NaN);
  const labelled = (cell) => scores[cell] !== UNKNOWN && scores[cell] >= thresholds[cell % C];
  const predicted = (cell) => predictions && predictions[cell] !== UNKNOWN && predictions[cell] >= modelThresholds[cell % C];
  function wrong(cell) {
    const own = belief(cell), other = modelBelief(cell), label = Number.isNaN(own) ? 0.5 : own;
    const mean = Number.isNaN(other) ? label : (label + other) / 2;
    return label >= 0.5 ? 1 - mean : mean;
  }
  const doubt = (cell) => (scores[cell] === UNKNOWN ? 1 : 1 - 2 * Math.abs(belief(cell) - 0.5));
  function contradiction(cell) {
    const other = modelBelief(cell);
    if (Number.isNaN(other) || scores[cell] === UNKNOWN || labelled(cell) === predicted(cell)) return 0;
    return Math.abs(belief(cell) - other);
  }

  // ---- Marks: cell -> 1 (the photo shows the class) or 0, with undo and a safety copy ----

  const marks = new Map();
  const history = [];
  for (const [photo, column, value] of data.corrections) marks.set(photo * C + column, value);
  try {
    for (const [cell, value] of JSON.parse(localStorage.getItem(STORE) || "[]")) {
      if (Number.isInteger(cell) && cell >= 0 && cell < N * C && (value === 0 || value === 1)) marks.set(cell, value);
      else if (value === null) marks.delete(cell);
    }
  } catch { /* no storage, or a damaged copy: begin without it */ }

  function save() {
    const removed = data.corrections.map(([photo, column]) => photo * C + column).filter((cell) => !marks.has(cell));
    try {
      localStorage.setItem(STORE, JSON.stringify([...marks, ...removed.map((cell) => [cell, null])]));
    } catch { /* no storage: the download is the only copy */ }
  }
  function set(cell, value) {
    if (value === undefined) marks.delete(cell);
    else marks.set(cell, value);
  }
  function mark(cell, value) {
    history.push([cell, marks.get(cell), focus]);
    set(cell, value);
    changed(cell);
  }
  function undo() {
    const last = history.pop();
    if (!last) return say("Nothing to undo");
    set(last[0], last[1]);
    if (view[last[2]] === Math.floor(last[0] / C)) moveTo(last[2]);
    changed(last[0]);
    say("Undone");
  }
  function changed(cell) {
    save();
    refresh(Math.floor(cell / C));
    showProgress();
  }
  function showProgress() {
    let other = 0;
    for (const [cell, value] of marks) if ((value === 1) !== labelled(cell)) other += 1;
    $("progress").textContent = `${marks.size} marked, ${other} wrong`;
    $("download").disabled = !marks.size;
    const asked = data.review.length, done = data.review.filter(([photo, column]) => marks.has(photo * C + column)).length;
    $("asked").textContent = asked ? `${done} of ${asked} suggested labels answered` : "";
    $("bar").style.width = asked ? `${(100 * done) / asked}%` : "0";
  }

  // ---- The file of corrections. A byte of a file name that is not UTF-8 is a lone surrogate here, as in Python ----

  function bytesOf(text) {
    const parts = [], encoder = new TextEncoder();
    for (const character of text) {
      const code = character.codePointAt(0);
      if (code >= 0xdc80 && code <= 0xdcff) parts.push(code - 0xdc00);
      else parts.push(...encoder.encode(character));
    }
    return parts;
  }
  const quoted = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  function corrections() {
    const cells = [...marks.keys()].sort((a, b) => a - b);
    const lines = cells.map((cell) => [quoted(data.paths[Math.floor(cell / C)]), quoted(data.classes[cell % C]), marks.get(cell)].join(","));
    return ["path,class,value", ...lines].join("\n") + "\n";
  }
  function download() {
    if (!marks.size) return say("Nothing is marked yet");
    const address = URL.createObjectURL(new Blob([Uint8Array.from(bytesOf(corrections()))], { type: "text/csv" }));
    const link = el("a");
    link.href = address;
    link.download = "corrections.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    say(`corrections.csv: ${marks.size} labels. Next: mlclip train --corrections corrections.csv`);
  }

  // ---- Filter and sort ----

  const asked = new Map();
  for (const [photo, column] of data.review) if (!asked.has(photo)) asked.set(photo, column);
  let view = [], focus = 0;

  const best = (photo, value, columns) => {
    let most = -1;
    for (const c of columns) most = Math.max(most, value(photo * C + c));
    return most;
  };
  const everyClass = [...Array(C).keys()];

  function question(photo) {
    const chosen = $("class").value;
    if (chosen !== "") return Number(chosen);
    const suggested = asked.get(photo);
    if (suggested !== undefined && !marks.has(photo * C + suggested)) return suggested;
    let place = 0, most = -2;
    for (let c = 0; c < C; c += 1) {
      const value = marks.has(photo * C + c) ? -1 : wrong(photo * C + c);
      if (value > most) [place, most] = [c, value];
    }
    return place;
  }

  function filtered() {
    const chosen = $("class").value, columns = chosen === "" ? everyClass : [Number(chosen)];
    const state = $("state").value, words = $("find").value.toLowerCase();
    const low = Number($("low").value) * SCALE, high = Number($("high").value) * SCALE, least = Number($("doubt").value);
    const open = state === "any" && low <= 0 && high >= SCALE && least <= 0;
    const fits = (cell) => {
      if (state === "yes" && !labelled(cell)) return false;
      if (state === "no" && labelled(cell)) return false;
      if (state === "marked" && !marks.has(cell)) return false;
      if (state === "unmarked" && marks.has(cell)) return false;
      if (state === "contradicted" && !contradiction(cell)) return false;
      const score = scores[cell];
      if (score === UNKNOWN) return low <= 0 && least <= 0;
      return score >= low && score <= high && doubt(cell) >= least;
    };
    const found = [];
    for (let photo = 0; photo < N; photo += 1) {
      if (words && !data.paths[photo].toLowerCase().includes(words)) continue;
      if (open || columns.some((c) => fits(photo * C + c))) found.push(photo);
    }
    return [found, columns];
  }

  function update() {
    const [found, columns] = filtered();
    const sort = $("sort").value;
    const by = (value) => {
      const keys = new Map(found.map((photo) => [photo, value(photo)]));
      return [...found].sort((a, b) => keys.get(b) - keys.get(a) || a - b);
    };
    if (sort === "review") {
      const place = new Map([...asked.keys()].map((photo, at) => [photo, at]));
      const one = columns.length === 1;
      view = by((photo) => (place.has(photo) && !one ? 2 + N - place.get(photo) : best(photo, wrong, columns)));
    } else if (sort === "doubt") view = by((photo) => best(photo, doubt, columns));
    else if (sort === "contradicted") view = by((photo) => best(photo, contradiction, columns));
    else if (sort === "high") view = by((photo) => best(photo, (cell) => scores[cell], columns));
    else if (sort === "low") view = by((photo) => -best(photo, (cell) => scores[cell], columns));
    else if (sort === "duplicates") view = found.filter((photo) => data.groups[photo] >= 0).sort((a, b) => data.groups[a] - data.groups[b] || a - b);
    else view = found;
    focus = 0;
    cards.clear();
    chipOrder.clear();
    $("window").replaceChildren();
    $("count").textContent = view.length === N ? `${N.toLocaleString("en")} photos` : `${view.length.toLocaleString("en")} of ${N.toLocaleString("en")} photos`;
    $("empty").hidden = view.length > 0;
    draw();
  }

  // ---- The gallery: only the visible cards are in the document ----

  const cards = new Map(); // photo -> element
  let columnCount = 1;

  function draw() {
    if ($("photos").hidden) return;
    const gallery = $("gallery"), width = gallery.clientWidth || 1;
    columnCount = Math.max(1, Math.floor((width + GAP) / (CARD_WIDTH + GAP)));
    const rows = Math.ceil(view.length / columnCount);
    gallery.style.height = `${rows * ROW_HEIGHT}px`;
    const above = window.scrollY - gallery.offsetTop;
    const first = Math.max(0, Math.min(rows - 1, Math.floor(above / ROW_HEIGHT) - 1));
    const last = Math.min(rows, Math.ceil((above + window.innerHeight) / ROW_HEIGHT) + 1);
    const places = view.slice(first * columnCount, Math.max(last, first + 1) * columnCount);
    const wanted = new Set(places);
    for (const [photo, card] of cards) if (!wanted.has(photo)) { card.remove(); cards.delete(photo); }
    const space = $("window");
    space.style.transform = `translateY(${first * ROW_HEIGHT}px)`;
    space.style.gridTemplateColumns = `repeat(${columnCount}, minmax(0, 1fr))`;
    places.forEach((photo, at) => {
      if (!cards.has(photo)) cards.set(photo, cardOf(photo));
      const card = cards.get(photo);
      if (space.children[at] !== card) space.insertBefore(card, space.children[at] || null);
      card.classList.toggle("focus", view[focus] === photo);
    });
  }

  const chipOrder = new Map(); // photo -> its classes, which keep their places while labels are marked

  function chipsOf(photo) {
    if (!chipOrder.has(photo)) chipOrder.set(photo, orderedClasses(photo));
    return chipOrder.get(photo);
  }
  function orderedClasses(photo) {
    const base = photo * C, asks = question(photo), rest = everyClass.filter((c) => c !== asks);
    const matters = (c) => labelled(base + c) || predicted(base + c) || marks.has(base + c);
    rest.sort((a, b) => Number(matters(b)) - Number(matters(a)) || scores[base + b] - scores[base + a] || a - b);
    const count = Math.max(rest.filter(matters).length, Math.min(MIN_CHIPS, rest.length));
    return { columns: [asks, ...rest.slice(0, Math.min(count, CHIPS - 1))].filter((c) => c < C), more: Math.max(0, count - CHIPS + 1) };
  }

  function cardOf(photo) {
    const card = el("article", "photo"), picture = el("div", "picture");
    if (data.thumbnails[photo]) {
      const image = el("img");
      image.src = data.thumbnails[photo];
      image.alt = "";
      picture.append(image);
    } else picture.append(el("span", "none", "no photo"));
    const name = el("div", "file", shown(data.paths[photo]));
    name.title = shown(data.paths[photo]);
    card.append(picture, name, el("div", "chips"));
    card.addEventListener("mousedown", () => { moveTo(view.indexOf(photo), false); });
    fill(card, photo);
    return card;
  }

  function fill(card, photo) {
    const { columns, more } = chipsOf(photo), list = card.querySelector(".chips");
    list.replaceChildren(...columns.map((c, at) => chip(photo, c, at)));
    if (more) list.lastChild.title = `${more} more classes`;
    if (truth) {
      const known = everyClass.filter((c) => truth[photo * C + c] === SCALE).map((c) => shown(data.classes[c]));
      card.querySelector(".file").textContent = `${shown(data.paths[photo])} · truth: ${known.join(", ") || "none"}`;
    }
  }

  function chip(photo, column, at) {
    const cell = photo * C + column, value = marks.get(cell), name = shown(data.classes[column]);
    const row = el("div", "chip");
    row.classList.toggle("on", labelled(cell));
    row.classList.toggle("asks", at === 0);
    if (value !== undefined) row.classList.add(value === 1 ? "shows" : "lacks");
    const score = scores[cell] === UNKNOWN ? "–" : decimal(scores[cell]);
    const track = el("span", "track"), bar = el("i");
    bar.style.width = scores[cell] === UNKNOWN ? "0" : `${(100 * scores[cell]) / SCALE}%`;
    track.append(bar);
    if (predictions && predictions[cell] !== UNKNOWN) {
      const tick = el("b", "tick");
      tick.style.left = `${(100 * predictions[cell]) / SCALE}%`;
      track.append(tick);
      track.title = `label ${score}, model ${decimal(predictions[cell])}`;
    }
    const label = el("span", "name", name);
    label.title = name;
    const button = (sign, answer, words) => {
      const node = el("button", answer ? "yes" : "no", sign);
      node.type = "button";
      node.tabIndex = -1;
      node.title = node.ariaLabel = `${name}: ${words}`;
      node.ariaPressed = String(value === answer);
      node.addEventListener("click", () => mark(cell, marks.get(cell) === answer ? undefined : answer));
      return node;
    };
    row.append(el("kbd", "", String(at + 1)), label, track, el("span", "score", score),
      button("✓", 1, "the photo shows it"), button("✗", 0, "the photo does not show it"));
    return row;
  }

  function refresh(photo) {
    const card = cards.get(photo);
    if (card) fill(card, photo);
  }

  // ---- Moving and answering ----

  function moveTo(place, scroll = true) {
    if (!view.length) return;
    const before = view[focus];
    focus = Math.min(Math.max(place, 0), view.length - 1);
    if (before !== view[focus]) cards.get(before)?.classList.remove("focus");
    if (scroll) {
      const top = $("gallery").offsetTop + Math.floor(focus / columnCount) * ROW_HEIGHT, head = $("head").offsetHeight + 8;
      if (top - head < window.scrollY) window.scrollTo(0, top - head);
      else if (top + ROW_HEIGHT > window.scrollY + window.innerHeight) window.scrollTo(0, top + ROW_HEIGHT - window.innerHeight);
    }
    draw();
  }
  function answer(value) {
    if (!view.length) return;
    const photo = view[focus], column = chipsOf(photo).columns[0];
    mark(photo * C + column, value);
    say(`${shown(data.classes[column])}: ${value ? "yes" : "no"}`);
    moveTo(focus + 1);
  }
  function digit(number) {
    if (!view.length) return;
    const photo = view[focus], column = chipsOf(photo).columns[number - 1];
    if (column === undefined) return;
    const cell = photo * C + column, now = marks.get(cell), first = labelled(cell) ? 0 : 1; // the first press contradicts the label
    mark(cell, now === undefined ? first : now === first ? 1 - first : undefined);
  }
  function addClass(name) {
    const column = data.classes.findIndex((other) => shown(other) === name);
    if (column < 0) return say(`There is no class ${name}`);
    const { columns } = chipsOf(view[focus]);
    if (!columns.includes(column)) columns.splice(Math.min(columns.length, CHIPS - 1), 1, column);
    mark(view[focus] * C + column, 1);
    say(`${name}: yes`);
    return true;
  }

  let silence = 0;
  function say(text) {
    $("message").textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { $("message").textContent = ""; }, 4000);
  }

  const KEYS = {
    j: () => moveTo(focus + 1), k: () => moveTo(focus - 1),
    ArrowRight: () => moveTo(focus + 1), ArrowLeft: () => moveTo(focus - 1),
    ArrowDown: () => moveTo(focus + columnCount), ArrowUp: () => moveTo(focus - columnCount),
    Home: () => moveTo(0), End: () => moveTo(view.length - 1),
    y: () => answer(1), n: () => answer(0), u: undo, d: download,
    f: () => { window.scrollTo(0, 0); $("find").focus(); },
    a: () => { if (view.length) { $("add").showModal(); $("added").value = ""; $("added").focus(); } },
    "?": () => $("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "find")) event.target.blur();
      return;
    }
    if (event.key === "?") { event.preventDefault(); KEYS["?"](); return; }
    if ($("photos").hidden) return;
    const act = /^[1-9]$/.test(event.key) ? () => digit(Number(event.key)) : Object.hasOwn(KEYS, event.key) && KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // ---- Classes: counts, histogram with the threshold, precision and recall, co-occurrence ----

  const NS = "http://www.w3.org/2000/svg";
  function shape(tag, attributes, text) {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const WIDTH = 360, HEIGHT = 150, LEFT = 34, TOP = 18;
  const across = (share) => LEFT + share * (WIDTH - LEFT - 10), up = (share) => TOP + HEIGHT * (1 - share);
  function chart(title, words) {
    const box = el("div", "chart"), svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${TOP + HEIGHT + 24}`, role: "img", "aria-label": title });
    box.append(el("div", "", title), el("small", "", words), svg);
    for (const mark of [0, 0.5, 1]) svg.append(shape("text", { x: across(mark), y: TOP + HEIGHT + 16, "text-anchor": "middle" }, String(mark)));
    svg.append(shape("line", { x1: LEFT, x2: WIDTH - 10, y1: TOP + HEIGHT, y2: TOP + HEIGHT }));
    return [box, svg];
  }
  function histogramOf(column) {
    const counts = new Array(BINS).fill(0), threshold = thresholds[column] / SCALE;
    for (let photo = 0; photo < N; photo += 1) {
      const score = scores[photo * C + column];
      if (score !== UNKNOWN) counts[Math.min(BINS - 1, Math.floor((score / SCALE) * BINS))] += 1;
    }
    const [box, svg] = chart("Scores", "photos per score, on a square-root scale; dashed: the threshold"), most = Math.max(1, ...counts);
    counts.forEach((count, bin) => {
      const share = Math.sqrt(count / most), bar = shape("rect", { x: across(bin / BINS), y: up(share), width: (WIDTH - LEFT - 10) / BINS - 1, height: HEIGHT * share });
      if ((bin + 0.5) / BINS < threshold) bar.setAttribute("class", "faint");
      bar.append(shape("title", {}, `${(bin / BINS).toFixed(2)} to ${((bin + 1) / BINS).toFixed(2)}: ${count}`));
      svg.append(bar);
    });
    svg.append(shape("line", { class: "even", x1: across(threshold), x2: across(threshold), y1: TOP - 4, y2: TOP + HEIGHT }));
    const end = threshold > 0.85;
    svg.append(shape("text", { x: across(threshold) + (end ? -4 : 4), y: TOP + 4, "text-anchor": end ? "end" : "start" }, threshold.toFixed(2)));
    svg.append(shape("text", { x: LEFT - 4, y: TOP + 6, "text-anchor": "end" }, String(most)));
    return box;
  }
  function ranking(column) {
    const known = [];
    for (let photo = 0; photo < N; photo += 1) {
      const cell = photo * C + column;
      if (truth[cell] !== UNKNOWN && scores[cell] !== UNKNOWN) known.push([scores[cell], truth[cell] === SCALE ? 1 : 0]);
    }
    return known.sort((a, b) => b[0] - a[0]);
  }
  function curveOf(column) {
    const known = ranking(column), total = known.reduce((sum, pair) => sum + pair[1], 0);
    if (!total) return null;
    const points = [];
    let hits = 0, at = null, area = 0, recall = 0;
    known.forEach(([score, hit], place) => {
      hits += hit;
      if (place + 1 < known.length && known[place + 1][0] === score) return; // equal scores are one step
      const precision = hits / (place + 1);
      area += precision * (hits / total - recall);
      recall = hits / total;
      points.push([recall, precision]);
      if (score >= thresholds[column]) at = [recall, precision];
    });
    const words = `average precision ${(100 * area).toFixed(1)} %, ${total} true photos; report only. Dot: the threshold`;
    const [box, svg] = chart("Precision over recall", words);
    svg.append(shape("polyline", { points: points.map(([r, p]) => `${across(r).toFixed(1)},${up(p).toFixed(1)}`).join(" ") }));
    if (at) svg.append(shape("circle", { cx: across(at[0]), cy: up(at[1]), r: 4 }));
    for (const mark of [0.5, 1]) svg.append(shape("text", { x: LEFT - 5, y: up(mark) + 4, "text-anchor": "end" }, String(mark)));
    return box;
  }

  const both = () => {
    const table = new Int32Array(C * C);
    for (let photo = 0; photo < N; photo += 1) {
      const has = everyClass.filter((c) => labelled(photo * C + c));
      for (const a of has) for (const b of has) table[a * C + b] += 1;
    }
    return table;
  };
  let together = null;
  function counts(column) {
    const found = { yes: 0, doubtful: 0, right: 0, wrong: 0 };
    for (let photo = 0; photo < N; photo += 1) {
      const cell = photo * C + column, value = marks.get(cell);
      if (labelled(cell)) found.yes += 1;
      if (scores[cell] !== UNKNOWN && doubt(cell) > 0.5) found.doubtful += 1;
      if (value !== undefined) found[(value === 1) === labelled(cell) ? "right" : "wrong"] += 1;
    }
    return found;
  }
  function showClasses() {
    together = together || both();
    const head = el("tr"), table = el("table", "classes");
    ["class", "photos", "doubtful", "right", "wrong"].forEach((name, at) => head.append(el("th", at ? "number" : "", name)));
    table.append(head);
    everyClass.forEach((c) => {
      const found = counts(c), row = el("tr"), cell = el("td"), open = el("button", "link", shown(data.classes[c]));
      open.type = "button";
      open.addEventListener("click", () => showClass(c));
      cell.append(open);
      row.append(cell, ...["yes", "doubtful", "right", "wrong"].map((key) => el("td", "number", String(found[key]))));
      table.append(row);
    });
    $("classtable").replaceChildren(table);
    if (C) showClass(chosenClass);
    $("matrix").replaceChildren(...matrix());
  }
  let chosenClass = 0;
  function showClass(column) {
    chosenClass = column;
    const name = shown(data.classes[column]), open = el("button", "", `Show photos of ${name}`), box = el("div", "charts");
    open.type = "button";
    open.addEventListener("click", () => { $("class").value = String(column); $("state").value = "yes"; tab("photos"); update(); });
    box.append(histogramOf(column));
    const curve = truth && curveOf(column);
    if (curve) box.append(curve);
    const others = everyClass.filter((c) => c !== column && together[column * C + c]).sort((a, b) => together[column * C + b] - together[column * C + a]).slice(0, 6);
    const share = (c) => `${shown(data.classes[c])} ${Math.round((100 * together[column * C + c]) / together[column * C + column])} %`;
    const words = others.length ? `Together with: ${others.map(share).join(", ")}` : "Never together with another class.";
    $("classdetail").replaceChildren(el("h2", "", name), box, el("p", "", words), open);
  }
  function matrix() {
    if (C > MOST_IN_MATRIX) return [el("p", "", `The table of co-occurrence is left out: ${C} classes.`)];
    const table = el("table", "grid"), head = el("tr");
    head.append(el("th"));
    everyClass.forEach((c) => { const th = el("th"); th.append(el("span", "", shown(data.classes[c]))); head.append(th); });
    table.append(head);
    everyClass.forEach((a) => {
      const row = el("tr");
      row.append(el("th", "", shown(data.classes[a])));
      everyClass.forEach((b) => {
        const all = together[a * C + a], share = all ? together[a * C + b] / all : 0, cell = el("td", "", a === b ? String(all) : share >= 0.005 ? String(Math.round(100 * share)) : "");
        if (a !== b && share) cell.style.setProperty("--share", share.toFixed(3));
        else cell.classList.add(a === b ? "own" : "zero");
        cell.title = `${shown(data.classes[a])} with ${shown(data.classes[b])}: ${together[a * C + b]} photos`;
        row.append(cell);
      });
      table.append(row);
    });
    const box = el("div", "wide");
    box.append(table);
    return [el("h2", "", "Classes in the same photos"), el("p", "", "Of 100 photos with the class of the row, how many have the class of the column. Diagonal: number of photos."), box];
  }

  // ---- Set-up ----

  function tab(name) {
    for (const other of ["photos", "classes", "report"]) {
      $(other).hidden = other !== name;
      $(`tab-${other}`).ariaSelected = String(other === name);
    }
    if (name === "classes") showClasses();
    if (name === "photos") draw();
  }
  for (const name of ["photos", "classes", "report"]) $(`tab-${name}`).addEventListener("click", () => { tab(name); window.scrollTo(0, 0); });

  const select = $("class");
  select.append(new Option("every class", ""));
  everyClass.forEach((c) => {
    select.append(new Option(shown(data.classes[c]), String(c)));
    $("names").append(new Option(shown(data.classes[c])));
  });
  if (!predictions) for (const node of document.querySelectorAll("[data-needs=predictions]")) node.remove();
  if (!data.groups.some((group) => group >= 0)) for (const node of document.querySelectorAll("[data-needs=duplicates]")) node.remove();
  if (data.sort && [...$("sort").options].some((option) => option.value === data.sort)) $("sort").value = data.sort;
  let later = 0;
  const soon = () => { clearTimeout(later); later = setTimeout(update, 120); };
  for (const name of ["class", "state", "sort"]) $(name).addEventListener("change", (event) => { update(); event.target.blur(); });
  for (const name of ["low", "high", "doubt", "find"]) $(name).addEventListener("input", soon);
  $("download").addEventListener("click", download);
  $("undo").addEventListener("click", undo);
  $("open-help").addEventListener("click", () => $("help").showModal());
  $("add-form").addEventListener("submit", (event) => { if (!addClass($("added").value)) event.preventDefault(); });
  for (const node of document.querySelectorAll("dialog .close")) node.addEventListener("click", () => node.closest("dialog").close());

  const root = document.documentElement;
  try { const kept = localStorage.getItem("mlclip-theme"); if (kept === "light" || kept === "dark") root.dataset.theme = kept; } catch { /* no storage */ }
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("mlclip-theme", root.dataset.theme); } catch { /* no storage */ }
  });

  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
  window.addEventListener("scroll", redraw, { passive: true });
  window.addEventListener("resize", redraw);
  showProgress();
  update();
  root.dataset.ready = "yes";
})();
