// What the server answered at the point, in numbers and words.

import { mapsColours, showColour } from "/page/colours.js";
import { byId, element } from "/page/elements.js";
import { exact, rough } from "/page/numbers.js";
import { scorePath } from "/page/server.js";
import { tangentCheck } from "/page/space.js";

const NUM_BARS = 8;
const SPEAK_AFTER_MILLISECONDS = 500;
let speaking = 0;

/** Show score, verdict and gradient of an answer { point, scores, gradients }. */
export function showAnswer(answer, details, features) {
  const [score] = answer.scores;
  byId("score").textContent = exact(score);
  const verdict = verdictOf(score, details.threshold);
  byId("verdict").hidden = verdict === null;
  byId("verdict").textContent = verdict ?? "";
  byId("verdict").classList.toggle("inside", score <= details.threshold);
  if (mapsColours(details)) showPointColours(answer.point, answer.gradients);
  const largest = showGradient(answer, features);
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    byId("spoken").textContent = `Score ${rough(score)}. ${verdict ?? ""} Largest gradient entry: ${largest.name}, ${rough(largest.value)}.`;
  }, SPEAK_AFTER_MILLISECONDS);
}

function showPointColours(point, gradient) {
  showColour(byId("point-from"), byId("point-from-words"), point);
  showColour(byId("point-to"), byId("point-to-words"), gradient);
}

/** Show that there is no answer at the point: what was shown belongs to another one. */
export function showNoAnswer() {
  clearTimeout(speaking);
  byId("score").textContent = "–";
  byId("verdict").hidden = true;
  showPointColours(null, null);
  byId("spoken").textContent = "No score.";
  byId("gradient").replaceChildren();
  byId("hyperplane").textContent = "–";
}

function verdictOf(score, threshold) {
  if (threshold === null) return null;
  return score <= threshold
    ? `inside the convex acceptance region: score ≤ ${threshold}`
    : `outside the convex acceptance region: score > ${threshold}`;
}

/** Show the largest entries as bars; return the first. */
function showGradient({ gradients }, features) {
  const perDeviation = byId("unit").value === "deviation";
  const entries = features.filter(({ isContext }) => !isContext).map(({ index, name, deviation }) => ({
    name,
    value: perDeviation ? gradients[index] * deviation : gradients[index],
  }));
  entries.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const largest = Math.abs(entries[0].value) || 1;
  byId("gradient").replaceChildren(...entries.slice(0, NUM_BARS).map(({ name, value }) => {
    const bar = element("span", { class: value < 0 ? "bar negative" : "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", Math.abs(value) / largest);
    const text = perDeviation ? rough(value) : exact(value);
    return element("li", {}, element("span", { class: "entry", text: name }), bar, element("data", { value: text, text }));
  }));
  return entries[0];
}

/** Say how the tangent plane at the point lies to the grid; nothing while there is only one of the two. */
export function showHyperplane(answer, picture) {
  if (!answer || !picture) return;
  const { above, count, smallest } = tangentCheck(answer.point, answer, picture);
  const all = above === count;
  byId("hyperplane").textContent =
    `f(z) ≥ f(x) + g·(z − x) holds at ${all ? `all ${count}` : `${above} of ${count}`} points z of this picture, ` +
    `within 16 ulp of rounding; the smallest gap is ${rough(smallest, 3)}.`;
  byId("hyperplane").classList.toggle("broken", !all);
}

/** Show the curl command that asks the server for the same point. */
export function showCurl(point, details) {
  const numbers = Array.from(point, exact);
  const row = numbers.slice(0, details.dim).join(", ");
  const context = details.context ? `, "context": [[${numbers.slice(details.dim).join(", ")}]]` : "";
  byId("curl").textContent =
    `curl '${location.origin}${scorePath(details.model, details.version)}' -d '{"instances": [[${row}]]${context}}'`;
}
