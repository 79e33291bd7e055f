"use strict";
// Every text of the data goes into the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const MASK = "■", STRONGEST = 6, FAINTEST = 0.08, PAUSE = 900;
const RAMP = ["#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78", "#948e77",
  "#aea371", "#c8b866", "#e5cf52", "#fee838"];
const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
const last = Math.max(...data.recordings.map((r) => r.moments.length));
const view = { step: 0, colour: "step", pointed: null, kept: null };
const byId = (name) => document.getElementById(name);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const shown = (token) => token === "" ? "∅" : [...token].map((c) => SIGNS[c] ?? c).join("");
const clamp = (share) => Math.min(1, Math.max(0, share));

function channels(share) {
  const at = clamp(share) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [0, 1, 2].map((i) =>
    Math.round(part(RAMP[low], i) + (at - low) * (part(RAMP[low + 1], i) - part(RAMP[low], i))));
}

function paint(element, share) {
  const [red, green, blue] = channels(share);
  const light = 0.299 * red + 0.587 * green + 0.114 * blue > 128;
  element.style.background = `rgb(${red}, ${green}, ${blue})`;
  element.style.color = light ? "#1c1c1c" : "#ffffff";
}

// The last step before `done` that fixed a position; -1 where none did.
function fixedAt(recording, position, done) {
  for (let step = done - 1; step >= 0; step--)
    if (recording.moments[step].fixed.includes(position)) return step;
  return -1;
}

function confidence(recording, position, step) {
  const moment = recording.moments[step];
  return moment.confidence[moment.fixed.indexOf(position)];
}

// Which step tells about a position: the coming one if it is masked, else the one that fixed it.
function telling(recording, position, done) {
  if (recording.states[done][position] === null) return done;
  return fixedAt(recording, position, done);
}

function makePane(recording) {
  const pane = make("section", "pane"), text = make("div", "text"), detail = make("div", "detail");
  pane.dataset.label = recording.label;
  const lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  lines.setAttribute("class", "lines");
  lines.setAttribute("aria-hidden", "true");
  text.append(lines, make("span", "given", data.prompt.map(shown).join("")));
  const cells = recording.states[0].map((_, position) => {
    const cell = make("span", "cell");
    cell.dataset.position = position;
    cell.tabIndex = 0;
    cell.addEventListener("mouseenter", () => point(position));
    cell.addEventListener("focus", () => point(position));
    cell.addEventListener("mouseleave", () => point(null));
    cell.addEventListener("blur", () => point(null));
    const toggle = () => keep(view.kept === position ? null : position);
    cell.addEventListener("click", toggle);
    cell.addEventListener("keydown", (event) => event.key === "Enter" && toggle());
    return cell;
  });
  text.append(...cells);
  pane.append(make("h2", "", recording.label), text, detail);
  byId("panes").append(pane);
  return { recording, pane, text, lines, cells, detail };
}

function drawCells({ recording, cells }) {
  const done = Math.min(view.step, recording.moments.length);
  const state = recording.states[done];
  cells.forEach((cell, position) => {
    const masked = state[position] === null;
    const step = masked ? -1 : fixedAt(recording, position, done);
    cell.className = "cell";
    cell.classList.toggle("masked", masked);
    cell.classList.toggle("fresh", step >= 0 && step === done - 1);
    cell.textContent = masked ? MASK : shown(state[position]);
    cell.dataset.state = masked ? "masked" : "fixed";
    cell.style.background = cell.style.color = "";
    delete cell.dataset.step;
    delete cell.dataset.confidence;
    if (step < 0) return;
    cell.dataset.step = step + 1;
    cell.dataset.confidence = confidence(recording, position, step);
    const share = view.colour === "step" ? step / Math.max(1, last - 1) : cell.dataset.confidence;
    paint(cell, Number(share));
  });
}

// The nats that bind a position to every other one, by position; empty where nothing was recorded.
function bonds(moment, position) {
  const row = moment ? moment.positions.indexOf(position) : -1;
  if (row < 0 || !moment.information) return [];
  return moment.positions
    .map((other, column) => ({ other, nats: moment.information[row][column] }))
    .filter(({ other }) => other !== position)
    .sort((a, b) => b.nats - a.nats);
}

function drawBonds({ text, lines, cells }, position, found) {
  lines.replaceChildren();
  cells.forEach((cell, place) => {
    cell.classList.toggle("chosen", place === position);
    cell.style.setProperty("--bound", 0);
    delete cell.dataset.information;
  });
  const most = found.length ? found[0].nats : 0;
  found.forEach(({ other, nats }, rank) => {
    const share = most > 0 ? nats / most : 0;
    cells[other].style.setProperty("--bound", share);
    cells[other].dataset.information = nats;
    if (rank < STRONGEST && share >= FAINTEST)
      lines.append(arc(text, cells[position], cells[other], share));
  });
}

