// The page of a translation server: sends lines of text and shows their translations.
//
// It uses only TensorFlow Serving's REST interface, so it works with any server that serves an export:
// `?server=http://host:8501&model=NAME` chooses a server other than the page's own. Answers enter the
// page as text (textContent), never as HTML.

const TYPING_PAUSE = 450; // milliseconds from the last key until the text is sent
const LONGEST_TYPED = 1500; // characters; longer texts are sent with the button only
const BUSY_AFTER = 200; // milliseconds until the page shows that it is waiting
const PATIENCE = 60_000; // milliseconds until a request fails
const NO_HYPOTHESIS = -1e8; // entries that only fill up a short list have scores below this
const MOST_COMPARED = 250_000; // word pairs in a comparison of two hypotheses
const BLANK = /^[\s\x1c-\x1f\x85\u200b]*$/; // the lines that an export treats as blank
const SPACE = "\u2581"; // SentencePiece's space
const MEAN = -1; // instead of a head's number

const part = (id) => document.getElementById(id);

const server = { base: null, own: true, model: null, ready: null };
const state = { lines: [], line: 0, head: MEAN, target: 0, source: null };

class Failure extends Error {
  constructor(title, text, { away = false } = {}) {
    super(title);
    this.text = text;
    this.away = away; // whether no usable model answers at the address
  }
}

// --- the server ----------------------------------------------------------------------------------

function serverOfAddress() {
  const asked = new URLSearchParams(location.search);
  const model = asked.get("model")?.trim() || null;
  const address = asked.get("server")?.trim();
  if (!address) return { base: new URL(".", location.href), own: true, model };
  let base = null;
  try {
    base = new URL(address);
  } catch {
    // Reported below, like all other unusable addresses.
  }
  if (!["http:", "https:"].includes(base?.protocol) || base.username || base.password) {
    throw new Failure(
      "This server address can't be used",
      `The server must be an address like http://localhost:8501. Received: ${address}`,
    );
  }
  base.search = base.hash = "";
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const own = base.origin === location.origin;
  if (!model && !own) {
    throw new Failure(
      "Which model?",
      "To use another server, add &model=NAME to this page's address.",
    );
  }
  return { base, own, model };
}

async function connect() {
  Object.assign(server, { base: null, model: null }, serverOfAddress());
  if (!server.model) {
    const { model } = await ask(new URL("page.json", server.base));
    if (typeof model !== "string" || !model) {
      throw new Failure("The server does not name a model", "page.json must be {\"model\": NAME}.");
    }
    server.model = model;
  }
  await showVersion();
}

const modelAddress = (ending = "") =>
  new URL(`v1/models/${encodeURIComponent(server.model)}${ending}`, server.base);

async function showVersion() {
  const { model_version_status: versions } = await ask(modelAddress());
  if (!Array.isArray(versions)) throw unexpected("a model's status must list its versions");
  const available = versions.filter((version) => version.state === "AVAILABLE");
  const newest = available.map((version) => Number(version.version)).sort((a, b) => b - a)[0];
  document.title = `Translate · ${server.model}`;
  const place = server.own ? "" : ` at ${server.base.host}`;
  if (newest === undefined) {
    const told = versions.map(({ version, state }) => `version ${version} is ${state}`).join(", ");
    const text = `${told || "It has no versions"}.`;
    throw new Failure(`The model ${server.model} is not ready`, text, { away: true });
  }
  showServer("ready", `${server.model}, version ${newest}${place}`);
}

function showServer(light, text) {
  document.documentElement.dataset.server = light;
  part("server-state").textContent = text;
}

async function predict(signature, inputs, signal) {
  const body = { signature_name: signature, inputs };
  const { outputs } = await ask(modelAddress(":predict"), { body, signal });
  return outputs ?? {};
}

