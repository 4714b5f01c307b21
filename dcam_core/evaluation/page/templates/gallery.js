// The words behind a number, sorted by it, with the spread of their scores.
const AT_ONCE = 24, BINS = 24, AROUND = 22;
const gallery = page.querySelector(".behind"), tiles = gallery.querySelector(".tiles");
const more = gallery.querySelector(".more"), bars = gallery.querySelector(".bars");
const controls = {
  order: gallery.querySelector("[name=order]"), text: gallery.querySelector("[name=text]"),
  pictured: gallery.querySelector("[name=pictured]"),
};
// What is shown: a number (kind, method, metric), its words with values, and of these the ones that were asked for.
const shown = { kind: "mean", method: 0, metric: 0, all: [], words: [], bin: null, count: 0, bins: [] };

const valueOf = (word, { kind, method, metric } = shown) =>
  score(method, metric, word) - (kind === "difference" ? score(0, metric, word) : 0);

const showNumber = (kind, method, metric) => {
  Object.assign(shown, { kind, method, metric, bin: null });
  shown.all = data.words.map((_, word) => word).filter((word) => Number.isFinite(valueOf(word)));
  const sign = data.metrics[metric].higher ? 1 : -1;
  shown.all.sort((a, b) => sign * (valueOf(a) - valueOf(b)) || a - b);
  for (const link of page.querySelectorAll("table.numbers a[aria-current]")) link.removeAttribute("aria-current");
  page.querySelector(`a[href="#${kind}-${method}-${metric}"]`)?.setAttribute("aria-current", "true");
  const [name, against] = [data.methods[method], kind === "difference" ? ` minus ${data.methods[0]}` : ""];
  gallery.querySelector("h2").textContent = `${name}${against}: ${data.metrics[metric].name}`;
  const mean = shown.all.reduce((sum, word) => sum + valueOf(word), 0) / shown.all.length;
  const without = data.words.length - shown.all.length;
  gallery.querySelector(".about").textContent =
    `${shown.all.length} word${shown.all.length === 1 ? "" : "s"}, ` +
    `mean ${written(mean, kind === "difference")}` + (without ? `; ${without} without this score.` : ".");
  drawBars(mean);
  list();
};

const drawBars = (mean) => {
  const values = shown.all.map((word) => valueOf(word));
  let low = values.reduce((least, value) => Math.min(least, value), 0);
  let high = values.reduce((most, value) => Math.max(most, value), 0);
  if (shown.kind === "difference") [low, high] = [-Math.max(-low, high), Math.max(-low, high)];
  else if (high <= 1) high = 1;
  if (low === high) [low, high] = [low - 1, high + 1];
  const width = (high - low) / BINS;
  const binOf = (value) => Math.min(BINS - 1, Math.max(0, Math.floor((value - low) / width)));
  shown.bins = Array.from({ length: BINS }, () => []);
  shown.all.forEach((word) => shown.bins[binOf(valueOf(word))].push(word));
  const most = Math.max(1, ...shown.bins.map((words) => words.length));
  bars.replaceChildren(...shown.bins.map((words, bin) => {
    const bar = document.createElement("button");
    const from = written(low + bin * width), to = written(low + (bin + 1) * width);
    bar.type = "button";
    bar.disabled = words.length === 0;
    bar.style.setProperty("--share", `${(100 * words.length) / most}%`);
    bar.title = `${words.length} word${words.length === 1 ? "" : "s"} from ${from} to ${to}`;
    bar.setAttribute("aria-label", bar.title);
    bar.setAttribute("aria-pressed", "false");
    bar.addEventListener("click", () => {
      shown.bin = shown.bin === bin ? null : bin;
      list();
    });
    return bar;
  }));
  const ends = gallery.querySelectorAll(".ends span");
  [low, (low + high) / 2, high].forEach((value, place) => (ends[place].textContent = written(value, shown.kind === "difference")));
  const line = gallery.querySelector(".mean");
  line.hidden = !shown.all.length;
  line.style.left = `${(100 * (mean - low)) / (high - low)}%`;
};

// Applies order and filters, and shows the first tiles.
const list = () => {
  const wanted = controls.text.value.trim().toLowerCase();
  const bin = shown.bin === null ? null : new Set(shown.bins[shown.bin]);
  [...bars.children].forEach((bar, place) => bar.setAttribute("aria-pressed", String(place === shown.bin)));
  shown.words = shown.all.filter((word) => {
    const { text, named, drawn } = data.words[word];
    return (!bin || bin.has(word)) && (!controls.pictured.checked || drawn) &&
      (!wanted || `${text} ${named}`.toLowerCase().includes(wanted));
  });
  if (controls.order.value === "best") shown.words.reverse();
  if (controls.order.value === "middle") {
    const middle = valueOf(shown.all[Math.floor(shown.all.length / 2)]);
    shown.words.sort((a, b) => Math.abs(valueOf(a) - middle) - Math.abs(valueOf(b) - middle) || a - b);
  }
  if (controls.order.value === "data") shown.words.sort((a, b) => a - b);
  tiles.replaceChildren();
  tiles.classList.toggle("pairs", shown.kind === "difference");
  shown.count = 0;
  showMore();
};

const showMore = () => {
  const next = shown.words.slice(shown.count, shown.count + AT_ONCE);
  tiles.append(...next.map(tile));
  shown.count += next.length;
  const left = shown.words.length - shown.count;
  more.hidden = left === 0;
  more.textContent = `Show ${Math.min(AT_ONCE, left)} more of ${left}`;
  gallery.querySelector(".found").textContent = shown.words.length === shown.all.length ? "" :
    `${shown.words.length} of ${shown.all.length} words`;
  return next.length;
};

const tile = (number) => {
  const word = data.words[number], made = cloned("tile"), link = made.querySelector("a");
  const value = valueOf(number);
  link.href = `#${shown.kind}-${shown.method}-${shown.metric}-word-${number}`;
  const methods = shown.kind === "difference" ? [shown.method, 0] : [shown.method];
  if (word.drawn) made.querySelector(".stages").append(...methods.map((method) => stage(number, method)));
  else made.querySelector(".stages").textContent = "no picture in this page";
  made.querySelector("strong").textContent = word.text;
  made.querySelector(".value").textContent = written(value, shown.kind === "difference");
  const pair = methods.map((method) => written(score(method, shown.metric, number)));
  made.querySelector(".named").textContent = shown.kind === "difference" ? `${pair[0]}; ${data.methods[0]}: ${pair[1]}` : "";
  made.querySelector(".said").append(...inAnswer(word, AROUND));
  return made;
};

for (const control of Object.values(controls)) control.addEventListener("input", list);
controls.pictured.closest("label").hidden = data.words.every((word) => word.drawn) || !data.words.some((word) => word.drawn);
controls.pictured.checked = data.words.some((word) => word.drawn);
gallery.querySelector("[name=strength]").addEventListener("input", (event) =>
  page.style.setProperty("--strength", event.target.value / 100));
gallery.querySelector("[name=outline]").addEventListener("input", (event) =>
  page.classList.toggle("bare", !event.target.checked));
more.addEventListener("click", () => {
  const before = tiles.children.length;
  showMore();
  tiles.children[before]?.querySelector("a").focus();
});
