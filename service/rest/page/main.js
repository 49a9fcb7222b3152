// The page: what is chosen, what is asked, what is shown. The other modules know nothing of each other's state.

import { showCertificate } from "/page/certificate.js";
import { mapsColours } from "/page/colours.js";
import { byId, element } from "/page/elements.js";
import { showMetrics } from "/page/metrics.js";
import { firstChoice, live, showModels, showVersions } from "/page/models.js";
import { exact } from "/page/numbers.js";
import { Panel } from "/page/panel.js";
import { Plot } from "/page/plot.js";
import { listen } from "/page/pointer.js";
import { tell as tellProblem } from "/page/problems.js";
import { showAnswer, showCurl, showHyperplane, showNoAnswer } from "/page/readings.js";
import * as server from "/page/server.js";
import { onNumber, showSliders } from "/page/sliders.js";
import { features as featuresOf, grid } from "/page/space.js";

const LOOK_AGAIN_MILLISECONDS = 3000;
const LOOK_SOON_MILLISECONDS = 1000; // while something is missing

const PICTURE_KEYS = [
  "The straight line is the tangent at the point.",
  "Lines join equal scores; arrows show the gradient as it lies in this picture.",
];

const plot = new Plot(byId("plot"));
const panel = new Panel({ tell, take: moveAll });
const state = {
  text: "", // of GET /models
  models: [],
  model: null, // name
  wanted: null, // version, or null for the newest
  details: null,
  features: [],
  axes: [],
  point: null,
  answer: null,
  picture: null,
};

// ------------------------------------------------------------------------------------------------------- problems
let numAsking = 0;

/** Tell a problem of `what`, or that there is none (null); what may pass is looked at again soon. */
function tell(what, error) {
  if (!tellProblem(what, error)) return;
  state.text = ""; // the next look asks all anew
  lookLater();
}

/** Run some work that asks the server for `what`; tell its errors. Return whether it went well. */
async function telling(what, work) {
  numAsking += 1;
  document.querySelector("main").setAttribute("aria-busy", "true");
  try {
    await work();
    tell(what, null);
    return true;
  } catch (error) {
    tell(what, error);
    return false;
  } finally {
    numAsking -= 1;
    if (!numAsking) document.querySelector("main").setAttribute("aria-busy", "false");
  }
}

// ------------------------------------------------------------------------------------------------ models, versions
const look = server.latestOnly(() => telling("models", async () => {
  const text = await server.modelsText();
  if (text === state.text) return;
  state.text = text;
  state.models = JSON.parse(text).models;
  const chosen = state.models.find(({ name }) => name === state.model);
  if (!chosen || !live(chosen).length) {
    state.model = firstChoice(state.models);
    state.wanted = null;
  }
  await load();
}));

/** Bring up the chosen version of the chosen model; the point stays where it was if the features are the same. */
const load = server.latestOnly(() => telling("version", async () => {
  showModels(state.models, state.model, choose);
  const model = state.models.find(({ name }) => name === state.model);
  if (!model) {
    byId("explore").hidden = byId("trust").hidden = byId("version-row").hidden = true;
    panel.show(null);
    return;
  }
  const answering = live(model).map(({ version }) => version);
  if (!answering.includes(state.wanted)) state.wanted = null;
  showVersions(model, state.wanted);
  const details = await server.describe(model.name, state.wanted ?? answering[0]);
  const features = featuresOf(details);
  if (state.details?.model === details.model && names(state.features) === names(features)) {
    state.axes = state.axes.map(({ index }) => features[index]);
  } else {
    const start = Float32Array.from(features, (feature) => feature.start);
    state.axes = await steepest(details, features, start);
    state.point = start;
    byId("search").value = "";
  }
  Object.assign(state, { details, features });
  byId("explore").hidden = false;
  showCertificate(details);
  showMetrics(details.metrics);
  byId("point-colours").hidden = !mapsColours(details);
  byId("threshold-key").hidden = details.threshold === null;
  byId("picture-key").textContent = PICTURE_KEYS[state.axes.length - 1];
  showAxes();
  panel.show(details);
  await Promise.all([askPicture(), askPoint()]);
}));

const names = (features) => JSON.stringify(features.map(({ name }) => name));

/** The two features whose deviations move the score most at the start, in their own order. */
async function steepest(details, features, start) {
  const { gradients } = await server.score(details, start);
  const weight = ({ index, deviation }) => Math.abs(gradients[index] * deviation);
  const order = features.filter(({ isContext }) => !isContext).sort((a, b) => weight(b) - weight(a)).slice(0, 2);
  return order.sort((a, b) => a.index - b.index);
}

function choose(name) {
  state.model = name;
  state.wanted = null;
  load();
}

byId("version").addEventListener("change", (event) => {
  state.wanted = event.target.value === "" ? null : Number(event.target.value);
  load();
});