async function ask(address, { body, signal } = {}) {
  const tooLate = AbortSignal.timeout(PATIENCE);
  const options = {
    signal: signal ? AbortSignal.any([signal, tooLate]) : tooLate,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  };
  if (body) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    // Requests to another host keep fetch's default type for strings. With JSON, the browser would send
    // a preflight OPTIONS request first. TensorFlow Serving ignores the type.
    if (address.origin === location.origin) options.headers = { "Content-Type": "application/json" };
  }
  let response;
  let text;
  try {
    response = await fetch(address, options);
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (tooLate.aborted) {
      const seconds = PATIENCE / 1000;
      throw new Failure("No answer", `${address.origin} did not answer within ${seconds} seconds.`, { away: true });
    }
    const other = address.origin === location.origin ? "" :
      " It must also accept pages from other sites. Start TensorFlow Serving with" +
      ` --rest_api_enable_cors_support=true, or training.serve with --cors-origins=${location.origin}.`;
    throw new Failure("The server can't be reached", `Nothing at ${address.origin} answers. Is it running?${other}`, { away: true });
  }
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // The answer may come from a proxy, whose errors are not JSON.
  }
  if (!response.ok || answer?.error !== undefined) {
    const told = typeof answer?.error === "string" ? answer.error : text.slice(0, 2000);
    throw new Failure(`The server answered with an error (${response.status})`, told);
  }
  if (answer === null || typeof answer !== "object") throw unexpected("answers must be JSON objects");
  return answer;
}

const unexpected = (rule) =>
  new Failure("Unexpected answer", `This does not look like a server of this project's exports: ${rule}.`);

// --- translating ---------------------------------------------------------------------------------

const sourceField = part("source");
let timer = null;
let translating = new AbortController();
let sent = null; // the text of the last request, unless it was given up

function typed() {
  const text = sourceField.value;
  showSize(text);
  clearTimeout(timer);
  if (BLANK.test(text)) {
    giveUp();
    showLines([]);
    hideAlarm();
    return;
  }
  if (text === sent) return;
  giveUp(); // the running request is for an old text
  if (text.length <= LONGEST_TYPED) timer = setTimeout(translate, TYPING_PAUSE);
}

function giveUp() {
  translating.abort();
  sent = null;
  showBusy(false);
}

async function translate() {
  clearTimeout(timer);
  const text = sourceField.value;
  if (BLANK.test(text)) return;
  translating.abort();
  translating = new AbortController();
  const { signal } = translating;
  sent = text;
  const busy = setTimeout(() => showBusy(true), BUSY_AFTER);
  try {
    await (server.ready ?? start());
    const started = performance.now();
    const lines = await bestTranslations(text, signal);
    if (signal.aborted) return;
    hideAlarm();
    showLines(lines);
    showTime(lines, performance.now() - started);
    if (document.documentElement.dataset.server !== "ready") await showVersion();
  } catch (failure) {
    if (signal.aborted) return;
    sent = null;
    showAlarm(failure);
    if (failure.away) part("result-note").textContent = "";
  } finally {
    clearTimeout(busy);
    if (!signal.aborted) showBusy(false);
  }
}

async function bestTranslations(text, signal) {
  // A textarea can hold half of a surrogate pair, which is not valid Unicode.
  const sources = text.split("\n").map((line) => line.toWellFormed?.() ?? line);
  const asked = sources.filter((line) => !BLANK.test(line));
  const { translations, scores } = await predict("n_best", { text: asked }, signal);
  if (translations?.length !== asked.length || scores?.length !== asked.length) {
    throw unexpected("n_best must return translations and scores, with a row for each text");
  }
  const rows = translations.map((texts, row) => hypotheses(texts, scores[row]));
  return sources.map((source) => ({ source, chosen: 0, hypotheses: BLANK.test(source) ? [] : rows.shift() }));
}

function hypotheses(texts, scores) {
  const all = texts.map((text, n) => ({ text: String(text), score: Number(scores[n]), attention: null }));
  const found = all.filter(({ score }, n) => n === 0 || score > NO_HYPOTHESIS);
  // Earlier exports repeat a text that the search found in several token sequences.
  return found.filter(({ text }, n) => found.findIndex((better) => better.text === text) === n);
}

const chosenOf = (line) => line?.hypotheses[line.chosen];

// --- showing texts -------------------------------------------------------------------------------

function showSize(text) {
  part("source").lang = languageOf(text);
  const blank = BLANK.test(text);
  part("translate").disabled = blank;
  part("clear").disabled = text === "";
  const numLines = text.split("\n").length;
  const size = `${counted(numLines, "line")}, ${counted([...text].length, "character")}`;
  const long = text.length > LONGEST_TYPED ? ". Press Translate to send a long text" : "";
  part("source-note").textContent = text === "" ? "" : size + long;
}

