"use strict";
// For each explorer of the page: a position (a query) is chosen by pointer or arrow
// keys, and every layer shows that position's row of beta over the image.
(() => {
  const HEAT = [[196, 62, 24], [255, 228, 130]]; // of a small and of the largest share
  const DIM = 0.35; // of the image below the heat: nothing in it is as bright
  const groups = JSON.parse(document.getElementById("explorer-data").textContent);

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const floats = (text) => {
    const view = new DataView(bytes(text).buffer);
    const at = (_, i) => view.getFloat32(4 * i, true);
    return Float32Array.from({ length: view.byteLength / 4 }, at);
  };
  const pen = (canvas) => canvas.getContext("2d", { willReadFrequently: true });
  const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const percent = (share) =>
    `${share < 0.01 ? (100 * share).toPrecision(2) : fixed(100 * share, 1)}\u00a0%`;

  // The cell of keys at every pixel; -1: none, as an odd last row is not pooled.
  function cellsOf(layer, size) {
    const along = Array.from({ length: size }, (_, pixel) => {
      const key = Math.floor(((pixel + 0.5) * layer.queries) / size / 2);
      return key < layer.keys ? Math.floor(key / layer.block) : -1;
    });
    const cells = new Int32Array(size * size);
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++)
        cells[y * size + x] =
          Math.min(along[y], along[x]) < 0 ? -1 : along[y] * layer.cells + along[x];
    return cells;
  }

  function paint(canvas, grey, cells, row) {
    const pixels = new ImageData(canvas.width, canvas.height);
    for (let i = 0; i < cells.length; i++) {
      const heat = cells[i] < 0 ? 0 : row[cells[i]] / 255;
      const alpha = 0.95 * Math.pow(heat, 0.8);
      for (let c = 0; c < 3; c++) {
        const colour = HEAT[0][c] + (HEAT[1][c] - HEAT[0][c]) * heat;
        pixels.data[4 * i + c] = DIM * grey[i] * (1 - alpha) + colour * alpha;
      }
      pixels.data[4 * i + 3] = 255;
    }
    pen(canvas).putImageData(pixels, 0, 0);
  }

  function decode(seen) {
    return seen.layers.map((layer) => ({
      strength: layer.strength,
      beta: bytes(layer.beta),
      entropy: floats(layer.entropy),
      distance: floats(layer.distance),
      largest: floats(layer.largest),
      top: floats(layer.top),
    }));
  }

  function explore(root) {
    const group = groups[Number(root.dataset.group)];
    const layers = group.layers.map((layer) => ({
      ...layer,
      apart: floats(layer.uniform_pixels),
    }));
    const finest = layers.reduce((a, b) => (b.side > a.side ? b : a));
    const stage = root.querySelector(".stage");
    const sample = root.querySelector(".sample canvas");
    const panels = [...root.querySelectorAll("[data-layer]")];
    const markers = [...root.querySelectorAll(".marker")]; // the sample's is the first
    const live = root.querySelector("[aria-live]");
    let y = finest.side >> 1;
    let x = finest.side >> 1;
    let image = null;
    let talk = 0;

    function choose(number, picture) {
      const size = picture.naturalWidth;
      sample.width = sample.height = size;
      pen(sample).drawImage(picture, 0, 0);
      const rgba = pen(sample).getImageData(0, 0, size, size).data;
      const grey = Float32Array.from({ length: size * size }, (_, i) =>
        0.3 * rgba[4 * i] + 0.59 * rgba[4 * i + 1] + 0.11 * rgba[4 * i + 2]);
      panels.forEach((panel, l) => {
        const canvas = panel.querySelector("canvas");
        if (canvas.width !== size) canvas.width = canvas.height = size;
        if (!image) layers[l].map = cellsOf(layers[l], size);
      });
      const { logit } = group.images[number];
      root.querySelector(".logit").textContent =
        logit === null ? "" : `logit of the discriminator: ${fixed(logit, 2)}`;
      image = { grey, layers: decode(group.images[number]), number };
      show();
    }

    function mark(marker, layer, row, column) {
      const part = 100 / layer.queries;
      marker.style.cssText =
        `top:${row * part}%;left:${column * part}%;width:${part}%;height:${part}%`;
    }

    function show() {
      if (!image) return;
      const told = panels.map((panel, l) => showLayer(panel, layers[l], image.layers[l]));
      mark(markers[0], finest, y * finest.stride, x * finest.stride);
      clearTimeout(talk); // a moving pointer is not read out
      talk = setTimeout(() => { live.textContent = told.join(" "); }, 250);
    }

    function showLayer(panel, layer, seen) {
      const at = (i) => {
        const part = (i * finest.stride + 0.5) / finest.queries;
        return Math.floor(Math.floor(part * layer.queries) / layer.stride);
      };
      const [row, column] = [at(y), at(x)];
      const j = row * layer.side + column;
      const count = layer.cells * layer.cells;
      paint(panel.querySelector("canvas"), image.grey, layer.map,
        seen.beta.subarray(j * count, (j + 1) * count));
      const [top, left] = [row * layer.stride, column * layer.stride];
      mark(panel.querySelector(".marker"), layer, top, left);
      panel.dataset.row = top;
      panel.dataset.column = left;
      const numbers = {
        position: `row ${top + 1}, column ${left + 1} of ${layer.queries}`,
        entropy: `${fixed(seen.entropy[j], 2)} of ${fixed(layer.uniform_bits, 2)} bits`,
        distance: `${fixed(seen.distance[j], 1)} px (uniform ${fixed(layer.apart[j], 1)})`,
        largest: `${percent(seen.largest[j])} (uniform ${percent(layer.uniform_share)})`,
        strength: fixed(seen.strength, 3),
        top: `${percent(seen.top[j])}${layer.block > 1 ? " a cell" : ""}`,
      };
      for (const [name, text] of Object.entries(numbers))
        panel.querySelector(`[data-number=${name}]`).textContent = text;
      const uniform = (layer.uniform_share * layer.block ** 2) / seen.top[j];
      panel.querySelector(".scale b").style.left = `${100 * Math.min(1, uniform)}%`;
      return `${layer.name}: ${numbers.position}; entropy ${numbers.entropy}; ` +
        `distance ${numbers.distance}; largest share ${numbers.largest}; ` +
        `gamma ${fixed(layer.gamma, 3)}; strength ${numbers.strength}.`;
    }

    function move(row, column) {
      const last = finest.side - 1;
      const [newY, newX] = [row, column].map((i) => Math.max(0, Math.min(last, i)));
      if (newY === y && newX === x) return;
      [y, x] = [newY, newX];
      show();
    }

    function point(event) {
      const box = event.currentTarget.getBoundingClientRect();
      const at = (offset, length) =>
        Math.floor(Math.floor((offset / length) * finest.queries) / finest.stride);
      move(at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width));
    }

    for (const frame of root.querySelectorAll(".frame")) {
      frame.addEventListener("pointermove", point);
      frame.addEventListener("pointerdown", (event) => {
        stage.focus({ preventScroll: true });
        point(event);
      });
    }
    const last = finest.side - 1;
    const keys = {
      ArrowUp: () => [y - 1, x],
      ArrowDown: () => [y + 1, x],
      ArrowLeft: () => [y, x - 1],
      ArrowRight: () => [y, x + 1],
      Home: () => [y, 0],
      End: () => [y, last],
      PageUp: () => [0, x],
      PageDown: () => [last, x],
    };
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      move(...keys[event.key]());
    });
    root.querySelectorAll("input[type=radio]").forEach((radio, number) => {
      const picture = radio.parentElement.querySelector("img");
      const chosen = () => picture.decode().then(() => radio.checked && choose(number, picture));
      radio.addEventListener("change", chosen);
      if (radio.checked) chosen();
    });
  }

  document.querySelectorAll("[data-group]").forEach(explore);
})();
