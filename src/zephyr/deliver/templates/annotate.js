// The annotation page: asks for a row, shows its answers, sends the scores. Texts are set as text, never as markup.
"use strict";
const LETTERS = "ABCDEFGHI";
const at = (id) => document.getElementById(id);
let state, row;
let ranks = []; // of rank: groups of answers, the best first; an answer's index stands in one of them
let scores = []; // of rate: the score of each answer, or null
let current = 0; // of rate: the answer that a digit rates
let ties = false; // the next pick joins the last group
let busy = false;

const make = (tag, words, name) => {
  const made = document.createElement(tag);
  made.textContent = words;
  if (name) made.className = name;
  return made;
};

function tell(words, isBad) {
  at("status").textContent = words;
  at("status").classList.toggle("bad", Boolean(isBad));
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

const isDone = (index) => state.done.includes(index);

// The next row after this one that is not done, beginning anew at the end; -1 if all are.
function nextOpen(after) {
  for (let step = 1; step <= state.rows; step++) {
    const index = (after + step + state.rows) % state.rows;
    if (!isDone(index)) return index;
  }
  return -1;
}

function showProgress() {
  at("title").textContent = `Annotate ${state.name}`;
  document.title = `Zephyr: annotate ${state.name}`;
  at("bar").max = state.rows;
  at("bar").value = state.done.length;
  at("count").textContent = `${state.done.length} of ${state.rows} done`;
}

async function open(index) {
  const isEnd = index < 0;
  at("end").hidden = !isEnd;
  for (const id of ["prompt", "hint", "answers"]) at(id).hidden = isEnd;
  for (const id of ["clear", "tie", "skip", "save"]) at(id).hidden = isEnd || (id === "tie" && state.mode === "rate");
  if (isEnd) {
    row = null;
    at("endwords").textContent = "Everything is saved. Stop the command with Ctrl-C, or go back to change a row.";
    return;
  }
  row = await ask(`rows/${index}`);
  ranks = [];
  scores = row.answers.map(() => null);
  current = 0;
  ties = false;
  if (row.scores && state.mode === "rate") scores = row.scores.slice();
  if (row.scores && state.mode === "rank") {
    const levels = [...new Set(row.scores)].sort((a, b) => b - a);
    ranks = levels.map((level) => row.answers.map((_, i) => i).filter((i) => row.scores[i] === level));
  }
  showRow();
}

function showRow() {
  at("prompt").replaceChildren();
  for (const message of row.prompt) {
    at("prompt").append(make("h2", message.role), make("p", message.content, "text"));
  }
  at("answers").replaceChildren(...row.answers.map(card));
  at("hint").textContent = state.mode === "rank"
    ? `Row ${row.index + 1}. Pick the answers from best to worst: ${row.answers.map((_, i) => LETTERS[i]).join(", ")}, or 1 to ${row.answers.length}.`
    : `Row ${row.index + 1}. Rate every answer from 1 (worst) to ${state.highest} (best); arrow up and down change the answer.`;
  refresh();
}

function card(text, index) {
  const made = make("article", "", "answer");
  const title = make("h2", `Answer ${LETTERS[index]}`);
  title.append(make("span", "", "place"));
  const said = make("p", text || "(nothing)", "text");
  said.tabIndex = 0;
  const controls = make("div", "", "controls");
  if (state.mode === "rank") {
    const pick = make("button", "Pick");
    pick.append(make("kbd", LETTERS[index]));
    pick.setAttribute("aria-label", `Pick answer ${LETTERS[index]}`);
    pick.addEventListener("click", () => choose(index));
    controls.append(pick);
  } else {
    for (let score = 1; score <= state.highest; score++) {
      const rate = make("button", String(score));
      rate.setAttribute("aria-label", `Answer ${LETTERS[index]}: ${score} of ${state.highest}`);
      rate.addEventListener("click", () => give(index, score));
      controls.append(rate);
    }
  }
  made.append(title, said, controls);
  return made;
}

function refresh() {
  [...at("answers").children].forEach((made, index) => {
    const rank = ranks.findIndex((group) => group.includes(index));
    const place = state.mode === "rank" ? (rank < 0 ? "" : `place ${rank + 1}`) : scores[index] === null ? "" : `${scores[index]} of ${state.highest}`;
    made.querySelector(".place").textContent = place;
    made.classList.toggle("picked", Boolean(place));
    made.classList.toggle("current", state.mode === "rate" && index === current);
    made.querySelectorAll("button").forEach((button, number) => {
      const isOn = state.mode === "rank" ? rank >= 0 : scores[index] === number + 1;
      button.setAttribute("aria-pressed", String(isOn));
    });
  });
  at("tie").setAttribute("aria-pressed", String(ties));
  at("tie").disabled = !ranks.length || ranks.flat().length === row.answers.length;
  at("save").disabled = busy || given() === null;
}

function choose(index) {
  if (ranks.flat().includes(index)) {
    ranks = ranks.map((group) => group.filter((one) => one !== index)).filter((group) => group.length);
  } else if (ties && ranks.length) {
    ranks[ranks.length - 1].push(index);
  } else {
    ranks.push([index]);
  }
  ties = false;
  refresh();
}

function give(index, score) {
  scores[index] = score;
  current = Math.min(index + 1, row.answers.length - 1);
  refresh();
}

// The scores of the row, in the order shown; null where one is missing.
function given() {
  if (!row) return null;
  if (state.mode === "rate") return scores.includes(null) ? null : scores;
  const rest = row.answers.map((_, i) => i).filter((i) => !ranks.flat().includes(i));
  // The last one that was not picked is the worst.
  if (rest.length > 1) return null;
  const groups = rest.length ? [...ranks, rest] : ranks;
  return row.answers.map((_, index) => groups.length - groups.findIndex((group) => group.includes(index)));
}

async function save() {
  const found = given();
  if (busy || found === null) return;
  busy = true;
  refresh();
  try {
    const body = JSON.stringify({ scores: found });
    state = await ask(`rows/${row.index}`, { method: "POST", headers: { "content-type": "application/json" }, body });
    tell(`Row ${row.index + 1} is saved.`);
    showProgress();
    busy = false;
    await open(nextOpen(row.index));
  } catch (error) {
    tell(`Row ${row.index + 1} was not saved: ${error.message}. Save again.`, true);
    busy = false;
    refresh();
  }
}

function clear() {
  ranks = [];
  scores = row.answers.map(() => null);
  current = 0;
  ties = false;
  refresh();
}

function tie() {
  ties = !ties && ranks.length > 0;
  refresh();
}

const move = (step) => open(row ? (row.index + step + state.rows) % state.rows : state.rows - 1).catch(failed);
const failed = (error) => tell(`The page cannot reach its server: ${error.message}`, true);

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key;
  if (key === "ArrowLeft") return move(-1);
  if (!row) return;
  const letter = key.length === 1 ? LETTERS.indexOf(key.toUpperCase()) : -1;
  const digit = /^[1-9]$/.test(key) ? Number(key) : 0;
  const isButton = event.target instanceof HTMLButtonElement;
  if (key === "Enter" && !(isButton && event.target.id !== "save")) save();
  else if (key === "ArrowRight") move(1);
  else if (key === "Backspace") clear();
  else if (key === "=" && state.mode === "rank") tie();
  else if (state.mode === "rank" && letter >= 0 && letter < row.answers.length) choose(letter);
  else if (state.mode === "rank" && digit && digit <= row.answers.length) choose(digit - 1);
  else if (state.mode === "rate" && digit && digit <= state.highest) give(current, digit);
  else if (state.mode === "rate" && letter >= 0 && letter < row.answers.length) { current = letter; refresh(); }
  else if (state.mode === "rate" && key === "ArrowDown") { current = Math.min(current + 1, row.answers.length - 1); refresh(); }
  else if (state.mode === "rate" && key === "ArrowUp") { current = Math.max(current - 1, 0); refresh(); }
  else return;
  event.preventDefault();
}

at("save").addEventListener("click", save);
at("clear").addEventListener("click", clear);
at("tie").addEventListener("click", tie);
at("skip").addEventListener("click", () => move(1));
at("back").addEventListener("click", () => move(-1));
document.addEventListener("keydown", press);
ask("state").then((found) => { state = found; showProgress(); return open(nextOpen(-1)); }).catch(failed);
