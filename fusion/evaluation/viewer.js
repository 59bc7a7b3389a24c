"use strict";
// The map of a page: layers of one raster, dragged, enlarged and asked for their values. Every layer but a photograph
// holds codes in the colours of its picture: a class, or 256 * red + green of a range of values; blue is no data.
(() => {
  const NONE = 65535;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  async function decoded(layer) {
    const image = new Image();
    image.src = layer.source;
    await image.decode();
    const width = image.naturalWidth, height = image.naturalHeight;
    const sheet = Object.assign(document.createElement("canvas"), { width, height });
    const pen = sheet.getContext("2d", { willReadFrequently: layer.kind !== "photo" });
    pen.drawImage(image, 0, 0);
    const found = { ...layer, sheet, pen, width, height };
    if (layer.kind === "photo") return found;
    const pixels = pen.getImageData(0, 0, width, height).data;
    found.codes = new Uint16Array(width * height);
    for (let i = 0, at = 0; i < found.codes.length; i++, at += 4) {
      if (layer.kind === "classes") found.codes[i] = pixels[at] === 255 ? NONE : pixels[at];
      else found.codes[i] = pixels[at + 2] ? NONE : pixels[at] * 256 + pixels[at + 1];
    }
    return found;
  }

  const valueOf = (layer, code) => layer.low + (code / layer.steps) * (layer.high - layer.low);

  function printed(value, layer) {
    const span = Math.abs(layer.shown[1] - layer.shown[0]) || 1;
    return value.toFixed(clamp(2 - Math.floor(Math.log10(span)), 0, 6));
  }

  function paint(layer, hidden) {
    const image = layer.pen.createImageData(layer.width, layer.height);
    const words = new Uint32Array(image.data.buffer); // 0xAABBGGRR
    const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    const table = new Uint32Array(layer.kind === "classes" ? layer.names.length : layer.steps + 1);
    if (layer.kind === "classes") {
      layer.colours.forEach((colour, k) => { if (!hidden.has(layer.names[k])) table[k] = packed(rgb(colour)); });
    } else {
      const ramp = layer.ramp.map(rgb);
      for (let code = 0; code < table.length; code++) {
        const share = (valueOf(layer, code) - layer.shown[0]) / (layer.shown[1] - layer.shown[0] || 1);
        const at = clamp(share, 0, 1) * (ramp.length - 1);
        const from = ramp[Math.floor(at)], to = ramp[Math.ceil(at)], part = at - Math.floor(at);
        table[code] = packed(from.map((value, c) => Math.round(value + (to[c] - value) * part)));
      }
    }
    for (let i = 0; i < words.length; i++) words[i] = layer.codes[i] === NONE ? 0 : table[layer.codes[i]];
    layer.pen.putImageData(image, 0, 0);
  }

  async function start(root) {
    const given = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const { width, height, aspect, metres, transform, crs, degrees } = given;
    const find = (name) => root.querySelector(`.${name}`);
    const canvas = find("map-canvas"), pen = canvas.getContext("2d"), readout = find("map-readout");
    const layers = await Promise.all(given.layers.map(decoded));
    const photo = layers.find((layer) => layer.kind === "photo");
    const hidden = new Set();
    const view = { scale: 1, x: 0, y: 0, fit: 1, moved: false };
    let chosen = layers[0], cross = false, waiting = false, last = null;
    layers.forEach((layer) => { if (layer.kind !== "photo") paint(layer, hidden); });

    // The view: a pixel (column, row) of the map is drawn at (x + column * scale * aspect, y + row * scale).
    const size = () => [canvas.clientWidth, canvas.clientHeight];
    const place = (x, y) => [(x - view.x) / (view.scale * aspect), (y - view.y) / view.scale];
    function reset() {
      const [across, down] = size();
      view.scale = view.fit = Math.min(across / (width * aspect), down / height);
      view.x = (across - width * aspect * view.scale) / 2;
      view.y = (down - height * view.scale) / 2;
      view.moved = cross = false;
      draw();
    }
    function zoom(factor, x, y) {
      const scale = clamp(view.scale * factor, view.fit / 2, Math.max(64, view.fit * 8));
      const ratio = scale / view.scale;
      Object.assign(view, { scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio, moved: true });
      draw();
    }
    function pan(x, y) {
      const [across, down] = size();
      view.x = clamp(view.x + x, 20 - width * aspect * view.scale, across - 20);
      view.y = clamp(view.y + y, 20 - height * view.scale, down - 20);
      view.moved = true;
      draw();
    }

    function draw() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; drawNow(); });
    }
    function drawNow() {
      const [across, down] = size(), ratio = window.devicePixelRatio || 1;
      if (canvas.width !== Math.round(across * ratio) || canvas.height !== Math.round(down * ratio)) {
        canvas.width = Math.round(across * ratio);
        canvas.height = Math.round(down * ratio);
      }
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.globalAlpha = 1;
      pen.clearRect(0, 0, canvas.width, canvas.height);
      const laid = (layer) => {
        pen.setTransform(ratio * view.scale * aspect, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
        pen.imageSmoothingEnabled = layer.kind === "photo" && view.scale * ratio * width < layer.width;
        pen.drawImage(layer.sheet, 0, 0, width, height);
      };
      const share = photo ? Number(find("map-slider").value) / 100 : 1;
      if (photo && chosen !== photo) laid(photo);
      if (chosen === photo || !photo) laid(chosen);
      else if (root.querySelector("input[value=swipe]").checked) {
        pen.save();
        pen.setTransform(1, 0, 0, 1, 0, 0);
        pen.beginPath();
        pen.rect(0, 0, canvas.width * share, canvas.height);
        pen.clip();
        laid(chosen);
        pen.restore();
        pen.setTransform(ratio, 0, 0, ratio, 0, 0);
        pen.fillStyle = "#fff";
        if (share < 1) pen.fillRect(across * share - 1, 0, 2, down);
      } else {
        pen.globalAlpha = share;
        laid(chosen);
      }
      pen.globalAlpha = 1;
      if (cross) {
        pen.setTransform(ratio, 0, 0, ratio, 0, 0);
        for (const [wide, colour] of [[4, "#fff"], [2, "#000"]]) {
          pen.lineWidth = wide;
          pen.strokeStyle = colour;
          pen.strokeRect(across / 2 - 5, down / 2 - 5, 10, 10);
        }
        tell(across / 2, down / 2);
      } else if (last) tell(...last);
      ruler(across);
    }
    function ruler(across) {
      const bar = find("map-scale");
      if (!metres) { bar.hidden = true; return; }
      const most = Math.min(180, across / 3) * metres / view.scale;
      const power = 10 ** Math.floor(Math.log10(most));
      const length = [5, 2, 1].map((k) => k * power).find((k) => k <= most);
      bar.style.width = `${length * view.scale / metres}px`;
      const kilometres = length >= 1000;
      bar.textContent = `${Number((kilometres ? length / 1000 : length).toPrecision(3))} ${kilometres ? "km" : "m"}`;
    }

    // What lies under a point, in words.
    function told(layer, column, row) {
      if (layer.kind === "photo") return "";
      const under = (one) => Math.floor((row / height) * one.height) * one.width + Math.floor((column / width) * one.width);
      const at = under(layer);
      const code = layer.codes[at];
      if (code === NONE) return "no data";
      if (layer.kind === "classes") return layer.names[code];
      const unit = layer.unit ? ` ${layer.unit}` : "";
      const value = `${printed(valueOf(layer, code), layer)}${unit}`;
      const ends = (layer.ends || []).map((name) => layers.find((other) => other.title === name));
      if (ends.length !== 2 || ends.some((end) => !end || end.codes[under(end)] === NONE)) return value;
      return `${value} (${ends.map((end) => printed(valueOf(end, end.codes[under(end)]), end)).join(" to ")})`;
    }
    function tell(x, y) {
      last = [x, y];
      const [column, row] = place(x, y);
      readout.replaceChildren();
      if (!(column >= 0 && row >= 0 && column < width && row < height)) {
        readout.append("outside the map");
        return;
      }
      const spanned = new Set(layers.flatMap((layer) => layer.ends || []));
      for (const layer of layers) {
        const text = layer !== chosen && spanned.has(layer.title) ? "" : told(layer, column, row);
        if (!text) continue;
        const line = make("span", layer === chosen ? "map-chosen" : "");
        line.append(`${layer.title}: `, make("b", "", text));
        readout.append(line);
      }
      const [a, b, c, d, e, f] = transform;
      const digits = degrees ? 6 : clamp(1 - Math.floor(Math.log10(Math.abs(a) || 1)), 0, 3);
      const [east, north] = [a * column + b * row + c, d * column + e * row + f].map((v) => v.toFixed(digits));
      const where = degrees ? `longitude ${east}, latitude ${north}` : `x ${east}, y ${north}`;
      readout.append(make("span", "map-place", `${where}${crs ? ` (${crs})` : ""}`));
    }

    // Layers, legend.
    const group = `layer-${[...document.querySelectorAll(".map-viewer")].indexOf(root)}`;
    layers.forEach((layer, k) => {
      const label = make("label"), radio = make("input");
      Object.assign(radio, { type: "radio", name: group, value: layer.title, checked: k === 0 });
      radio.addEventListener("change", () => { chosen = layer; legend(); draw(); });
      label.append(radio, layer.title);
      find("map-layers").append(label);
    });
    function legend() {
      const list = find("map-legend"), box = find("map-legend-box"), note = find("map-note");
      list.replaceChildren();
      note.textContent = chosen.note || "";
      find("map-compare").hidden = !photo || chosen === photo;
      box.hidden = chosen.kind === "photo";
      find("map-all").hidden = chosen.kind !== "classes";
      if (chosen.kind === "classes") chosen.names.forEach((name, k) => {
        const label = make("label"), tick = make("input"), swatch = make("i");
        Object.assign(tick, { type: "checkbox", value: name, checked: !hidden.has(name) });
        swatch.style.background = chosen.colours[k];
        tick.addEventListener("change", () => {
          if (tick.checked) hidden.delete(name); else hidden.add(name);
          repaint();
        });
        label.append(tick, swatch, make("span", "", name));
        if (chosen.areas) label.append(make("span", "map-area", chosen.areas[k]));
        list.append(label);
      });
      if (chosen.kind === "quantity") {
        const bar = make("div", "map-ramp"), ends = make("div", "map-ends");
        bar.style.background = `linear-gradient(to right, ${chosen.ramp.join(", ")})`;
        const [low, high] = chosen.shown.map((value) => printed(value, chosen));
        ends.append(make("span", "", low), make("span", "", chosen.unit || ""), make("span", "", high));
        list.append(bar, ends);
      }
    }
    function repaint() {
      layers.forEach((layer) => { if (layer.kind === "classes") paint(layer, hidden); });
      draw();
    }
    find("map-all").addEventListener("click", () => {
      const names = chosen.names, every = names.every((name) => !hidden.has(name));
      names.forEach((name) => { if (every) hidden.add(name); else hidden.delete(name); });
      legend();
      repaint();
    });
    root.querySelectorAll(".map-compare input").forEach((input) => input.addEventListener("input", draw));
    root.querySelectorAll(".map-modes input").forEach((input) => { input.name = `${group}-mode`; });

    // Pointers, wheel, keys, buttons.
    const held = new Map();
    const within = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, within(event));
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const to = within(event), from = held.get(event.pointerId);
      cross = false;
      if (from && held.size === 1) pan(to[0] - from[0], to[1] - from[1]);
      if (from && held.size === 2) {
        const other = [...held].find(([id]) => id !== event.pointerId)[1];
        const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
        pan((to[0] - from[0]) / 2, (to[1] - from[1]) / 2);
        zoom(apart(to) / Math.max(apart(from), 1), (to[0] + other[0]) / 2, (to[1] + other[1]) / 2);
      }
      if (from) held.set(event.pointerId, to);
      tell(...to);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        held.delete(event.pointerId);
        if (name === "pointerup") tell(...within(event));
      });
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      zoom(Math.exp(-clamp(event.deltaY * lines, -240, 240) / 400), ...within(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => zoom(event.shiftKey ? 0.5 : 2, ...within(event)));
    const centre = () => size().map((side) => side / 2);
    const acts = {
      "+": () => zoom(1.5, ...centre()), "=": () => zoom(1.5, ...centre()), "-": () => zoom(1 / 1.5, ...centre()),
      "0": reset, ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0),
      ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!acts[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      acts[event.key]();
      cross = true;
    });
    find("map-in").addEventListener("click", acts["+"]);
    find("map-out").addEventListener("click", acts["-"]);
    find("map-reset").addEventListener("click", reset);
    new ResizeObserver(() => (view.moved ? draw() : reset())).observe(canvas);
    legend();
    reset();
    drawNow();
    root.dataset.ready = "true";
  }

  document.querySelectorAll(".map-viewer").forEach((root) => {
    start(root).catch((error) => {
      root.querySelector(".map-readout").textContent = `The map cannot be shown: ${error}`;
      throw error;
    });
  });
})();
