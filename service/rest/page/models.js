// The list of models, and the choice of one of them and of its version.

import { byId, element, pairs } from "/page/elements.js";

const AVAILABLE = "AVAILABLE";

/** The versions that answer, newest first. */
export const live = (model) => model.versions.filter(({ state }) => state === AVAILABLE);

/** The model to begin with: the default one if it answers, else the first that does. */
export function firstChoice(models) {
  const answering = models.filter((model) => live(model).length);
  return (answering.find((model) => model.default) ?? answering[0])?.name ?? null;
}

/** Show the models; `chosen` is the name of the one looked at. Calls `choose(name)`. */
export function showModels(models, chosen, choose) {
  const focused = document.activeElement?.name === "model" ? document.activeElement.value : null;
  byId("models").replaceChildren(...models.map((model) => card(model, chosen, choose)));
  if (focused !== null) document.querySelector(`input[name="model"][value="${CSS.escape(focused)}"]`)?.focus();
  const empty = byId("no-models");
  empty.hidden = models.length > 0 && firstChoice(models) !== null;
  empty.textContent = models.length
    ? "No version of any model answers yet. This page looks again every few seconds."
    : "No model is here yet. This page looks again every few seconds.";
}

function card(model, chosen, choose) {
  const answering = live(model);
  const [newest] = model.versions;
  const [shown = newest] = answering;
  const radio = element("input", {
    type: "radio",
    name: "model",
    value: model.name,
    checked: model.name === chosen,
    disabled: !answering.length,
  });
  radio.addEventListener("change", () => choose(model.name));
  const name = element("label", { class: "name" }, radio, element("span", { text: model.name }));
  if (model.default) name.append(" ", element("span", { class: "tag", text: "default" }));
  const facts = element("dl", { class: "facts" }, ...pairs([
    ["Dimension", model.dim ?? "–"],
    ...(model.context ? [["Context", model.context.dim]] : []),
    ["Newest version", newest?.version ?? "–"],
    ["State", newest?.state ?? "–"],
    ["Engine", shown?.engine || "–"],
    ["Convexity", shown?.convexity || "–"],
    ...(shown?.made_elsewhere ? [["Made", "elsewhere"]] : []),
  ]));
  const notes = notesOf(model, newest, shown).map((text) => element("p", { class: "note", text }));
  return element("li", { class: model.name === chosen ? "model chosen" : "model" }, name, facts, ...notes);
}

function notesOf(model, newest, shown) {
  const notes = [];
  if (newest && shown !== newest) notes.push(`Version ${shown.version} answers meanwhile.`);
  for (const { version, state, reason } of model.versions) {
    if (reason) notes.push(`Version ${version}, ${state}: ${reason}`);
  }
  if (model.label_problem) notes.push(`Labels: ${model.label_problem}`);
  if (model.policy_problem) notes.push(`Version policy: ${model.policy_problem}`);
  return notes;
}

/** Offer the versions of a model that answer; `wanted` is a version, or null for the newest. */
export function showVersions(model, wanted) {
  const labelled = (version) =>
    Object.entries(model.labels).filter(([, meant]) => meant === version).map(([label]) => `, ${label}`).join("");
  const answering = live(model);
  const options = answering.map(({ version }) => element("option", {
    value: version, text: `${version}${labelled(version)}`, selected: version === wanted }));
  const newest = element("option", { value: "", text: `newest (${answering[0].version})`, selected: wanted === null });
  byId("version").replaceChildren(newest, ...options);
  byId("version-row").hidden = false;
}
