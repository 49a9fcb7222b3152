// The certificate of a version in words.

import { byId, element, pairs } from "/page/elements.js";
import { rough } from "/page/numbers.js";

/** Show what `GET /models/<model>/versions/<version>` said. */
export function showCertificate(details) {
  byId("trust").hidden = false;
  byId("certificate").replaceChildren(...(details.certificate ? words(details) : [unproved(details)]));
}

function unproved({ unproved_reason: reason }) {
  const text = `Not proved convex${reason ? `: ${reason}` : "."} Nothing above is promised for this version.`;
  return element("p", { class: "note", text });
}

function words({ certificate, version, engine, created }) {
  const { steps, strong_convexity: strong, rounding_margin: margin } = certificate;
  const sentences = [
    `Version ${version}${created ? `, made ${created.replace("T", " ").replace("Z", " UTC")},` : ""} is proved convex in ` +
      `${steps.length} ${steps.length === 1 ? "step" : "steps"}. This server made the proof itself when it loaded the version, from the files that it serves` +
      ` (engine: ${engine}).`,
    strong > 0
      ? `Strong convexity: f(x) − m/2·|x|² is still convex for m = ${rough(strong, 3)}, in the features' own units.`
      : "Strong convexity: none is claimed.",
    `Rounding margin: float32 scores lay within ${rough(margin, 3)} of the float64 ones on the verification rows, as a ` +
      "share of the score (of 1 where that is larger).",
    certificate.gradient === "checked"
      ? "Gradient: the model's own, checked to be a subgradient."
      : "Gradient: derived from the proved program.",
  ];
  const list = steps.map((step) => element("li", {},
    element("code", { text: step.node }),
    ` ${step.curvature} by ${step.rule}${step.min_weight === undefined ? "" : `, least weight ${rough(step.min_weight, 3)}`}`));
  const hashes = pairs([["weights", certificate.weights_sha256], ["program", certificate.program_sha256]]);
  return [
    ...sentences.map((text) => element("p", { text })),
    element("details", {}, element("summary", { text: "The proof, step by step" }),
      element("ol", { class: "steps" }, ...list), element("dl", { class: "hashes" }, ...hashes)),
  ];
}