function counted(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

function showBusy(busy) {
  part("result").setAttribute("aria-busy", String(busy));
  if (busy) part("result-note").textContent = "Translating…";
  else if (part("result-note").textContent === "Translating…") part("result-note").textContent = "";
}

function showTime(lines, milliseconds) {
  const numTexts = lines.filter((line) => line.hypotheses.length).length;
  const time = milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
  part("result-note").textContent = `${counted(numTexts, "line")} in ${time}`;
  const all = lines.map((line) => chosenOf(line)?.text ?? "").join("\n").trim();
  part("announcer").textContent = `Translated: ${all.slice(0, 300)}`;
}

function showLines(lines) {
  const texts = lines.filter((line) => line.hypotheses.length);
  state.lines = lines;
  if (!chosenOf(lines[state.line])) state.line = Math.max(0, lines.indexOf(texts[0]));
  part("copy").disabled = texts.length === 0;
  part("lines").classList.toggle("several", texts.length > 1);
  part("lines").replaceChildren(...lines.map((line, number) => lineElement(line, number, texts.length > 1)));
  if (!lines.length) {
    part("lines").append(made("p", "empty", "The translation appears here as you type."));
    part("result-note").textContent = part("announcer").textContent = "";
  }
  showHypotheses();
}

// Languages that can be told by their script. Browsers choose fonts and voices by language.
const SCRIPTS = {
  ko: /\p{Script=Hangul}/u,
  ja: /[\p{Script=Hiragana}\p{Script=Katakana}]/u,
  zh: /\p{Script=Han}/u,
};
const languageOf = (text) => Object.keys(SCRIPTS).find((name) => SCRIPTS[name].test(text)) ?? "";
const asText = (element, text) => Object.assign(element, { dir: "auto", lang: languageOf(text) });

function lineElement(line, number, choice) {
  const text = chosenOf(line)?.text ?? "";
  if (!choice || !line.hypotheses.length) {
    return asText(made("p", "line", text), text);
  }
  const input = radio("line", number === state.line, () => {
    state.line = number;
    showHypotheses();
  });
  const label = made("label", "line");
  label.append(input, made("span", "text", text));
  return asText(label, text);
}

function showHypotheses() {
  const line = state.lines[state.line];
  part("hypotheses").hidden = !chosenOf(line);
  state.target = 0;
  state.source = null;
  if (chosenOf(line)) {
    const best = line.hypotheses[0];
    part("hypotheses-list").replaceChildren(...line.hypotheses.map((one, n) => hypothesisElement(line, one, n, best)));
  }
  showAttention();
}

// A score is a log-probability divided by the length penalty. Neither it nor a difference of two scores
// is a probability, so the page shows no percentages and no odds, which would be read as confidence.
function hypothesisElement(line, hypothesis, n, best) {
  const input = radio("hypothesis", n === line.chosen, () => {
    line.chosen = n;
    const shown = part("lines").children[state.line];
    (shown.querySelector(".text") ?? shown).textContent = hypothesis.text;
    state.target = 0;
    state.source = null;
    showAttention();
  });
  const words = asText(made("span", "words"), hypothesis.text);
  words.append(...withDifference(hypothesis.text, best.text));
  const bar = made("span", "bar");
  bar.style.setProperty("--closeness", Math.exp(Math.min(0, hypothesis.score - best.score)));
  bar.setAttribute("aria-hidden", "true"); // the words after it say the same
  const score = made("span", "score", `score ${hypothesis.score.toFixed(3).replace("-", "\u2212")}`);
  const label = made("label", "hypothesis");
  label.append(input, made("span", "rank", String(n + 1)), words, bar, score, made("span", "gap", gapInWords(n, hypothesis, best)));
  const item = document.createElement("li");
  item.role = "presentation";
  item.append(label);
  return item;
}

function gapInWords(n, hypothesis, best) {
  if (n === 0) return "best";
  const gap = (best.score - hypothesis.score).toFixed(3);
  return Number(gap) <= 0 ? "level with the best" : `${gap} below the best`;
}

// Marks the words that differ from the best translation.
function withDifference(text, best) {
  const [words, others] = [text.split(/\s+/), best.split(/\s+/)];
  const kept = words.length * others.length > MOST_COMPARED ? null : inCommon(words, others);
  const parts = words.flatMap((word, n) => {
    const gap = n ? [" "] : [];
    return [...gap, !kept || kept.has(n) || !word ? word : made("mark", "", word)];
  });
  return text ? parts : ["(empty)"];
}

// The indices in `words` of the longest common subsequence of both lists.
function inCommon(words, others) {
  const longest = Array.from({ length: words.length + 1 }, () => new Uint16Array(others.length + 1));
  for (let i = words.length - 1; i >= 0; i--) {
    for (let j = others.length - 1; j >= 0; j--) {
      const skipped = Math.max(longest[i + 1][j], longest[i][j + 1]);
      longest[i][j] = words[i] === others[j] ? longest[i + 1][j + 1] + 1 : skipped;
    }
  }
  const kept = new Set();
  for (let i = 0, j = 0; i < words.length && j < others.length; ) {
    if (words[i] === others[j]) {
      kept.add(i++);
      j++;
    } else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  return kept;
}

const percent = (share) => `${Math.round(share * 100)}\u202f%`;

function made(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function radio(name, checked, chosen) {
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name, checked });
  input.addEventListener("change", chosen);
  return input;
}

// --- attention -----------------------------------------------------------------------------------

let reading = new AbortController();

async function showAttention() {
  reading.abort();
  const line = state.lines[state.line];
  const hypothesis = chosenOf(line);
  part("attention").hidden = !hypothesis;
  if (!hypothesis) return;
  if (!hypothesis.attention) {
    reading = new AbortController();
    const { signal } = reading;
    part("attention").setAttribute("aria-busy", "true");
    try {
      const answer = await predict("attention", { source: [line.source], target: [hypothesis.text] }, signal);
      if (signal.aborted) return;
      hypothesis.attention = attentionOf(answer);
    } catch (failure) {
      if (signal.aborted) return;
      showNoAttention(failure);
      return;
    }
  }
  drawAttention(hypothesis.attention);
}

function showNoAttention(failure) {
  part("attention").setAttribute("aria-busy", "false");
  part("attention-shown").hidden = true;
  part("attention-note").textContent = `Not available. ${failure.message}: ${failure.text ?? ""}`;
}

const EXPLANATION = part("attention-note").textContent.replace(/\s+/g, " ");

// Float (batch, heads, target_length, source_length) of one pair becomes a matrix for each head.
function attentionOf({ source_tokens: sources, target_tokens: targets, weights }) {
  const [source, target] = [tokensOf(sources?.[0]), tokensOf(targets?.[0])];
  const heads = weights?.[0]?.map((rows) => matrix(rows, target.length, source.length));
  if (!heads?.length || !source.length || !target.length) {
    throw unexpected("attention must return source_tokens, target_tokens and weights");
  }
  const mean = new Float32Array(target.length * source.length);
  for (const head of heads) head.forEach((weight, at) => (mean[at] += weight / heads.length));
  return { source, target, heads, mean };
}

function matrix(rows, height, width) {
  const cells = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) cells[y * width + x] = rows[y]?.[x] ?? 0;
  }
  return cells;
}

