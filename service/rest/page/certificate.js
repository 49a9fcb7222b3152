// The certificate of a version in words.

import { byId, element, pairs } from "/page/elements.js";
import { rough } from "/page/numbers.js";

const MOST_STEPS = 60; // of the proof of a deep network, hundreds would push everything else away

/** Show what `GET /models/<model>/versions/<version>` said. */
export function showCertificate(details) {
  byId("trust").hidden = false;
  byId("certificate").replaceChildren(...(details.certificate ? words(details) : [unproved(details)]));
}

function unproved({ unproved_reason: reason }) {
  const text = `Not proved convex${reason ? `: ${reason}` : "."} Nothing above is promised for this version.`;
  return element("p", { class: "note", text });
}

function words({ certificate, version, engine, created, made_elsewhere: elsewhere }) {
  const { num_steps: count, strong_convexity: strong, rounding_margin: margin, untaken } = certificate;
  const sentences = [
    `Version ${version}${created ? `, made ${created.replace("T", " ").replace("Z", " UTC")},` : ""} is proved convex in ` +
      `${count} ${count === 1 ? "step" : "steps"}. This server made the proof itself when it loaded the version, from the files that it serves` +
      ` (engine: ${engine}).`,
    certificate.for_each
      ? `It is convex in ${certificate.convex_in.join(", ")} for each ${certificate.for_each.join(", ")}: between rows of ` +
        "different contexts nothing is claimed."
      : "",
    elsewhere ? "The model was made elsewhere: its files say nothing of the data, of held-out metrics or of the names of features." : "",
    strong > 0
      ? `Strong convexity: f(x) − m/2·|x|² is still convex for m = ${rough(strong, 3)}, in the features' own units.`
      : "Strong convexity: none is claimed.",
    `Rounding margin: float32 scores lay within ${rough(margin, 3)} of the float64 ones on the verification rows, as a ` +
      "share of the score (of 1 where that is larger).",
    GRADIENTS[elsewhere ? "program" : certificate.gradient](certificate.gradient),
    untaken.length ? `On the verification rows some units of these nodes took one branch only: ${untaken.join(", ")}.` : "",
  ];
  const hashes = pairs([["weights", certificate.weights_sha256], ["program", certificate.program_sha256]]);
  return [
    ...sentences.filter(Boolean).map((text) => element("p", { text })),
    element("details", {}, element("summary", { text: `The proof, step by step (${count})` }),
      table(certificate), element("dl", { class: "hashes" }, ...hashes)),
  ];
}

const GRADIENTS = {
  checked: () => "Gradient: the model's own, checked to be a subgradient.",
  derived: () => "Gradient: derived from the proved program.",
  program: (gradient) => `Gradient: derived from the proved program${gradient === "checked" ? "; the file's own agrees with it" : ""}.`,
};

/** The first steps of the proof as a table, with how many there are. */
function table({ steps, num_steps: count }) {
  const shown = steps.slice(0, MOST_STEPS);
  const part = shown.length < count ? `The first ${shown.length} of ${count} steps` : `${count} ${count === 1 ? "step" : "steps"}`;
  const heads = ["", "Node", "Rule", "Shows", "Least weight"].map((text) => element("th", { scope: "col", text }));
  const rows = shown.map(({ node, rule, curvature, min_weight: least }, number) => element("tr", {},
    element("td", { text: number + 1 }), element("td", {}, element("code", { text: node })), element("td", { text: rule }),
    element("td", { text: curvature }), element("td", { text: least === undefined ? "" : rough(least, 3) })));
  return element("div", { class: "steps", role: "region", "aria-label": "Steps of the proof", tabindex: "0" },
    element("table", {}, element("caption", { text: part }),
      element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)));
}
