// Attention over the tokens of a sample: all heads of all layers at a glance, and one in full.
// Hundreds of maps change at once with the sample, so they are drawn as pixels.

const LARGEST = 460;
const LABELS = 92;
const THUMB = 44;
const GAP = 3;

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function rgb(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

function isDark(element) {
  const [red, green, blue] = getComputedStyle(element).color.match(/\d+(\.\d+)?/g).map(Number);
  return red + green + blue > 382;
}

function colourOf(ramp, share) {
  const place = Math.min(1, Math.max(0, share)) * (ramp.length - 1);
  const at = Math.min(ramp.length - 2, Math.floor(place));
  return ramp[at].map((low, k) => low + (ramp[at + 1][k] - low) * (place - at));
}

function render({ model, el }) {
  const style = make("style");
  style.textContent = `
    .xk-attention { font: 13px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
    .xk-attention .bar { display: flex; flex-wrap: wrap; gap: 6px 16px; align-items: center; }
    .xk-attention select, .xk-attention input { font: inherit; max-width: 17em; color: inherit;
      background: transparent; border: 1px solid color-mix(in srgb, currentColor 40%, transparent);
      border-radius: 4px; padding: 2px 6px; }
    .xk-attention select option { color: #1f2328; background: #fff; }
    .xk-attention input { width: 6em; }
    .xk-attention .maps { display: flex; flex-wrap: wrap; gap: 18px; margin-top: 8px; }
    .xk-attention .scroll { overflow: auto; max-width: 100%; max-height: 560px; }
    .xk-attention canvas { display: block; }
    .xk-attention canvas:focus-visible { outline: 2px solid #4456c7; outline-offset: 2px; }
    .xk-attention .title, .xk-attention .value { opacity: .8; min-height: 1.5em; }`;
  const sample = make("input", { type: "number", min: "0", "aria-label": "sample" });
  const layer = make("select", { "aria-label": "layer" });
  const head = make("select", { "aria-label": "head" });
  const title = make("bdi", { class: "title" });
  const value = make("div", { class: "value", role: "status" });
  const grid = make("canvas", { tabindex: "0", role: "img" });
  const map = make("canvas", { role: "img" });
  const root = make(
    "div",
    { class: "xk-attention" },
    style,
    make(
      "div",
      { class: "bar" },
      make("label", {}, "sample ", sample),
      make("label", {}, "layer ", layer),
      make("label", {}, "head ", head),
      title,
    ),
    make(
      "div",
      { class: "maps" },
      make("div", { class: "scroll" }, grid),
      make("div", {}, make("div", { class: "scroll" }, map), value),
    ),
  );
  el.append(root);

  let values = new Float32Array();
  let own = []; // the heads without their mean
  let size = THUMB;
  let cell = 20;

  function read() {
    const bytes = model.get("maps");
    const copy = new Uint8Array(bytes.byteLength);
    copy.set(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    values = new Float32Array(copy.buffer);
    const heads = model.get("heads");
    own = heads.map((_, at) => at).slice(heads.length > 1 ? 1 : 0);
  }

  function mapOf(layerAt, headAt) {
    const [, heads, queries, keys] = model.get("shape");
    const start = (layerAt * heads + headAt) * queries * keys;
    return values.subarray(start, start + queries * keys);
  }

  function image(shown, ramp) {
    const [, , queries, keys] = model.get("shape");
    const largest = shown.reduce((most, one) => (one > most ? one : most), 1e-12);
    const pixels = new ImageData(keys, queries);
    shown.forEach((one, at) => {
      const known = Number.isFinite(one);
      const colour = known ? colourOf(ramp, one / largest) : [160, 160, 160];
      pixels.data.set([...colour, 255], at * 4);
    });
    const drawn = make("canvas", { width: String(keys), height: String(queries) });
    drawn.getContext("2d").putImageData(pixels, 0, 0);
    return drawn;
  }

  function sized(canvas, width, height) {
    const scale = window.devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.imageSmoothingEnabled = false;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = getComputedStyle(root).color;
    context.textBaseline = "middle";
    return context;
  }

  const rampOf = () => model.get("ramps")[isDark(root) ? "dark" : "light"].map(rgb);

  function drawGrid() {
    const layers = model.get("layers");
    size = Math.max(14, Math.min(THUMB, Math.floor(LARGEST / Math.max(1, own.length)) - GAP));
    const step = size + GAP;
    const context = sized(grid, own.length * step + GAP + 22, layers.length * step + GAP + 16);
    const ramp = rampOf();
    context.textAlign = "center";
    own.forEach((_, at) => context.fillText(String(at), 22 + at * step + size / 2, 8));
    layers.forEach((_, row) => {
      context.fillText(String(row), 9, 16 + row * step + size / 2);
      own.forEach((headAt, column) => {
        const [left, top] = [22 + column * step, 16 + row * step];
        context.drawImage(image(mapOf(row, headAt), ramp), left, top, size, size);
        if (row === model.get("layer") && headAt === model.get("head")) {
          context.strokeStyle = "#c2571a";
          context.lineWidth = 2;
          context.strokeRect(left - 1, top - 1, size + 2, size + 2);
        }
      });
    });
    const what = `Heads across, layers down: ${layers.length} times ${own.length} maps`;
    grid.setAttribute("aria-label", `${what}. Arrow keys choose one.`);
  }

  function drawMap() {
    const [from, to] = [model.get("down"), model.get("across")];
    cell = Math.max(9, Math.min(24, Math.floor(LARGEST / Math.max(from.length, to.length, 1))));
    const context = sized(map, LABELS + to.length * cell + 40, LABELS + from.length * cell);
    const shown = image(mapOf(model.get("layer"), model.get("head")), rampOf());
    context.drawImage(shown, LABELS, LABELS, to.length * cell, from.length * cell);
    const short = (text) => (text.length > 12 ? `${text.slice(0, 11)}…` : text);
    context.textAlign = "right";
    from.forEach((text, at) => context.fillText(short(text), LABELS - 6, LABELS + (at + 0.5) * cell));
    context.textAlign = "left";
    to.forEach((text, at) => {
      context.save();
      context.translate(LABELS + (at + 0.5) * cell, LABELS - 6);
      context.rotate(-Math.PI / 3.3);
      context.fillText(short(text), 0, 0);
      context.restore();
    });
    const which = `${layer.selectedOptions[0]?.textContent}, ${head.selectedOptions[0]?.textContent}`;
    map.setAttribute("aria-label", `Attention of ${which}, from tokens down to tokens across`);
  }

  function fill(select, names, at) {
    const old = [...select.options].map((one) => one.textContent);
    if (old.join("\n") !== names.join("\n"))
      select.replaceChildren(...names.map((name) => make("option", {}, name)));
    select.selectedIndex = at;
  }

  function draw() {
    read();
    sample.max = String(model.get("count") - 1);
    sample.value = String(model.get("sample"));
    title.textContent = model.get("title");
    fill(layer, model.get("layers"), model.get("layer"));
    fill(head, model.get("heads"), model.get("head"));
    value.textContent = "";
    const hidden = !values.length;
    for (const canvas of [grid, map]) canvas.hidden = hidden;
    if (hidden) return;
    drawGrid();
    drawMap();
  }

  function choose(changes) {
    for (const [name, chosen] of Object.entries(changes)) model.set(name, chosen);
    model.save_changes();
  }

  sample.addEventListener("change", () => {
    const wanted = Number(sample.value);
    const most = model.get("count") - 1;
    choose({ sample: Math.min(most, Math.max(0, Math.round(wanted) || 0)) });
  });
  layer.addEventListener("change", () => choose({ layer: layer.selectedIndex }));
  head.addEventListener("change", () => choose({ head: head.selectedIndex }));
  grid.addEventListener("click", (event) => {
    const column = Math.floor((event.offsetX - 22) / (size + GAP));
    const row = Math.floor((event.offsetY - 16) / (size + GAP));
    if (column in own && row >= 0 && row < model.get("layers").length)
      choose({ layer: row, head: own[column] });
  });
  grid.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    const [down, across] = steps[event.key];
    const row = Math.min(model.get("layers").length - 1, Math.max(0, model.get("layer") + down));
    const column = own.indexOf(model.get("head")); // -1 for the mean
    const next = own[Math.min(own.length - 1, Math.max(0, column + across))];
    choose({ layer: row, head: across || column >= 0 ? next : model.get("head") });
  });
  map.addEventListener("mousemove", (event) => {
    const [from, to] = [model.get("down"), model.get("across")];
    const column = Math.floor((event.offsetX - LABELS) / cell);
    const row = Math.floor((event.offsetY - LABELS) / cell);
    if (!(row in from) || !(column in to)) return;
    const one = mapOf(model.get("layer"), model.get("head"))[row * to.length + column];
    value.textContent = `${from[row]} → ${to[column]}: ${one.toPrecision(3)}`;
  });

  const names = ["maps", "title", "sample", "layer", "head", "shape"];
  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      draw();
    });
  }
  for (const name of names) model.on(`change:${name}`, later);
  requestAnimationFrame(draw);
  return () => names.forEach((name) => model.off(`change:${name}`, later));
}

export default { render };
