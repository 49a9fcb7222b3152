// Sliders for the features that are no axis, searchable; at most MAX_SHOWN of them at a time.

import { byId, element } from "/page/elements.js";
import { exact } from "/page/numbers.js";

const MAX_SHOWN = 60;

/** Show sliders of the features that match the search. Calls `move(index, value)`. */
export function showSliders(features, axes, point, move) {
  const others = features.filter(({ index }) => !axes.some((axis) => axis.index === index));
  const wanted = byId("search").value.trim().toLowerCase();
  const found = others.filter(({ name }) => name.toLowerCase().includes(wanted));
  byId("others").hidden = others.length === 0;
  byId("others-title").textContent = others.length === 1 ? "The other feature" : `The other ${others.length} features`;
  byId("others-count").textContent = found.length > MAX_SHOWN
    ? `${MAX_SHOWN} of ${found.length} are shown. Search for the others.`
    : found.length === others.length ? "" : `${found.length} found.`;
  byId("sliders").replaceChildren(...found.slice(0, MAX_SHOWN).map((feature) => slider(feature, point, move)));
}

function slider({ index, name, low, high }, point, move) {
  const id = `slider-${index}`;
  const range = element("input", { type: "range", id, min: low, max: high, step: (high - low) / 200 });
  range.value = point[index];
  const number = element("input", { inputmode: "decimal", autocomplete: "off", "aria-label": `Value of ${name}` });
  number.value = exact(point[index]);
  range.addEventListener("input", () => {
    number.value = exact(Number(range.value));
    move(index, Number(range.value));
  });
  onNumber(number, () => point[index], (value) => {
    range.value = value;
    move(index, value);
  });
  return element("p", { class: "slider" }, element("label", { for: id, text: name }), range, number);
}

/** Call `take(value)` when a finite number was typed; anything else goes back to what it was. */
export function onNumber(field, current, take) {
  field.addEventListener("change", () => {
    const value = Math.fround(Number(field.value));
    if (field.value.trim() === "" || !Number.isFinite(value)) field.value = exact(current());
    else take(value);
  });
}
