// The page of `mlclip report`: look at labels, mark them right or wrong, download the corrections.
//
// All data comes as JSON in the element #data; all text is set with textContent. Nothing is loaded and nothing is sent.
// Letters: N photos, C classes. A cell is photo * C + class.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const N = data.paths.length, C = data.classes.length;
  const SCALE = data.scale, UNKNOWN = -1;
  const CHIPS = 5, CARD_WIDTH = 236, GAP = 14;
  const BINS = 25, MOST_IN_MATRIX = 60;
  const everyClass = [...Array(C).keys()];
  const photoOf = (cell) => Math.floor(cell / C);

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
  const missed = (cell) => Boolean(truth) && truth[cell] === SCALE && scores[cell] !== UNKNOWN && !labelled(cell);
  const extra = (cell) => Boolean(truth) && truth[cell] !== SCALE && truth[cell] !== UNKNOWN && labelled(cell);

  // ---- Storage: what this browser remembers of this page; without a storage the page works all the same ----

  function recall(name) {
    try { return JSON.parse(localStorage.getItem(`mlclip-${name}`)); } catch { return null; }
  }
  function remember(name, value) {
    try { localStorage.setItem(`mlclip-${name}`, JSON.stringify(value)); } catch { /* no storage: the download is the only copy */ }
  }
  const MARKS = `marks-${data.key}`, VIEW = `view-${data.key}`, THEME = "theme";

  // ---- Marks: cell -> 1 (the photo shows the class) or 0, with undo and a safety copy ----

  const marks = new Map();
  const history = []; // steps: { cells: [[cell, mark before], ...], place in the view }
  const given = data.corrections.map(([photo, column, value]) => [photo * C + column, value]);

  function set(cell, value) {
    if (value === 0 || value === 1) marks.set(cell, value);
    else marks.delete(cell);
  }
  function recallMarks() {
    for (const [cell, value] of given) set(cell, value);
    const kept = recall(MARKS);
    if (!Array.isArray(kept?.cells)) return;
    for (const [cell, value] of kept.cells) if (Number.isInteger(cell) && cell >= 0 && cell < N * C) set(cell, value);
    if (kept.given !== data.given) for (const [cell, value] of given) set(cell, value); // a new file of corrections comes last
  }
  function keepMarks() {
    const removed = given.filter(([cell]) => !marks.has(cell)).map(([cell]) => [cell, null]);
    remember(MARKS, { given: data.given, cells: [...marks, ...removed] });
  }
  function change(cells) {
    for (const [cell, value] of cells) set(cell, value);
    keepMarks();
    new Set(cells.map(([cell]) => photoOf(cell))).forEach(refresh);
    showProgress();
  }
  function markAll(cells) { // one step of undo
    history.push({ cells: cells.map(([cell]) => [cell, marks.get(cell)]), place: focus });
    change(cells);
  }
  const mark = (cell, value) => markAll([[cell, value]]);
  function undo() {
    const last = history.pop();
    if (!last) return say("Nothing to undo");
    if (view[last.place] === photoOf(last.cells[0][0])) moveTo(last.place);
    change(last.cells);
    say("Undone");
  }

  const isComplete = (photo) => C > 0 && everyClass.every((c) => marks.has(photo * C + c));
  function completePhotos() {
    const counts = new Map();
    for (const cell of marks.keys()) counts.set(photoOf(cell), (counts.get(photoOf(cell)) || 0) + 1);
    return [...counts].filter(([, count]) => count === C).map(([photo]) => photo);
  }
  // All labels of these photos are correct: every class without a mark is marked as its label says.
  function complete(photos) {
    const cells = photos.flatMap((photo) => everyClass.map((c) => photo * C + c)).filter((cell) => !marks.has(cell));
    if (!cells.length) return say("Already complete");
    if (cells.some((cell) => scores[cell] === UNKNOWN)) return say("Answer the classes without a score (–) first");
    markAll(cells.map((cell) => [cell, labelled(cell) ? 1 : 0]));
    say(photos.length === 1 ? "Complete: all labels of this photo are correct" : `${photos.length} photos are complete`);
    return true;
  }

  function showProgress() {
    let other = 0;
    for (const [cell, value] of marks) if ((value === 1) !== labelled(cell)) other += 1;
    const whole = completePhotos().length;
    $("progress").textContent = `${marks.size} marked, ${other} wrong${whole ? `, ${whole} complete` : ""}`;
    $("download").disabled = !marks.size && !data.others.length;
    $("download-complete").hidden = !whole;
    const all = data.review.length, done = data.review.filter(([photo, column]) => marks.has(photo * C + column)).length;
    $("asked").textContent = all ? `${done} of ${all} suggested labels answered` : "";
    $("bar").style.width = all ? `${(100 * done) / all}%` : "0";
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
  function offer(file, lines) {
    const text = ["path,class,value", ...lines.map((line) => line.map((part) => quoted(String(part))).join(","))].join("\n") + "\n";
    const address = URL.createObjectURL(new Blob([Uint8Array.from(bytesOf(text))], { type: "text/csv" }));
    const link = el("a");
    link.href = address;
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }
  const linesOf = (cells) => cells.map((cell) => [data.paths[photoOf(cell)], data.classes[cell % C], marks.get(cell)]);
  function download() {
    if ($("download").disabled) return say("Nothing is marked yet");
    offer("corrections.csv", [...linesOf([...marks.keys()].sort((a, b) => a - b)), ...data.others]);
    const more = data.others.length ? `, and ${data.others.length} of photos or classes that are not in this page` : "";
    say(`corrections.csv: ${marks.size} labels${more}. Next: mlclip train --corrections corrections.csv`);
  }
  function downloadComplete() {
    const photos = completePhotos().sort((a, b) => a - b);
    if (!photos.length) return say("No photo is complete yet");
    offer("complete.csv", linesOf(photos.flatMap((photo) => everyClass.map((c) => photo * C + c))));
    say(`complete.csv: ${photos.length} photos. Next: mlclip calibrate PHOTOS --truth complete.csv`);
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

  const FITS = { // by the value of "Show": of a cell; those of PHOTO_FITS are of a photo
    yes: labelled,
    no: (cell) => !labelled(cell),
    contradicted: (cell) => contradiction(cell) > 0,
    differs: (cell) => missed(cell) || extra(cell),
    missed: (cell) => missed(cell),
    extra: (cell) => extra(cell),
    unmarked: (cell) => !marks.has(cell),
    marked: (cell) => marks.has(cell),
  };
  const PHOTO_FITS = { complete: isComplete, incomplete: (photo) => !isComplete(photo) };

  function filtered() {
    const chosen = $("class").value, columns = chosen === "" ? everyClass : [Number(chosen)];
    const state = $("state").value, words = $("find").value.toLowerCase();
    const low = Number($("low").value) * SCALE, high = Number($("high").value || 1) * SCALE, least = Number($("doubt").value);
    const cellFits = FITS[state], photoFits = PHOTO_FITS[state];
    const open = !cellFits && low <= 0 && high >= SCALE && least <= 0;
    const fits = (cell) => {
      if (cellFits && !cellFits(cell)) return false;
      const score = scores[cell];
      if (score === UNKNOWN) return low <= 0 && least <= 0;
      return score >= low && score <= high && doubt(cell) >= least;
    };
    const found = [];
    for (let photo = 0; photo < N; photo += 1) {
      if (words && !data.paths[photo].toLowerCase().includes(words)) continue;
      if (photoFits && !photoFits(photo)) continue;
      if (open || columns.some((c) => fits(photo * C + c))) found.push(photo);
    }
    return [found, columns];
  }

  // A number that looks random, the same for the same photo of the same labels: FNV-1a, mixed as in MurmurHash3.
  function shuffled(photo) {
    let hash = 2166136261;
    for (const letter of `${data.key}/${data.paths[photo]}`) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0;
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
    else if (sort === "random") view = by(shuffled);
    else if (sort === "duplicates") view = found.filter((photo) => data.groups[photo] >= 0).sort((a, b) => data.groups[a] - data.groups[b] || a - b);
    else view = found;
    focus = 0;
    cards.clear();
    chipOrder.clear();
    selected.clear();
    $("window").replaceChildren();
    $("count").textContent = view.length === N ? `${N.toLocaleString("en")} photos` : `${view.length.toLocaleString("en")} of ${N.toLocaleString("en")} photos`;
    $("empty").hidden = view.length > 0;
    $("clear").hidden = FILTERS.every((name) => $(name).value === EVERYTHING[name]);
    keepView();
    showSelection();
    draw();
  }

  const EVERYTHING = { class: "", state: "any", low: "0", high: "1", doubt: "0", find: "" };
  const FILTERS = Object.keys(EVERYTHING);
  function clearFilter() {
    for (const name of FILTERS) $(name).value = EVERYTHING[name];
    update();
  }
  function keepView() {
    const values = Object.fromEntries(["sort", ...FILTERS].map((name) => [name, $(name).value]));
    remember(VIEW, { first: data.sort, tab: openTab, values });
  }
  function recallView() {
    const has = (node, value) => !node.options || [...node.options].some((option) => option.value === value);
    const kept = recall(VIEW), same = kept?.first === data.sort; // another --set sort comes first
    if (has($("sort"), data.sort)) $("sort").value = data.sort;
    for (const [name, value] of Object.entries(kept?.values || {})) {
      if ((Object.hasOwn(EVERYTHING, name) || (name === "sort" && same)) && has($(name), value)) $(name).value = value;
    }
    return TABS.includes(kept?.tab) ? kept.tab : "photos";
  }

  // ---- The gallery: only the visible cards are in the document ----

  const cards = new Map(); // photo -> element
  let columnCount = 1, rowHeight = 1;

  function draw() {
    if ($("photos").hidden) return;
    const gallery = $("gallery"), width = gallery.clientWidth || 1;
    rowHeight = parseFloat(getComputedStyle(gallery).getPropertyValue("--tall")) + GAP;
    columnCount = Math.max(1, Math.floor((width + GAP) / (CARD_WIDTH + GAP)));
    const rows = Math.ceil(view.length / columnCount);
    gallery.style.height = `${rows * rowHeight}px`;
    const above = window.scrollY - gallery.offsetTop;
    const first = Math.max(0, Math.min(rows - 1, Math.floor(above / rowHeight) - 1));
    const last = Math.min(rows, Math.ceil((above + window.innerHeight) / rowHeight) + 1);
    const places = view.slice(first * columnCount, Math.max(last, first + 1) * columnCount);
    const wanted = new Set(places);
    const tabbed = document.activeElement.classList.contains("photo");
    for (const [photo, card] of cards) if (!wanted.has(photo)) { card.remove(); cards.delete(photo); }
    const space = $("window");
    space.style.transform = `translateY(${first * rowHeight}px)`;
    space.style.gridTemplateColumns = `repeat(${columnCount}, minmax(0, 1fr))`;
    places.forEach((photo, at) => {
      if (!cards.has(photo)) cards.set(photo, cardOf(photo));
      const card = cards.get(photo);
      if (space.children[at] !== card) space.insertBefore(card, space.children[at] || null);
      card.classList.toggle("focus", view[focus] === photo);
    });
    if (tabbed) cards.get(view[focus])?.focus({ preventScroll: true }); // Tab goes on from the photo that was moved to
  }

  const chipOrder = new Map(); // photo -> its classes, which keep their places while labels are marked

  function chipsOf(photo) {
    if (!chipOrder.has(photo)) chipOrder.set(photo, orderedClasses(photo));
    return chipOrder.get(photo);
  }
  // The question, what differs from the truth, other labels and marks; then the highest scores up to the fourth other class.
  function orderedClasses(photo) {
    const base = photo * C, asks = question(photo), rest = everyClass.filter((c) => c !== asks);
    const differs = (c) => Number(FITS.differs(base + c));
    const matters = (c) => Number(differs(c) || labelled(base + c) || predicted(base + c) || marks.has(base + c));
    rest.sort((a, b) => differs(b) - differs(a) || matters(b) - matters(a) || scores[base + b] - scores[base + a] || a - b);
    const count = Math.max(rest.filter(matters).length, Math.min(CHIPS - 1, rest.length));
    return [asks, ...rest.slice(0, count)].filter((c) => c < C);
  }

  const labelsOf = (photo) => everyClass.filter((c) => labelled(photo * C + c)).map((c) => shown(data.classes[c])).join(", ") || "none";
  const described = (photo) => `${shown(data.paths[photo])}; labels: ${labelsOf(photo)}`;

  function cardOf(photo) {
    const card = el("article", "photo"), picture = el("div", "picture"), name = el("div", "file"), pick = el("label", "pick"), box = el("input");
    if (data.thumbnails[photo]) {
      const image = el("img");
      image.src = data.thumbnails[photo];
      image.alt = described(photo);
      picture.append(image);
    } else picture.append(el("span", "none", "no photo"));
    name.title = shown(data.paths[photo]);
    name.append(el("span", "path", name.title), el("span", "more"));
    box.type = "checkbox";
    box.tabIndex = -1;
    box.ariaLabel = `select ${name.title}`;
    box.addEventListener("change", () => { box.blur(); select([photo], box.checked); });
    pick.append(box);
    card.tabIndex = 0;
    card.ariaLabel = `Photo ${name.title}`;
    card.append(picture, pick, el("span", "whole", "complete"), name, ...(truth ? [el("div", "truth")] : []), el("div", "chips"));
    card.addEventListener("focus", () => { if (view[focus] !== photo) moveTo(view.indexOf(photo), false); });
    card.addEventListener("mousedown", (event) => {
      if (event.shiftKey) event.preventDefault(); // no text is selected
      else moveTo(view.indexOf(photo), false);
    });
    card.addEventListener("click", (event) => {
      if (event.target.closest(".chips, .pick")) return;
      const place = view.indexOf(photo);
      if (event.shiftKey) select(view.slice(Math.min(focus, place), Math.max(focus, place) + 1), true);
      else if (event.ctrlKey || event.metaKey || selecting) select([photo], !selected.has(photo));
      else if (event.target.closest(".picture")) openLarge();
    });
    fill(card, photo);
    return card;
  }

  function fill(card, photo) {
    const columns = chipsOf(photo), more = columns.length - CHIPS;
    card.querySelector(".chips").replaceChildren(...columns.slice(0, CHIPS).map((c, at) => chip(photo, c, at, -1)));
    card.querySelector(".more").textContent = more > 0 ? `+${more} classes` : "";
    if (truth) card.querySelector(".truth").replaceChildren(...truthOf(photo));
    card.classList.toggle("complete", isComplete(photo));
    showSelected(card, photo);
  }

  function truthOf(photo) {
    const known = everyClass.filter((c) => truth[photo * C + c] === SCALE);
    known.sort((a, b) => Number(missed(photo * C + b)) - Number(missed(photo * C + a)) || a - b);
    const names = known.flatMap((c, at) => [at ? ", " : "", el("span", missed(photo * C + c) ? "differs" : "", shown(data.classes[c]))]);
    const unknown = everyClass.every((c) => truth[photo * C + c] === UNKNOWN);
    return ["truth: ", ...(names.length ? names : [unknown ? "not known" : "none"])];
  }

  function chip(photo, column, at, tabIndex) {
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
    if (FITS.differs(cell)) {
      row.classList.add("differs");
      label.title = missed(cell) ? `${name}: the truth has it, the label does not` : `${name}: the label has it, the truth does not`;
      label.append(el("small", "", missed(cell) ? " true" : " not true"));
    }
    const button = (sign, answer, words) => {
      const node = el("button", answer ? "yes" : "no", sign);
      node.type = "button";
      node.tabIndex = tabIndex;
      node.title = node.ariaLabel = `${name}: ${words}`;
      node.ariaPressed = String(value === answer);
      node.addEventListener("click", () => mark(cell, marks.get(cell) === answer ? undefined : answer));
      return node;
    };
    row.append(el("kbd", "", at < 9 ? String(at + 1) : ""), label, track, el("span", "score", score),
      button("✓", 1, "the photo shows it"), button("✗", 0, "the photo does not show it"));
    return row;
  }

  function refresh(photo) {
    const card = cards.get(photo);
    if (card) fill(card, photo);
    if ($("large").open && view[focus] === photo) fillLarge();
  }

  // ---- One photo large: the original if it is where it was, or the thumbnail ----

  let placeInLarge = 0;
  function openLarge() {
    if (!view.length) return;
    $("large").showModal();
    showLarge();
    $("large").focus();
  }
  function showLarge() {
    const photo = view[focus], image = $("large-photo"), original = new Image();
    placeInLarge = focus;
    image.alt = described(photo);
    image.hidden = !data.thumbnails[photo];
    $("large-none").hidden = !image.hidden;
    $("large-small").hidden = true;
    if (data.thumbnails[photo]) {
      image.src = data.thumbnails[photo];
      original.onload = () => { if (view[focus] === photo) image.src = original.src; };
      original.onerror = () => { if (view[focus] === photo) $("large-small").hidden = false; };
      original.src = data.originals[photo];
    }
    fillLarge();
  }
  function leaveLarge() { // the browser has gone back to the card from which it was opened
    moveTo(placeInLarge);
    cards.get(view[focus])?.focus({ preventScroll: true });
  }
  function fillLarge() {
    const photo = view[focus], columns = chipsOf(photo);
    $("large-name").textContent = shown(data.paths[photo]);
    $("large-place").textContent = `${(focus + 1).toLocaleString("en")} of ${view.length.toLocaleString("en")}${isComplete(photo) ? ", complete" : ""}`;
    $("large-truth").replaceChildren(...(truth ? truthOf(photo) : []));
    $("large-chips").replaceChildren(...columns.map((c, at) => chip(photo, c, at, 0)));
    $("large-question").textContent = columns.length ? `${shown(data.classes[columns[0]])}?` : "";
    $("large-previous").disabled = focus === 0;
    $("large-next").disabled = focus === view.length - 1;
  }

  // ---- Several photos at once ----

  const selected = new Set();
  let selecting = false; // a click selects

  function select(photos, value) {
    if (!selected.size && photos.length) $("many-class").value = String(chipsOf(photos[0])[0]);
    for (const photo of photos) if (value) selected.add(photo); else selected.delete(photo);
    showSelection();
  }
  function endSelection() {
    selecting = false;
    selected.clear();
    showSelection();
  }
  function showSelection() {
    const some = selecting || selected.size > 0;
    $("many").hidden = !some;
    $("select").ariaPressed = String(some);
    document.body.classList.toggle("selecting", some);
    $("many-count").textContent = `${selected.size.toLocaleString("en")} selected`;
    for (const name of ["yes", "no", "complete"]) $(`many-${name}`).disabled = !selected.size;
    for (const [photo, card] of cards) showSelected(card, photo);
  }
  function showSelected(card, photo) {
    card.classList.toggle("selected", selected.has(photo));
    card.querySelector(".pick input").checked = selected.has(photo);
  }
  function answerSelected(value) {
    const column = Number($("many-class").value), photos = [...selected];
    for (const photo of photos) showClassOf(photo, column);
    markAll(photos.map((photo) => [photo * C + column, value]));
    say(`${shown(data.classes[column])}: ${value ? "yes" : "no"} for ${photos.length} photos`);
    endSelection();
  }
  function showClassOf(photo, column) { // among the classes of its card
    const columns = chipsOf(photo), at = columns.indexOf(column);
    if (at >= 0 && at < CHIPS) return;
    if (at >= 0) columns.splice(at, 1);
    columns.splice(Math.min(columns.length, CHIPS - 1), 0, column);
  }

  // ---- Moving and answering ----

  function moveTo(place, scroll = true) {
    if (!view.length) return;
    const before = view[focus];
    focus = Math.min(Math.max(place, 0), view.length - 1);
    if (before !== view[focus]) cards.get(before)?.classList.remove("focus");
    if (scroll) {
      const top = $("gallery").offsetTop + Math.floor(focus / columnCount) * rowHeight, head = $("head");
      const covered = head.offsetHeight + parseFloat(getComputedStyle(head).top) + 8;
      if (top - covered < window.scrollY) window.scrollTo(0, top - covered);
      else if (top + rowHeight > window.scrollY + window.innerHeight) window.scrollTo(0, top + rowHeight - window.innerHeight);
    }
    draw();
    if ($("large").open && before !== view[focus]) showLarge();
  }
  function answer(value) {
    if (selected.size && !$("large").open) return answerSelected(value);
    if (!view.length || !C) return;
    const photo = view[focus], column = chipsOf(photo)[0];
    mark(photo * C + column, value);
    say(`${shown(data.classes[column])}: ${value ? "yes" : "no"}`);
    moveTo(focus + 1);
  }
  function finish() {
    if (selected.size && !$("large").open) { complete([...selected]); endSelection(); } else if (view.length && complete([view[focus]])) moveTo(focus + 1);
  }
  function digit(number) {
    if (!view.length) return;
    const photo = view[focus], column = chipsOf(photo)[number - 1];
    if (column === undefined || (number > CHIPS && !$("large").open)) return;
    const cell = photo * C + column, now = marks.get(cell), first = labelled(cell) ? 0 : 1; // the first press contradicts the label
    mark(cell, now === undefined ? first : now === first ? 1 - first : undefined);
  }
  function addClass(name) {
    const column = data.classes.findIndex((other) => shown(other) === name);
    if (column < 0) return say(`There is no class ${name}`);
    showClassOf(view[focus], column);
    mark(view[focus] * C + column, 1);
    say(`${name}: yes`);
    return true;
  }
  function askToAdd() {
    if (!view.length) return;
    $("add").showModal();
    $("added").value = "";
    $("added").focus();
  }

  let silence = 0;
  function say(text) {
    const message = $("message");
    ($("large").open ? $("large") : document.body).append(message); // a dialog covers all that is not in it
    message.textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { message.textContent = ""; }, 4000);
  }

  const KEYS = {
    j: () => moveTo(focus + 1), k: () => moveTo(focus - 1),
    ArrowRight: () => moveTo(focus + 1), ArrowLeft: () => moveTo(focus - 1),
    ArrowDown: () => moveTo(focus + columnCount), ArrowUp: () => moveTo(focus - columnCount),
    Home: () => moveTo(0), End: () => moveTo(view.length - 1),
    y: () => answer(1), n: () => answer(0), c: finish, u: undo, a: askToAdd, d: download,
    f: () => { window.scrollTo(0, 0); $("find").focus(); },
    x: () => { if (view.length) select([view[focus]], !selected.has(view[focus])); },
    Enter: openLarge, Escape: endSelection, D: downloadComplete,
    "?": () => $("help").showModal(),
  };
  const IN_LARGE = { ...KEYS, ArrowDown: KEYS.j, ArrowUp: KEYS.k, f: null, x: null, Enter: null, Escape: null, "?": null };

  // Escape and Enter in a field. Escape also clears the name to search for.
  function leaveField(event) {
    const field = event.target;
    if (event.key === "Escape" && field.id === "find") {
      event.preventDefault();
      field.value = "";
      update();
    }
    if (event.key === "Escape" || (event.key === "Enter" && field.id === "find")) field.blur();
  }
  document.addEventListener("keydown", (event) => {
    const dialog = document.querySelector("dialog[open]"), large = dialog?.id === "large"; // #large is the last one
    if (event.ctrlKey || event.metaKey || event.altKey || (dialog && !large)) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea")) return leaveField(event);
    if (event.key === "Enter" && event.target.closest("button, summary, a")) return; // it is pressed
    if (event.key === "?" && !large) { event.preventDefault(); KEYS["?"](); return; }
    if ($("photos").hidden) return;
    const keys = large ? IN_LARGE : KEYS;
    const act = /^[1-9]$/.test(event.key) ? () => digit(Number(event.key)) : Object.hasOwn(keys, event.key) && keys[event.key];
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

  const TABS = ["photos", "classes", "report"];
  let openTab = "photos";
  function tab(name) {
    openTab = name;
    for (const other of TABS) {
      $(other).hidden = other !== name;
      $(`tab-${other}`).ariaSelected = String(other === name);
    }
    if (name === "classes") showClasses();
    if (name === "photos") draw();
    else endSelection();
    keepView();
  }
  for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => { tab(name); window.scrollTo(0, 0); });

  $("class").append(new Option("every class", ""));
  everyClass.forEach((c) => {
    for (const list of ["class", "many-class"]) $(list).append(new Option(shown(data.classes[c]), String(c)));
    $("names").append(new Option(shown(data.classes[c])));
  });
  const there = { predictions, truth, duplicates: data.groups.some((group) => group >= 0) };
  for (const node of document.querySelectorAll("[data-needs]")) if (!there[node.dataset.needs]) node.remove();
  document.body.classList.toggle("with-truth", Boolean(truth));

  let later = 0;
  const soon = () => { clearTimeout(later); later = setTimeout(update, 120); };
  for (const name of ["class", "state", "sort"]) $(name).addEventListener("change", (event) => { update(); event.target.blur(); });
  for (const name of ["low", "high", "doubt", "find"]) $(name).addEventListener("input", soon);
  const CLICKS = {
    download, undo, "download-complete": downloadComplete, clear: clearFilter, "clear-empty": clearFilter,
    "open-help": () => $("help").showModal(),
    "more-filters": () => { $("more-filters").ariaExpanded = String($("filters").classList.toggle("all")); },
    select: () => { if (selecting || selected.size) endSelection(); else { selecting = true; showSelection(); } },
    "many-yes": () => answerSelected(1), "many-no": () => answerSelected(0), "many-complete": finish,
    "many-all": () => select(view, true), "many-end": endSelection,
    "large-yes": () => answer(1), "large-no": () => answer(0), "large-complete": finish, "large-undo": undo,
    "large-add": askToAdd, "large-previous": () => moveTo(focus - 1), "large-next": () => moveTo(focus + 1),
  };
  for (const [name, act] of Object.entries(CLICKS)) $(name).addEventListener("click", act);
  $("large").addEventListener("close", leaveLarge);
  $("add-form").addEventListener("submit", (event) => { if (!addClass($("added").value)) event.preventDefault(); });
  for (const node of document.querySelectorAll("dialog .close")) node.addEventListener("click", () => node.closest("dialog").close());

  const root = document.documentElement, theme = recall(THEME);
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember(THEME, root.dataset.theme);
  });

  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };
  window.addEventListener("scroll", redraw, { passive: true });
  window.addEventListener("resize", redraw);
  recallMarks();
  showProgress();
  openTab = recallView();
  update();
  tab(openTab);
  root.dataset.ready = "yes";
})();