function arc(text, from, to, share) {
  const base = text.getBoundingClientRect();
  const [a, b] = [from, to].map((cell) => cell.getBoundingClientRect());
  const [x, u] = [a, b].map((box) => box.left + box.width / 2 - base.left);
  const [y, v] = [a, b].map((box) => box.top - base.top);
  const high = Math.min(y, v) - Math.min(30, 10 + Math.abs(u - x) / 8);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M ${x} ${y} C ${x} ${high}, ${u} ${high}, ${u} ${v}`);
  path.setAttribute("stroke-width", 0.7 + 2.3 * share);
  path.setAttribute("stroke-opacity", 0.35 + 0.6 * share);
  return path;
}

function drawDetail({ recording, detail }, position, step, found) {
  detail.replaceChildren();
  if (position === null) return;
  const done = Math.min(view.step, recording.moments.length), moment = recording.moments[step];
  const token = recording.states[done][position];
  const row = moment ? moment.positions.indexOf(position) : -1;
  const what = token === null ? `masked, before step ${step + 1}` :
    `“${shown(token)}”, fixed by step ${step + 1} with probability ` +
    `${confidence(recording, position, step)?.toFixed(3) ?? "unknown"}`;
  detail.append(make("p", "what", `position ${position}: ${what}`));
  if (row < 0) {
    detail.append(make("p", "", "No joint distribution was asked for this position at that step."));
    return;
  }
  const tables = make("div", "tables");
  tables.append(candidateTable(moment, row), bondTable(found, moment));
  detail.append(tables);
}

function candidateTable(moment, row) {
  const table = make("table", "candidates");
  const title = `likeliest tokens (entropy ${moment.entropy[row].toFixed(3)} nats)`;
  table.append(make("caption", "", title));
  const heads = [make("th", "", "joint"), make("th"), make("th", "", "denoiser")];
  table.append(line(make("th", "token", "token"), ...heads));
  for (const [token, joint, alone] of moment.candidates[row]) {
    const bar = make("td", "bar"), filled = make("span");
    filled.style.width = `${100 * clamp(joint)}%`;
    bar.append(filled);
    const numbers = [number("joint", joint), bar, number("alone", alone)];
    table.append(line(make("td", "token", shown(token)), ...numbers));
  }
  return table;
}

function bondTable(found, moment) {
  const table = make("table", "bonds");
  table.append(make("caption", "", "mutual information with other tokens"));
  const strong = found.filter(({ nats }) => nats > 0).slice(0, STRONGEST);
  if (!strong.length) {
    const why = !moment.information ? "not recorded" :
      found.length ? "none: the tokens are independent" : "none: no other is masked";
    table.append(line(make("td", "token", why)));
    return table;
  }
  table.append(line(make("th", "token", "position"), make("th", "", "nats")));
  for (const { other, nats } of strong)
    table.append(line(make("td", "token", String(other)), number("nats", nats)));
  return table;
}

function line(...cells) {
  const row = make("tr");
  row.append(...cells);
  return row;
}

function number(className, value) {
  const cell = make("td", className, value > 0 && value < 0.0005 ? "<.001" : value.toFixed(3));
  cell.dataset.value = value;
  return cell;
}

const panes = data.recordings.map(makePane);

function drawPointed() {
  const position = view.kept ?? view.pointed;
  for (const pane of panes) {
    const { recording } = pane, inside = position !== null && position < pane.cells.length;
    const done = Math.min(view.step, recording.moments.length);
    const step = inside ? telling(recording, position, done) : -1;
    const found = inside ? bonds(recording.moments[step], position) : [];
    drawBonds(pane, inside ? position : null, found);
    drawDetail(pane, inside ? position : null, step, found);
  }
}

function draw() {
  byId("step").value = view.step;
  byId("where").textContent = `after step ${view.step} of ${last}`;
  const bySteps = view.colour === "step";
  byId("low").textContent = bySteps ? "step 1" : "probability 0";
  byId("high").textContent = bySteps ? `step ${last}` : "1";
  panes.forEach(drawCells);
  drawPointed();
}

function go(step) {
  view.step = Math.min(last, Math.max(0, step));
  draw();
}

function point(position) {
  view.pointed = position;
  drawPointed();
}

function keep(position) {
  view.kept = position;
  drawPointed();
}

let timer = null;
function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => view.step < last ? go(view.step + 1) : play(false), PAUSE) : null;
  if (on && view.step === last) go(0);
  byId("play").textContent = on ? "pause" : "play";
  byId("play").setAttribute("aria-pressed", String(on));
}

const KEYS = {
  ArrowLeft: () => go(view.step - 1), ArrowRight: () => go(view.step + 1),
  Home: () => go(0), End: () => go(last), Escape: () => keep(null), " ": () => play(timer === null),
};
byId("step").max = last;
byId("step").addEventListener("input", (event) => go(Number(event.target.value)));
byId("colour").addEventListener("change", (event) => { view.colour = event.target.value; draw(); });
byId("first").addEventListener("click", () => go(0));
byId("back").addEventListener("click", () => go(view.step - 1));
byId("next").addEventListener("click", () => go(view.step + 1));
byId("play").addEventListener("click", () => play(timer === null));
document.addEventListener("keydown", (event) => {
  const own = event.target.closest("input, select, button");
  if (own && event.key !== "Escape") return;
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});
window.addEventListener("resize", drawPointed);
byId("ramp").style.background = `linear-gradient(90deg, ${RAMP.join(", ")})`;
draw();
