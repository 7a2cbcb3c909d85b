// The browser of a curation report: filters, sorts and pages a table of tracks, and steps through one track's frames.
"use strict";

const PAGE_SIZE = 50;
const LIST_SCORES = ["reprojection", "matte_iou", "jitter", "coverage", "height_px", "sharpness"];
const byId = (id) => document.getElementById(id);

const count = REPORT.stems.length;
const text = (column, row) => REPORT.texts[column].words[REPORT.texts[column].codes[row]];
const scoreNames = Object.keys(REPORT.scores).filter((name) => REPORT.scores[name].some((value) => value !== null));
const searchable = Array.from({ length: count }, (_, row) =>
  ["key", "source_id", "channel", "identity"].map((column) => text(column, row)).join(" ").toLowerCase());

const state = { page: 0, matches: [], open: -1, frame: 0, loaded: new Map() };

function addOption(select, value, label) {
  const option = document.createElement("option");
  option.value = value;
  option.textContent = label;
  select.append(option);
}

function fillSelects() {
  for (const column of ["status", "stage", "reason"]) {
    addOption(byId(column), "", "any");
    const used = new Set(REPORT.texts[column].codes);
    REPORT.texts[column].words.forEach((word, code) => {
      if (word !== "" && used.has(code)) addOption(byId(column), word, word);
    });
  }
  addOption(byId("score"), "", "none");
  addOption(byId("sort"), "key", "key");
  addOption(byId("sort"), "num_frames", "frames");
  for (const name of scoreNames) {
    addOption(byId("score"), name, REPORT.scoreTexts[name] || name);
    addOption(byId("sort"), name, REPORT.scoreTexts[name] || name);
  }
}

function sortValue(name, row) {
  if (name === "key") return text("key", row);
  if (name === "num_frames") return REPORT.numbers.num_frames[row];
  return REPORT.scores[name][row];
}

// Rows without a value come last, whichever way the others go.
function compare(name, sign) {
  return (a, b) => {
    const left = sortValue(name, a), right = sortValue(name, b);
    if (left === right) return a - b;
    if (left === null) return 1;
    if (right === null) return -1;
    return left < right ? -sign : sign;
  };
}

function applyFilters() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = ["status", "stage", "reason"].filter((column) => byId(column).value !== "")
    .map((column) => [REPORT.texts[column].codes, REPORT.texts[column].words.indexOf(byId(column).value)]);
  const scores = byId("score").value ? REPORT.scores[byId("score").value] : null;
  const low = byId("low").value === "" ? -Infinity : Number(byId("low").value);
  const high = byId("high").value === "" ? Infinity : Number(byId("high").value);
  const bounded = scores !== null && (low !== -Infinity || high !== Infinity);
  const matches = [];
  for (let row = 0; row < count; row++) {
    if (!wanted.every(([codes, code]) => codes[row] === code)) continue;
    if (bounded && (scores[row] === null || scores[row] < low || scores[row] > high)) continue;
    if (!words.every((word) => searchable[row].includes(word))) continue;
    matches.push(row);
  }
  matches.sort(compare(byId("sort").value, byId("descending").checked ? -1 : 1));
  state.matches = matches;
  state.page = 0;
  drawRows();
}

function cell(content, kind) {
  const td = document.createElement("td");
  if (kind) td.className = kind;
  td.append(content);
  return td;
}

function shortNumber(value) {
  return value === null ? "–" : Number(value).toPrecision(3).replace(/\.?0+($|e)/, "$1");
}

function drawHead() {
  const head = document.createElement("tr");
  const columns = [["", ""], ["track", "key"], ["state", ""], ["ended by", ""], ["frames", "num_frames"],
    ...LIST_SCORES.filter((name) => scoreNames.includes(name)).map((name) => [name.replace("_", " "), name])];
  for (const [label, name] of columns) {
    const th = document.createElement("th");
    th.textContent = label;
    if (name && name !== "key") th.className = "num";
    if (name) {
      th.dataset.sort = name;
      th.addEventListener("click", () => {
        byId("descending").checked = byId("sort").value === name ? !byId("descending").checked : name !== "key";
        byId("sort").value = name;
        applyFilters();
      });
    }
    head.append(th);
  }
  document.querySelector("#rows thead").append(head);
}

