"use strict";
(() => {
  const told = JSON.parse(document.getElementById("tokens").textContent);
  const raw = Uint8Array.from(atob(told.values), (c) => c.charCodeAt(0));
  const values = new Int8Array(raw.buffer), channels = told.channels, images = told.images;
  const total = values.length / channels;
  const lengths = new Float32Array(total);
  for (let t = 0; t < total; t++) {
    let sum = 0;
    for (let c = t * channels; c < (t + 1) * channels; c++) sum += values[c] * values[c];
    lengths[t] = Math.sqrt(sum) || 1;
  }
  let first = 0;
  for (const image of images) { image.first = first; image.count = image.rows * image.columns; first += image.count; }

  const figures = [...document.querySelectorAll("#ask figure")];
  figures.forEach((figure, number) => {
    const image = images[number];
    image.stack = figure.querySelector(".stack");
    image.canvas = document.createElement("canvas");
    image.canvas.width = image.columns;
    image.canvas.height = image.rows;
    image.canvas.setAttribute("aria-hidden", "true");
    image.mark = document.createElement("span");
    image.mark.className = "mark";
    image.stack.append(image.canvas, image.mark);
  });
  const found = document.getElementById("found"), ends = document.getElementById("ends");
  const places = (image, patch) => `row ${Math.floor(patch / image.columns) + 1}, column ${patch % image.columns + 1}`;
  const inRange = (number, patch) => number in images && patch >= 0 && patch < images[number].count;
  let pinned = { image: told.image, patch: told.patch };

  function similarities(token) {
    const out = new Float32Array(total), start = token * channels;
    for (let t = 0; t < total; t++) {
      let sum = 0;
      for (let c = 0, at = t * channels; c < channels; c++) sum += values[start + c] * values[at + c];
      out[t] = sum / (lengths[token] * lengths[t]);
    }
    return out;
  }

  function show(number, patch) {
    const token = images[number].first + patch, similar = similarities(token);
    let low = 1, best = null;
    images.forEach((image, other) => {
      for (let p = 0; p < image.count; p++) {
        const value = similar[image.first + p];
        if (value < low) low = value;
        if (image.first + p !== token && (best === null || value > best.value)) best = { value, image: other, patch: p };
      }
    });
    images.forEach((image, other) => {
      const context = image.canvas.getContext("2d"), picture = context.createImageData(image.columns, image.rows);
      for (let p = 0; p < image.count; p++) {
        const level = Math.round(255 * Math.max(0, (similar[image.first + p] - low) / Math.max(1 - low, 1e-6)));
        picture.data.set([...told.palette.slice(3 * level, 3 * level + 3), 255], 4 * p);
      }
      context.putImageData(picture, 0, 0);
      image.mark.hidden = other !== number;
      image.mark.style.display = other === number ? "" : "none";
    });
    const { mark, rows, columns } = images[number];
    mark.style.left = `${100 * (patch % columns) / columns}%`;
    mark.style.top = `${100 * Math.floor(patch / columns) / rows}%`;
    mark.style.width = `${100 / columns}%`;
    mark.style.height = `${100 / rows}%`;
    ends.textContent = `${low.toFixed(2)} to 1.00`;
    const own = `Image ${number + 1} (${images[number].name}), ${places(images[number], patch)}.`;
    found.textContent = own + (best === null ? "" : ` Most similar: image ${best.image + 1} (${images[best.image].name}), `
      + `${places(images[best.image], best.patch)}: ${best.value.toFixed(2)}.`);
    document.getElementById("ask").dataset.selected = `${number} ${patch}`;
  }

  function pin(number, patch, note = true) {
    pinned = { image: number, patch };
    show(number, patch);
    if (note) history.replaceState(null, "", `#image=${number}&patch=${patch}`);
  }

  function patchAt(number, event) {
    const box = images[number].stack.getBoundingClientRect(), { rows, columns } = images[number];
    const row = Math.floor((event.clientY - box.top) / box.height * rows);
    const column = Math.floor((event.clientX - box.left) / box.width * columns);
    return Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(Math.max(column, 0), columns - 1);
  }

  function readFragment() {
    const said = new URLSearchParams(location.hash.slice(1));
    const number = Number.parseInt(said.get("image"), 10), patch = Number.parseInt(said.get("patch"), 10);
    if (!inRange(number, patch)) return false;
    pin(number, patch, false);
    return true;
  }

  let waiting = 0;
  images.forEach((image, number) => {
    image.stack.addEventListener("pointermove", (event) => {
      const patch = patchAt(number, event);
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => show(number, patch));
    });
    image.stack.addEventListener("pointerleave", () => {
      cancelAnimationFrame(waiting);
      show(pinned.image, pinned.patch);
    });
    image.stack.addEventListener("click", (event) => {
      cancelAnimationFrame(waiting);
      pin(number, patchAt(number, event));
    });
    image.stack.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (event.key !== "Enter" && event.key !== " " && !step) return;
      event.preventDefault();
      const from = pinned.image === number ? pinned.patch : Math.floor(image.count / 2);
      if (pinned.image !== number || !step) { pin(number, from); return; }
      const row = Math.min(Math.max(Math.floor(from / image.columns) + step[0], 0), image.rows - 1);
      const column = Math.min(Math.max(from % image.columns + step[1], 0), image.columns - 1);
      pin(number, row * image.columns + column);
    });
  });

  const main = document.querySelector("main");
  const strength = document.getElementById("strength"), smooth = document.getElementById("smooth");
  const apply = () => {
    main.style.setProperty("--strength", strength.value / 100);
    main.classList.toggle("smooth", smooth.checked);
  };
  strength.addEventListener("input", apply);
  smooth.addEventListener("change", apply);
  apply();
  window.addEventListener("hashchange", readFragment);
  if (!readFragment()) show(pinned.image, pinned.patch);
})();