// Returns pieces as people read them: `text` is shown in a sentence; `label` alone, with "+" if the
// piece continues a word; `odd` pieces have a name instead of a text.
function tokensOf(pieces) {
  const filled = (pieces ?? []).map(String);
  while (filled.at(-1) === "") filled.pop(); // padding
  return filled.map((piece, n) => {
    const before = (filled[n - 1] ?? "").replaceAll(SPACE, " ");
    const whole = piece.replaceAll(SPACE, " ");
    const special = { "</s>": "end", "<s>": "start", "<unk>": "unknown", "<pad>": "padding" }[piece];
    const text = special ?? (whole.trim() || "␣".repeat(whole.length));
    const odd = special !== undefined || /^<0x[0-9A-F]{2}>$/.test(piece) || whole.trim() === "";
    const goesOn = !odd && /[\p{L}\p{N}]$/u.test(before) && /^[\p{L}\p{N}]/u.test(whole);
    const first = n > 0 && (special !== undefined || whole.startsWith(" ") || before.endsWith(" "));
    return { text, odd, first, label: goesOn ? `+${text}` : text };
  });
}

const shownAttention = () => chosenOf(state.lines[state.line])?.attention;
const cellsOf = (attention, head) => (head === MEAN ? attention.mean : attention.heads[head]);
const headName = (attention, head) =>
  head === MEAN ? `mean of ${counted(attention.heads.length, "head")}` : `head ${head + 1}`;

