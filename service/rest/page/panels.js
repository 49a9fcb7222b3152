// Panels for models of a special shape, below the plot: each says which models are its own and builds itself.
//
// A panel is { accepts(details) -> bool, build(details, server) -> element }: `details` is what the server says of the
// version, `server.score(model, version, rows, dim)` the one way to its numbers.

const PANELS = [];

/** Whether a version's features are the three channels of a picture. */
export const isColours = ({ features }) => ["red", "green", "blue"].every((name, k) => features[k] === name) && features.length === 3;

/** Put the panels of a version into `place`. */
export function showPanels(place, details, server) {
  place.replaceChildren(...PANELS.filter((panel) => panel.accepts(details)).map((panel) => panel.build(details, server)));
}
