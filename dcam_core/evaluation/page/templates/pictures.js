// Unpacks what the page carries, and draws it as it was scored: maps bilinear between the centres of their cells.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const LONGEST = 384; // pixels of a drawing's longer side

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const inflated = async (text) => {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};
const palette = bytesOf(data.palette);

// word -> {mask, maps}: what is drawn, unpacked once. A mask is as large as the kept picture, maps have their own grids.
const unpacked = new Map();
const unpack = (number) => {
  if (!unpacked.has(number)) unpacked.set(number, unpackNow(data.words[number]));
  return unpacked.get(number);
};
const unpackNow = async (word) => {
  const { drawn } = word, { width, height } = data.samples[word.sample].picture;
  const content = await inflated(drawn.pack);
  let begin = 0;
  const next = (rows, columns) => ({ rows, columns, values: content.subarray(begin, (begin += rows * columns)) });
  const mask = drawn.masked ? next(height, width) : null;
  return { mask, maps: drawn.grids.map((grid) => grid && next(...grid)) };
};

// For each pixel of a side: the two cells that it lies between, and its share of the second.
const between = (pixels, cells) => Array.from({ length: pixels }, (_, pixel) => {
  const place = Math.min(Math.max(((pixel + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
  const low = Math.floor(place);
  return [low, Math.min(low + 1, cells - 1), place - low];
});

const drawHeat = (canvas, map) => {
  const { width, height } = canvas, image = new ImageData(width, height);
  const across = between(width, map.columns), down = between(height, map.rows);
  let pixel = 0;
  for (const [top, bottom, lower] of down) {
    const upperRow = top * map.columns, lowerRow = bottom * map.columns;
    for (const [left, right, share] of across) {
      const upper = map.values[upperRow + left] * (1 - share) + map.values[upperRow + right] * share;
      const under = map.values[lowerRow + left] * (1 - share) + map.values[lowerRow + right] * share;
      const colour = 4 * Math.round(upper * (1 - lower) + under * lower);
      for (let part = 0; part < 4; part++) image.data[pixel++] = palette[colour + part];
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
};

// The edges between pixels in the mask and pixels out of it; white on black stands out from any picture.
const drawOutline = (canvas, mask) => {
  const context = canvas.getContext("2d"), path = new Path2D();
  const { rows, columns, values } = mask;
  const isIn = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && values[y * columns + x] === 1;
  const across = canvas.width / columns, down = canvas.height / rows;
  for (let y = 0; y <= rows; y++) {
    for (let x = 0; x <= columns; x++) {
      if (isIn(x, y) !== isIn(x, y - 1)) { path.moveTo(x * across, y * down); path.lineTo((x + 1) * across, y * down); }
      if (isIn(x, y) !== isIn(x - 1, y)) { path.moveTo(x * across, y * down); path.lineTo(x * across, (y + 1) * down); }
    }
  }
  context.lineCap = "round";
  for (const [colour, width] of [["#000b", 4], ["#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke(path);
  }
};

// The answer with the word marked, or only so many characters round it; where the word stands is kept with its picture.
const inAnswer = ({ sample, drawn }, around) => {
  const characters = [...data.samples[sample].answer];
  if (!drawn) return around === Infinity ? [characters.join("")] : [];
  const [start, stop] = drawn.span, mark = document.createElement("mark");
  let [begin, end] = [Math.max(0, start - around), Math.min(characters.length, stop + around)];
  // No word is cut in two, where spaces part them.
  const [first, last] = [characters.indexOf(" ", begin), characters.lastIndexOf(" ", end - 1)];
  if (begin > 0 && first >= 0 && first < start) begin = first + 1;
  if (end < characters.length && last >= stop) end = last;
  const text = (from, to) => characters.slice(from, to).join("");
  mark.textContent = text(start, stop);
  return [begin > 0 ? "… " : "", text(begin, start), mark, text(stop, end), end < characters.length ? " …" : ""];
};

const cloned = (template) => document.getElementById(template).content.firstElementChild.cloneNode(true);

// A word's picture with a method's map; drawn as soon as it is unpacked.
const stage = (number, method) => {
  const word = data.words[number], { picture } = data.samples[word.sample], made = cloned("stage");
  const scale = LONGEST / Math.max(picture.width, picture.height);
  made.style.aspectRatio = `${picture.width} / ${picture.height}`;
  made.querySelector("img").src = picture.address;
  const [heat, outline] = made.querySelectorAll("canvas");
  for (const canvas of [heat, outline]) {
    canvas.width = Math.max(1, Math.round(scale * picture.width));
    canvas.height = Math.max(1, Math.round(scale * picture.height));
  }
  heat.setAttribute("aria-label", `Map of “${word.text}” by ${data.methods[method]}`);
  unpack(number).then(({ mask, maps }) => {
    if (maps[method]) drawHeat(heat, maps[method]);
    if (mask) drawOutline(outline, mask);
    made.classList.toggle("mapless", !maps[method]);
    made.dataset.drawn = "";
  });
  return made;
};
