"use strict";
// Sliders: the range input holds the value, for keys and screen readers; fingers and mice drag on the pictures.
function place(slider, value) {
  const input = slider.querySelector("input");
  input.value = value;
  slider.style.setProperty("--at", input.value + "%");
}
function compare(slider, left, right) {
  const pictures = [...slider.querySelectorAll("img")];
  if (![left, right].every((name) => pictures.some((picture) => picture.dataset.name === name))) return;
  for (const picture of pictures) {
    picture.hidden = ![left, right].includes(picture.dataset.name);
    picture.classList.toggle("left", picture.dataset.name === left);
  }
  slider.querySelector(".tag.left").textContent = left;
  slider.querySelector(".tag.right").textContent = right;
  slider.querySelector("input").setAttribute("aria-label", `${left} on the left, ${right} on the right: where they meet`);
}
for (const slider of document.querySelectorAll(".slider")) {
  const frames = slider.querySelector(".frames"), input = slider.querySelector("input");
  const follow = (event) => {
    const box = frames.getBoundingClientRect();
    place(slider, Math.round(1000 * (event.clientX - box.left) / box.width) / 10);
  };
  frames.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    frames.setPointerCapture(event.pointerId);
    input.focus({ preventScroll: true });
    input.step = "any";
    follow(event);
    frames.addEventListener("pointermove", follow);
  });
  frames.addEventListener("mousedown", (event) => event.preventDefault());  // which would take the focus away again
  for (const end of ["pointerup", "pointercancel"]) {
    frames.addEventListener(end, () => {
      frames.removeEventListener("pointermove", follow);
      input.step = "1";
    });
  }
  input.addEventListener("input", () => place(slider, input.value));
  // Magnified around a point: the middle, or where a double click was.
  const zoom = (factor) => slider.style.setProperty("--zoom", Math.min(8, Math.max(1, factor)));
  const zoomed = () => Number(slider.style.getPropertyValue("--zoom")) || 1;
  frames.addEventListener("dblclick", (event) => {
    const box = frames.getBoundingClientRect();
    slider.style.setProperty("--x", 100 * (event.clientX - box.left) / box.width + "%");
    slider.style.setProperty("--y", 100 * (event.clientY - box.top) / box.height + "%");
    zoom(zoomed() > 1 ? 1 : 4);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "+" || event.key === "-") zoom(zoomed() * (event.key === "+" ? 2 : 0.5));
  });
}
for (const gallery of document.querySelectorAll(".gallery")) {
  gallery.addEventListener("change", (event) => {
    const { left, right } = event.target.dataset;
    if (left === undefined) return;
    for (const slider of gallery.querySelectorAll(".slider")) compare(slider, left, right);
    for (const legend of gallery.querySelectorAll(".legend")) {
      legend.hidden = legend.dataset.left !== left || legend.dataset.right !== right;
    }
  });
}
// Charts: what the curves say at the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), reading = chart.querySelector(".reading"), cursor = chart.querySelector(".cursor");
  const axes = JSON.parse(svg.dataset.axes), curves = JSON.parse(svg.dataset.curves), names = JSON.parse(svg.dataset.names);
  const note = reading.textContent;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * axes.width;
    const wanted = axes.first + (x - axes.left) / (axes.right - axes.left) * (axes.last - axes.first);
    const nearest = curves.map((curve) => curve.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a));
    const step = nearest.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a)[0];
    const at = axes.left + (step - axes.first) / (axes.last - axes.first) * (axes.right - axes.left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.removeAttribute("hidden");
    reading.textContent = `step ${step.toLocaleString("en")}: ` +
      nearest.map((point, i) => (names.length > 1 ? names[i] + " " : "") + point[1].toLocaleString("en", { maximumSignificantDigits: 5 })).join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("hidden", "");
    reading.textContent = note;
  });
}