function drawRow(row) {
  const tr = document.createElement("tr");
  tr.dataset.row = row;
  const thumb = document.createElement(REPORT.stems[row] ? "img" : "i");
  if (REPORT.stems[row]) {
    thumb.loading = "lazy";
    thumb.alt = "";
    thumb.src = `${REPORT.stems[row]}.thumb.jpg`;
  }
  const name = document.createElement("span");
  name.textContent = text("source_id", row);
  const key = document.createElement("small");
  key.textContent = text("key", row);
  const both = document.createDocumentFragment();
  both.append(name, key);
  const status = document.createElement("span");
  status.className = `state ${text("status", row)}`;
  status.textContent = text("status", row);
  const ended = text("status", row) === "accepted" ? "" : `${text("stage", row)}: ${text("reason", row)}`;
  tr.append(cell(thumb, "thumb"), cell(both, "name"), cell(status), cell(ended));
  tr.append(cell(String(REPORT.numbers.num_frames[row] || "–"), "num"));
  for (const score of LIST_SCORES) {
    if (scoreNames.includes(score)) tr.append(cell(shortNumber(REPORT.scores[score][row]), "num"));
  }
  tr.addEventListener("click", () => openTrack(row));
  return tr;
}

function drawRows() {
  const pages = Math.max(1, Math.ceil(state.matches.length / PAGE_SIZE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const start = state.page * PAGE_SIZE;
  document.querySelector("#rows tbody").replaceChildren(...state.matches.slice(start, start + PAGE_SIZE).map(drawRow));
  byId("count").textContent = `${state.matches.length.toLocaleString("en")} of ${count.toLocaleString("en")} records`;
  byId("page").textContent = `page ${state.page + 1} of ${pages}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page >= pages - 1;
  for (const th of document.querySelectorAll("#rows th")) th.classList.toggle("sorted", th.dataset.sort === byId("sort").value);
}

// --- one track ---------------------------------------------------------------------------------------------------

function receiveTrack(key, details) {
  state.loaded.set(key, details);
  if (state.open >= 0 && text("key", state.open) === key) drawFrame();
}

function loadTrack(row) {
  const key = text("key", row);
  if (!REPORT.stems[row] || state.loaded.has(key)) return;
  const script = document.createElement("script");
  script.src = `${REPORT.stems[row]}.js`;
  document.head.append(script);
}

function openTrack(row) {
  state.open = row;
  state.frame = 0;
  const stem = REPORT.stems[row];
  byId("v-title").textContent = text("source_id", row);
  byId("v-where").textContent = text("key", row);
  byId("v-reason").textContent = text("status", row) === "accepted" ? "" :
    `${text("status", row)} at ${text("stage", row)}: ${text("reason", row)}. ${text("detail", row)}`;
  byId("v-nothing").style.display = stem ? "none" : "block";
  const sheet = (suffix, present) => (present ? `url("${stem}.${suffix}")` : "none");
  byId("l-frames").style.backgroundImage = sheet("frames.jpg", stem);
  byId("l-matte").style.backgroundImage = sheet("matte.webp", stem && REPORT.mattes[row]);
  byId("t-matte").disabled = !REPORT.mattes[row];
  byId("l-body").style.backgroundImage = sheet("body.webp", stem && REPORT.bodies[row]);
  byId("t-body").disabled = !REPORT.bodies[row];
  byId("v-slider").max = Math.max(0, REPORT.tiles[row] - 1);
  drawFacts(row);
  loadTrack(row);
  drawFrame();
  if (!byId("viewer").open) byId("viewer").showModal();
  history.replaceState(null, "", `#track=${encodeURIComponent(text("key", row))}`);
}

function facts(table, pairs) {
  table.replaceChildren(...pairs.map(([name, value]) => {
    const tr = document.createElement("tr");
    tr.append(cell(name), cell(value));
    return tr;
  }));
}

function drawFacts(row) {
  const numbers = REPORT.numbers;
  facts(byId("v-facts"), [
    ["state", text("status", row)],
    ["video frames", numbers.end_frame[row] ? `${numbers.first_frame[row]} to ${numbers.end_frame[row] - 1}` : "–"],
    ["person", String(numbers.person[row])],
    ["frames kept", String(numbers.num_frames[row] || "–")],
    ...["channel", "licence", "identity", "identity_cluster", "duplicate_group"].filter((name) => text(name, row))
      .map((name) => [name.replace("_", " "), text(name, row)]),
  ]);
  facts(byId("v-scores"), scoreNames.filter((name) => REPORT.scores[name][row] !== null)
    .map((name) => [REPORT.scoreTexts[name] || name, scoreCell(name, row)]));
}

// The meter says which share of all scored records has a smaller value.
function scoreCell(name, row) {
  const value = REPORT.scores[name][row];
  const known = REPORT.scores[name].filter((other) => other !== null);
  const meter = document.createElement("meter");
  meter.value = known.filter((other) => other < value).length / Math.max(1, known.length - 1);
  meter.title = `larger than ${Math.round(100 * meter.value)} % of the records`;
  const both = document.createDocumentFragment();
  both.append(meter, ` ${shortNumber(value)}`);
  return both;
}

function drawFrame() {
  const row = state.open, tiles = REPORT.tiles[row], [width, height] = REPORT.tileSize;
  const box = byId("canvas-box"), scale = box.clientWidth / width || 2;
  state.frame = Math.min(Math.max(state.frame, 0), Math.max(0, tiles - 1));
  for (const [layer, toggle] of [["l-frames", null], ["l-matte", "t-matte"], ["l-body", "t-body"]]) {
    const style = byId(layer).style;
    style.backgroundSize = `${tiles * width * scale}px ${height * scale}px`;
    style.backgroundPosition = `${-state.frame * width * scale}px 0`;
    style.display = toggle === null || byId(toggle).checked ? "block" : "none";
  }
  byId("v-slider").value = state.frame;
  const details = state.loaded.get(text("key", row));
  const number = details ? `video frame ${details.frames[state.frame]}` : "";
  byId("v-frame").textContent = tiles ? number || `${state.frame + 1} of ${tiles}` : "";
  const error = details && details.values.reprojection_px ? details.values.reprojection_px[state.frame] : null;
  byId("v-frame").title = error === null ? "" : `reprojection ${error} px`;
  drawPoints(details, scale);
}

function side(index) {
  if (index === 0 || (index >= 23 && index < 91)) return "#f2f2f2";
  const left = index < 17 ? index % 2 === 1 : index < 20 || (index >= 91 && index < 112);
  return left ? "#58a6ff" : "#ff8a4c";
}

function drawPoints(details, scale) {
  const canvas = byId("l-points"), [width, height] = REPORT.tileSize;
  canvas.width = width * scale;
  canvas.height = height * scale;
  if (!details || !REPORT.stems[state.open] || !byId("t-points").checked) return;
  const points = new Map(details.points[state.frame].map(([index, x, y]) => [index, [x * scale, y * scale]]));
  const context = canvas.getContext("2d");
  context.lineWidth = 2.5;
  for (const [start, end] of REPORT.limbs) {
    if (!points.has(start) || !points.has(end)) continue;
    context.strokeStyle = side(end);
    context.beginPath();
    context.moveTo(...points.get(start));
    context.lineTo(...points.get(end));
    context.stroke();
  }
  for (const [index, [x, y]] of points) {
    context.fillStyle = side(index);
    context.beginPath();
    context.arc(x, y, index < 23 ? 3.5 : 1.8, 0, 2 * Math.PI);
    context.fill();
  }
}

function stepFrame(by) {
  const tiles = REPORT.tiles[state.open];
  if (tiles) state.frame = (state.frame + by + tiles) % tiles;
  drawFrame();
}

function stepTrack(by) {
  const place = state.matches.indexOf(state.open) + by;
  if (place < 0 || place >= state.matches.length) return;
  openTrack(state.matches[place]);
  if (Math.floor(place / PAGE_SIZE) !== state.page) {
    state.page = Math.floor(place / PAGE_SIZE);
    drawRows();
  }
}

// --- groups: who is taken for one person, what is taken for the same footage -------------------------------------

const GROUPS_PER_PAGE = 20;
const MAX_MEMBERS = 24;
const groupViews = { people: { column: "identity_cluster", page: 0 }, duplicates: { column: "duplicate_group", page: 0 } };

// [name, rows] of the groups of a column, the largest first.
function groupsOf(column) {
  const found = new Map();
  for (let row = 0; row < count; row++) {
    const name = text(column, row);
    if (name) found.set(name, [...(found.get(name) || []), row]);
  }
  return [...found].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
}

function drawMember(row) {
  const figure = document.createElement("figure");
  const picture = document.createElement(REPORT.stems[row] ? "img" : "i");
  if (REPORT.stems[row]) {
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `${REPORT.stems[row]}.thumb.jpg`;
  }
  const caption = document.createElement("figcaption");
  caption.textContent = text("source_id", row);
  figure.className = text("status", row);
  figure.title = `${text("key", row)} ${text("reason", row)}`;
  figure.append(picture, caption);
  figure.addEventListener("click", () => { state.matches = [row]; openTrack(row); });
  return figure;
}

function drawGroup([name, rows]) {
  const section = document.createElement("section");
  section.className = "panel group";
  const head = document.createElement("h2");
  const videos = new Set(rows.map((row) => text("source_id", row))).size;
  head.textContent = `${rows.length} tracks of ${videos} ${videos === 1 ? "video" : "videos"}`;
  const code = document.createElement("code");
  code.textContent = name;
  head.append(" ", code);
  const strip = document.createElement("div");
  strip.className = "members";
  strip.append(...rows.slice(0, MAX_MEMBERS).map(drawMember));
  if (rows.length > MAX_MEMBERS) strip.append(`and ${rows.length - MAX_MEMBERS} more`);
  section.append(head, strip);
  return section;
}

function drawGroups(view) {
  const shown = groupViews[view];
  shown.groups = shown.groups || groupsOf(shown.column);
  const pages = Math.max(1, Math.ceil(shown.groups.length / GROUPS_PER_PAGE));
  shown.page = Math.min(Math.max(shown.page, 0), pages - 1);
  const start = shown.page * GROUPS_PER_PAGE;
  byId(`${view}-groups`).replaceChildren(...shown.groups.slice(start, start + GROUPS_PER_PAGE).map(drawGroup));
  byId(`${view}-count`).textContent = `${shown.groups.length.toLocaleString("en")} groups`;
  byId(`${view}-page`).textContent = `page ${shown.page + 1} of ${pages}`;
  byId(`${view}-previous`).disabled = shown.page === 0;
  byId(`${view}-next`).disabled = shown.page >= pages - 1;
}

// --- the page ----------------------------------------------------------------------------------------------------

function show(view) {
  for (const main of document.querySelectorAll(".view")) main.classList.toggle("shown", main.id === `view-${view}`);
  for (const tab of document.querySelectorAll("nav button")) tab.setAttribute("aria-selected", tab.dataset.view === view);
}

// #overview, #sheets, #tracks?stage=gate&reason=blurred, #track=KEY
function followAddress() {
  const address = location.hash.slice(1);
  if (address.startsWith("track=")) {
    const row = REPORT.texts.key.codes.indexOf(REPORT.texts.key.words.indexOf(decodeURIComponent(address.slice(6))));
    show("tracks");
    if (row >= 0 && row !== state.open) openTrack(row);
    return;
  }
  const [view, query] = address.split("?");
  show(byId(`view-${view}`) ? view : "overview");
  if (groupViews[view]) drawGroups(view);
  if (query !== undefined) {
    for (const [name, value] of new URLSearchParams(query)) {
      if (["status", "stage", "reason", "search", "score", "low", "high", "sort"].includes(name)) byId(name).value = value;
      if (name === "descending") byId(name).checked = value === "1";
    }
    applyFilters();
  }
}

function connect() {
  for (const id of ["search", "status", "stage", "reason", "score", "low", "high", "sort", "descending"]) {
    byId(id).addEventListener("input", applyFilters);
  }
  byId("previous").addEventListener("click", () => { state.page--; drawRows(); });
  byId("next").addEventListener("click", () => { state.page++; drawRows(); });
  for (const view of Object.keys(groupViews)) {
    byId(`${view}-previous`).addEventListener("click", () => { groupViews[view].page--; drawGroups(view); });
    byId(`${view}-next`).addEventListener("click", () => { groupViews[view].page++; drawGroups(view); });
  }
  for (const tab of document.querySelectorAll("nav button")) {
    tab.addEventListener("click", () => { location.hash = tab.dataset.view; });
  }
  window.addEventListener("hashchange", followAddress);
  byId("v-back").addEventListener("click", () => stepFrame(-1));
  byId("v-forth").addEventListener("click", () => stepFrame(1));
  byId("v-slider").addEventListener("input", () => { state.frame = Number(byId("v-slider").value); drawFrame(); });
  for (const id of ["t-matte", "t-points", "t-body"]) byId(id).addEventListener("input", drawFrame);
  byId("v-close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("close", () => {
    state.open = -1;
    history.replaceState(null, "", `#${document.querySelector(".view.shown").id.slice("view-".length)}`);
  });
  document.addEventListener("keydown", (event) => {
    if (!byId("viewer").open) return;
    const toggles = { m: "t-matte", k: "t-points", b: "t-body" };
    if (event.key === "ArrowLeft") stepFrame(-1);
    else if (event.key === "ArrowRight") stepFrame(1);
    else if (event.key === "ArrowUp") stepTrack(-1);
    else if (event.key === "ArrowDown") stepTrack(1);
    else if (event.key in toggles) { byId(toggles[event.key]).checked = !byId(toggles[event.key]).checked; drawFrame(); }
    else return;
    event.preventDefault();
  });
}

fillSelects();
drawHead();
connect();
applyFilters();
followAddress();