// ------------------------------------------------------------------------------------------------ picture and point
const askPicture = server.latestOnly(() => telling("picture", async () => {
  const { details, axes } = state;
  const made = grid(state.point, axes);
  const { scores, gradients } = await server.score(details, made.rows);
  if (details !== state.details || axes !== state.axes) return;
  state.picture = { axes, grid: made, scores, gradients, threshold: details.threshold };
  showHyperplane(current(), state.picture);
  plot.show({ picture: state.picture });
}));

const askPoint = server.latestOnly(async () => {
  const { details, features } = state;
  const point = state.point.slice();
  const answered = await telling("point", async () => {
    const { scores, gradients } = await server.score(details, point);
    if (details !== state.details) return;
    state.answer = { point, scores, gradients };
    showAnswer(state.answer, details, features);
    showHyperplane(current(), state.picture);
  });
  if (!answered) {
    state.answer = null;
    showNoAnswer();
  }
  plot.show({ answer: state.answer });
});

/** The answer, where it belongs to the picture: all features but the axes are those of the grid. */
function current() {
  const { answer, picture } = state;
  if (!answer || !picture || answer.point.length !== state.point.length) return null;
  const isAxis = (index) => picture.axes.some((axis) => axis.index === index);
  const inGrid = picture.grid.rows;
  return answer.point.every((value, index) => isAxis(index) || value === inGrid[index]) ? answer : null;
}

/** Move the point to the values of some features: {index: value}. The picture is asked again only if it changes. */
function move(values) {
  let leavesPicture = false;
  for (const [key, value] of Object.entries(values)) {
    state.point[key] = value;
    leavesPicture ||= !state.axes.some(({ index }) => index === Number(key));
  }
  showPoint();
  askPoint();
  if (leavesPicture) askPicture();
}

function showPoint() {
  state.axes.forEach(({ index }, k) => {
    byId(`value-${k}`).value = exact(state.point[index]);
  });
  showCurl(state.point, state.details);
  const where = state.axes.map(({ index, name }) => `${name} ${exact(state.point[index])}`).join(", ");
  byId("plot").setAttribute("aria-label", `Contour plot of the score. Point at ${where}`);
  plot.show({ point: state.point });
}

// ------------------------------------------------------------------------------------------------ axes and sliders
function showAxes() {
  byId("axis-1-field").hidden = state.axes.length < 2;
  state.axes.forEach((axis, k) => {
    byId(`axis-${k}`).replaceChildren(...state.features.filter(({ isContext }) => !isContext).map(({ index, name }) =>
      element("option", { value: index, text: name, selected: index === axis.index })));
  });
  showOthers();
  showPoint();
}

const showOthers = () =>
  showSliders(state.features, state.axes, state.point, (index, value) => move({ [index]: value }));

[0, 1].forEach((k) => {
  byId(`axis-${k}`).addEventListener("change", (event) => {
    const chosen = state.features[Number(event.target.value)];
    const axes = [...state.axes];
    if (axes[1 - k]?.index === chosen.index) axes[1 - k] = axes[k]; // the same twice: they change places
    axes[k] = chosen;
    state.axes = axes;
    showAxes();
    askPicture();
  });
  onNumber(byId(`value-${k}`), () => state.point[state.axes[k].index], (value) => move({ [state.axes[k].index]: value }));
});

byId("search").addEventListener("input", showOthers);
byId("unit").addEventListener("change", () => state.answer && showAnswer(state.answer, state.details, state.features));

/** Move the point to a whole row. */
function moveAll(row) {
  move({ ...row });
  showOthers();
}

const home = () => moveAll(state.features.map(({ start }) => start));

byId("reset").addEventListener("click", home);

listen(byId("plot"), {
  moveTo(x, y) {
    if (!state.picture || state.picture.axes !== state.axes) return;
    const values = plot.valuesAt(x, y);
    move(Object.fromEntries(state.axes.map(({ index }, k) => [index, values[k]])));
  },
  moveBy(...shares) {
    move(Object.fromEntries(state.axes.map(({ index, low, high }, k) =>
      [index, state.point[index] + shares[k] * (high - low)])));
  },
  home,
});

// ------------------------------------------------------------------------------------------------------------ curl
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(byId("curl"));
    byId("copied").textContent = "Selected: copy it with the keyboard.";
  }
});

// ---------------------------------------------------------------------------------------------------- looking again
let nextLook = 0;

async function keepLooking() {
  if (!document.hidden) await look();
  lookLater();
}

function lookLater() {
  clearTimeout(nextLook);
  const isWhole = state.text !== "" && state.model !== null;
  nextLook = setTimeout(keepLooking, isWhole ? LOOK_AGAIN_MILLISECONDS : LOOK_SOON_MILLISECONDS);
}

document.addEventListener("visibilitychange", () => document.hidden || look());
keepLooking();
