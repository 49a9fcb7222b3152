// The held-out metrics of a version beside those of its baselines: without them a number says little.

import { byId, element, pairs } from "/page/elements.js";
import { rough } from "/page/numbers.js";

const OWN = "this version";
const COUNT = "rows"; // a fact of the held-out rows, not a metric
const NOTHING = "–";

const isNumber = (value) => typeof value === "number";
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const written = (value) => (Number.isInteger(value) ? String(value) : rough(value));

/**
 * Show `metrics` of `GET /models/<model>/versions/<version>`: { held_out: { metric: number }, baselines: { name: { metric: number } } }.
 * The columns are the metrics of the version itself; without any there is nothing to compare.
 */
export function showMetrics({ held_out: heldOut, baselines }) {
  const own = isObject(heldOut) ? heldOut : {};
  const names = Object.keys(own).filter((name) => name !== COUNT && isNumber(own[name]));
  const others = Object.entries(isObject(baselines) ? baselines : {}).filter(([, numbers]) => isObject(numbers));
  const count = isNumber(own[COUNT]) ? own[COUNT].toLocaleString("en") : null;
  const instead = () => element("dl", {}, ...pairs([["held-out rows", count ?? "none recorded"]]));
  byId("metrics").replaceChildren(names.length ? table([[OWN, own], ...others], names, count) : instead());
}

/** One row a method, one column a metric. */
function table(methods, names, count) {
  const whose = methods.length > 1 ? "This version and its baselines" : "This version";
  const rows = count === null ? "the held-out rows" : `${count} held-out ${count === "1" ? "row" : "rows"}`;
  const heads = names.map((name) => element("th", { scope: "col", text: name.replaceAll("_", " ") }));
  const body = methods.map(([method, numbers], k) => element("tr", { class: k === 0 ? "own" : null },
    element("th", { scope: "row", text: method }),
    ...names.map((name) => element("td", { text: isNumber(numbers[name]) ? written(numbers[name]) : NOTHING }))));
  return element("table", {},
    element("caption", {}, element("span", { text: `${whose} on ${rows}` })),
    element("thead", {}, element("tr", {}, element("td"), ...heads)),
    element("tbody", {}, ...body));
}