function drawAttention(attention) {
  part("attention").setAttribute("aria-busy", "false");
  part("attention-shown").hidden = false;
  part("attention-note").textContent = EXPLANATION;
  if (state.head >= attention.heads.length) state.head = MEAN;
  part("target-tokens").replaceChildren(...attention.target.map(targetButton));
  part("source-tokens").replaceChildren(...attention.source.map(sourceElement));
  for (const name of ["target-tokens", "map-rows"]) part(name).lang = languageOfTokens(attention.target);
  for (const name of ["source-tokens", "map-columns"]) part(name).lang = languageOfTokens(attention.source);
  part("map-columns").replaceChildren(...attention.source.map(axisLabel));
  part("map-rows").replaceChildren(...attention.target.map(axisLabel));
  drawHeads(attention);
  fitMap();
  showHead();
}

const languageOfTokens = (tokens) => languageOf(tokens.map((token) => token.text).join(""));

function tokenElement(tag, token) {
  const element = made(tag, "token", token.text);
  element.classList.toggle("first", token.first);
  element.classList.toggle("odd", token.odd);
  return element;
}

function targetButton(token, n) {
  const button = tokenElement("button", token);
  button.type = "button";
  button.addEventListener("focus", () => pointAt(n));
  button.addEventListener("click", () => pointAt(n));
  button.addEventListener("pointerover", () => pointAt(n));
  return button;
}

function sourceElement(token) {
  const element = tokenElement("span", token);
  element.role = "listitem";
  element.append(document.createElement("small"));
  return element;
}

function axisLabel(token) {
  const element = made("span", "", token.label);
  element.dir = "auto";
  return element;
}

function drawHeads(attention) {
  const choices = [MEAN, ...attention.heads.keys()].map((head) => {
    const input = radio("head", head === state.head, () => {
      state.head = head;
      showHead();
    });
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    paint(canvas, attention, head);
    const label = made("label", "head");
    label.append(input, canvas, made("span", "", head === MEAN ? "Mean" : `Head ${head + 1}`));
    return label;
  });
  part("heads-list").replaceChildren(...choices);
}

function showHead() {
  const attention = shownAttention();
  paint(part("map-canvas"), attention, state.head);
  const name = headName(attention, state.head);
  part("map-caption").textContent = `Down: the translation. Across: the text. Shown: ${name}.`;
  fillNumbers();
  pointAt(state.target, state.source);
}

function pointAt(target, source = null) {
  const attention = shownAttention();
  if (!attention) return;
  Object.assign(state, { target, source });
  const width = attention.source.length;
  const weights = cellsOf(attention, state.head).subarray(target * width, (target + 1) * width);
  [...part("target-tokens").children].forEach((button, n) => {
    button.setAttribute("aria-pressed", String(n === target));
    button.tabIndex = n === target ? 0 : -1;
  });
  [...part("source-tokens").children].forEach((element, n) => {
    element.style.setProperty("--weight", weights[n].toFixed(3));
    element.lastChild.textContent = weights[n] >= 0.05 ? Math.round(weights[n] * 100) : "";
  });
  markMap(target, source);
  part("reading").textContent = inWords(attention, weights);
}

function inWords(attention, weights) {
  const { target, source, head } = state;
  const name = headName(attention, head);
  const written = quoted(attention.target[target]);
  if (source !== null) {
    return `For ${written}, ${quoted(attention.source[source])} has the weight ${weights[source].toFixed(3)} (${name}).`;
  }
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 4);
  const read = order.filter((n) => weights[n] >= 0.01);
  const list = read.map((n) => `${quoted(attention.source[n])} ${percent(weights[n])}`).join(", ");
  return `${written} attends to ${list} (${name}).`;
}

