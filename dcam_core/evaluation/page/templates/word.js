// One word: the maps of all methods side by side, and all of its scores.
const dialog = page.querySelector("dialog");
let current = null;

const showWord = (number) => {
  const word = data.words[number], sample = data.samples[word.sample];
  current = number;
  const place = shown.words.indexOf(number);
  dialog.querySelector("h2").textContent = word.text;
  dialog.querySelector(".place").textContent = place < 0 ? "" : `${place + 1} of ${shown.words.length}`;
  dialog.querySelector(".answer").replaceChildren(...inAnswer(word, Infinity));
  const facts = [["Sample", sample.key]];
  if (word.named) facts.push(["Names", word.named]);
  if (word.probability !== null) facts.push(["Probability when decided", word.probability.toFixed(3)]);
  if (word.reliance !== null) facts.push(["Visual reliance", `${written(word.reliance)} nats`]);
  dialog.querySelector("dl").replaceChildren(...facts.map(([name, value]) => {
    const fact = cloned("fact");
    fact.querySelector("dt").textContent = name;
    fact.querySelector("dd").textContent = value;
    return fact;
  }));
  dialog.querySelector(".methods").replaceChildren(...data.methods.map((_, method) => beside(number, method)));
  dialog.querySelector(".measure").textContent = data.metrics[shown.metric].name;
  fillScores(number);
  for (const [name, step] of [["previous", -1], ["next", 1]])
    dialog.querySelector(`.${name}`).disabled = shown.words[place + step] === undefined || place < 0;
  if (!dialog.open) {
    dialog.showModal();
    dialog.querySelector(".next:enabled, .close").focus();
  }
  dialog.scrollTop = 0;
};

const beside = (number, method) => {
  const made = cloned("beside");
  if (data.words[number].drawn) made.querySelector(".stages").append(stage(number, method));
  else made.querySelector(".stages").textContent = "no picture in this page";
  made.classList.toggle("chosen", method === shown.method);
  made.querySelector("strong").textContent = data.methods[method];
  made.querySelector(".value").textContent = written(score(method, shown.metric, number));
  return made;
};

const fillScores = (number) => {
  const rows = data.methods.map((name, method) => {
    const row = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head, ...data.metrics.map((_, metric) => {
      const cell = document.createElement("td");
      cell.textContent = written(score(method, metric, number));
      cell.classList.toggle("chosen", method === shown.method && metric === shown.metric);
      return cell;
    }));
    return row;
  });
  dialog.querySelector("tbody").replaceChildren(...rows);
};

const goToWord = (number) => {
  history.replaceState(null, "", `#${shown.kind}-${shown.method}-${shown.metric}-word-${number}`);
  showWord(number);
};
const step = (by) => {
  const next = shown.words[shown.words.indexOf(current) + by];
  if (next === undefined) return;
  while (shown.words.indexOf(next) >= shown.count) showMore();
  goToWord(next);
};
// A word is a closer look and no place to go back to; its link is for opening it elsewhere.
tiles.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  goToWord(Number(link.hash.split("-").at(-1)));
});
dialog.querySelector(".previous").addEventListener("click", () => step(-1));
dialog.querySelector(".next").addEventListener("click", () => step(1));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.target.closest(".scroll")) return; // there the arrows scroll
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
dialog.addEventListener("close", () => {
  history.replaceState(null, "", `#${shown.kind}-${shown.method}-${shown.metric}`);
  // Back to the tile of the word that was looked at last, which need not be the one that was opened.
  tiles.querySelector(`a[href$="-word-${current}"]`)?.focus();
});
