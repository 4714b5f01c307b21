// Addresses: #mean-METHOD-METRIC or #difference-METHOD-METRIC, and -word-NUMBER; they can be kept and sent.
const follow = (jump) => {
  const found = location.hash.match(/^#(mean|difference)-(\d+)-(\d+)(?:-word-(\d+))?$/);
  const [kind, method, metric] = found ? [found[1], Number(found[2]), Number(found[3])] : ["mean", 0, 0];
  const isThere = data.methods[method] !== undefined && data.metrics[metric] !== undefined;
  const [wasKind, wasMethod, wasMetric] = [shown.kind, shown.method, shown.metric];
  if (!isThere) return;
  const same = shown.all.length && kind === wasKind && method === wasMethod && metric === wasMetric;
  if (!same) { showTable(kind); showNumber(kind, method, metric); }
  const word = found?.[4] === undefined ? null : Number(found[4]);
  if (word !== null && data.words[word]) showWord(word);
  else {
    if (dialog.open) dialog.close();
    if (jump && found) {
      gallery.querySelector("h2").focus({ preventScroll: true });
      gallery.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
  }
};

// Choosing the number that is shown already leads to its pictures too.
page.addEventListener("click", (event) => {
  const link = event.target.closest("table.numbers a");
  if (link && link.hash === location.hash) follow(true);
});

inflated(data.scores).then((content) => {
  scores = new Float32Array(content.buffer);
  gallery.hidden = data.words.length === 0;
  follow(true);
  addEventListener("hashchange", () => follow(true));
});