// U+2068 and U+2069 keep a right-to-left piece from reordering the sentence around it.
const quoted = (token) => (token.odd ? `\u2068${token.text}\u2069` : `“\u2068${token.text}\u2069”`);

// --- the heat map --------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const mapBox = part("map-box");
const mapCells = part("map-cells");
let ramp = readRamp();

// Red, green and blue of 256 weights, interpolated between the colors in page.css.
function readRamp() {
  const style = getComputedStyle(document.documentElement);
  const stops = [0, 1, 2, 3, 4].map((n) => {
    const color = parseInt(style.getPropertyValue(`--heat-${n}`).trim().slice(1), 16);
    return [color >> 16, (color >> 8) & 255, color & 255];
  });
  return Array.from({ length: 256 }, (_, step) => {
    const at = (step / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((value, c) => value + (stops[low + 1][c] - value) * (at - low));
  });
}

// Draws one pixel per cell, which CSS enlarges: drawing costs the same at any size.
function paint(canvas, attention, head) {
  const [width, height] = [attention.source.length, attention.target.length];
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  cellsOf(attention, head).forEach((weight, at) => {
    const step = Math.round(255 * Math.min(1, Math.max(0, weight)));
    image.data.set([...ramp[step], 255], 4 * at);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function fitMap() {
  const attention = shownAttention();
  if (!attention) return;
  const [columns, rows] = [attention.source.length, attention.target.length];
  const map = part("map");
  const room = Math.floor((mapBox.offsetWidth - part("map-rows").offsetWidth - 24) / columns);
  const small = Math.max(columns, rows) > 80;
  const cell = small ? clamp(room, 5, 15) : clamp(room, 16, 32);
  map.classList.toggle("dense", cell < 14);
  map.style.setProperty("--cell", `${cell}px`);
  map.style.setProperty("--columns", columns);
  map.style.setProperty("--rows", rows);
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

function markMap(target, source) {
  const along = (n) => `calc(var(--cell) * ${n})`;
  part("map-row-mark").style.top = along(target);
  const mark = part("map-cell-mark");
  mark.hidden = source === null;
  mark.style.top = along(target);
  mark.style.left = along(source ?? 0);
  [...part("map-rows").children].forEach((label, n) => label.classList.toggle("near", n === target));
  [...part("map-columns").children].forEach((label, n) => label.classList.toggle("near", n === source));
}

function pointedCell(event) {
  const attention = shownAttention();
  const { left, top, width, height } = mapCells.getBoundingClientRect();
  const column = Math.floor(((event.clientX - left) / width) * attention.source.length);
  const row = Math.floor(((event.clientY - top) / height) * attention.target.length);
  return [clamp(row, 0, attention.target.length - 1), clamp(column, 0, attention.source.length - 1)];
}

mapCells.addEventListener("pointermove", (event) => {
  const [target, source] = pointedCell(event);
  if (target !== state.target || source !== state.source) pointAt(target, source);
});
mapCells.addEventListener("pointerleave", () => pointAt(state.target));
mapBox.addEventListener("focus", () => pointAt(state.target, state.source ?? 0));
mapBox.addEventListener("blur", () => pointAt(state.target));
mapBox.addEventListener("keydown", (event) => {
  const attention = shownAttention();
  const last = { target: attention.target.length - 1, source: attention.source.length - 1 };
  const { target, source } = { target: state.target, source: state.source ?? 0 };
  const moves = {
    ArrowUp: [target - 1, source],
    ArrowDown: [target + 1, source],
    ArrowLeft: [target, source - 1],
    ArrowRight: [target, source + 1],
    Home: [target, 0],
    End: [target, last.source],
  };
  if (!moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const [row, column] = moves[event.key];
  pointAt(clamp(row, 0, last.target), clamp(column, 0, last.source));
  part("map-cell-mark").scrollIntoView({ block: "nearest", inline: "nearest" });
});
part("target-tokens").addEventListener("keydown", (event) => {
  const buttons = [...part("target-tokens").children];
  const onwards = getComputedStyle(part("target-tokens")).direction === "rtl" ? -1 : 1;
  const moves = {
    ArrowRight: state.target + onwards,
    ArrowLeft: state.target - onwards,
    Home: 0,
    End: buttons.length - 1,
  };
  if (moves[event.key] === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  buttons[clamp(moves[event.key], 0, buttons.length - 1)].focus();
});

new ResizeObserver(fitMap).observe(mapBox);
dark.addEventListener("change", () => {
  ramp = readRamp();
  if (shownAttention()) drawAttention(shownAttention());
});

// --- the table -----------------------------------------------------------------------------------

// Fills the table only while it is open: 60 by 60 pieces are 3,600 cells.
function fillNumbers() {
  const attention = shownAttention();
  if (!part("numbers").open || !attention) {
    part("numbers-box").replaceChildren();
    return;
  }
  const cells = cellsOf(attention, state.head);
  const width = attention.source.length;
  const table = document.createElement("table");
  const name = headName(attention, state.head);
  table.createCaption().textContent = `Attention weights, ${name}, with a row for each piece of the translation.`;
  const head = table.createTHead().insertRow();
  const sourceLanguage = languageOfTokens(attention.source);
  const targetLanguage = languageOfTokens(attention.target);
  head.append(heading("", "col"), ...attention.source.map((token) => heading(token.label, "col", sourceLanguage)));
  const body = table.createTBody();
  attention.target.forEach((token, n) => {
    const row = body.insertRow();
    row.append(heading(token.label, "row", targetLanguage));
    for (const weight of cells.subarray(n * width, (n + 1) * width)) {
      row.insertCell().textContent = weight.toFixed(2);
    }
  });
  part("numbers-box").replaceChildren(table);
}

function heading(text, scope, lang = "") {
  const element = made("th", "", text);
  return Object.assign(element, { scope, lang, dir: "auto" });
}

// --- alarms, buttons, the start ------------------------------------------------------------------

function showAlarm(failure) {
  part("alarm-title").textContent = failure.message;
  part("alarm-text").textContent = failure.text ?? String(failure.stack);
  part("alarm").hidden = false;
  if (failure.away) showServer("away", server.model ? `${server.model}: no answer` : "No server");
}

function hideAlarm() {
  part("alarm").hidden = true;
}

function start() {
  showServer("asked", "Connecting…");
  server.ready = connect();
  // Handled here, to show an error before anything is typed; translate() gets the same error.
  server.ready.then(hideAlarm, (failure) => {
    server.ready = null; // the next translation tries again
    showAlarm(failure);
    if (!failure.away) showServer("away", "No model");
  });
  return server.ready;
}

async function copy() {
  const text = state.lines.map((line) => chosenOf(line)?.text ?? "").join("\n");
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copied = copyBySelection(text); // browsers allow the clipboard on https and localhost only
  }
  part("copy").textContent = copied ? "Copied" : "Not allowed";
  part("announcer").textContent = copied ? "Copied" : "The browser did not allow copying";
  setTimeout(() => (part("copy").textContent = "Copy"), 1500);
}

function copyBySelection(text) {
  const field = made("textarea", "unseen");
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  part("copy").focus();
  return copied;
}

sourceField.addEventListener("input", (event) => {
  if (!event.isComposing) typed();
});
sourceField.addEventListener("compositionend", typed);
sourceField.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    translate();
  }
});
part("translate").addEventListener("click", translate);
part("clear").addEventListener("click", () => {
  sourceField.value = "";
  sourceField.focus();
  typed();
});
part("copy").addEventListener("click", copy);
part("retry").addEventListener("click", () => {
  hideAlarm();
  if (BLANK.test(sourceField.value)) start();
  else translate();
});
part("numbers").addEventListener("toggle", fillNumbers);
part("server-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) if (value.trim()) asked.set(name, value.trim());
  location.search = asked.toString();
});
document.addEventListener("visibilitychange", () => {
  // The server may have another version by now.
  if (!document.hidden && server.model) showVersion().catch(showAlarm);
});

const asked = new URLSearchParams(location.search);
part("server-address").value = asked.get("server") ?? "";
part("server-model").value = asked.get("model") ?? "";
start();
typed(); // the browser restores the text when the user goes back
