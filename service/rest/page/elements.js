// Elements of the document. Text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** Set a text where it changes: screen readers speak every text that is set anew in a live region. */
export function say(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** A new element: attributes by name (`text` and `class` among them), then children. */
export function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** The entries of a description list, as many pairs of term and description. */
export const pairs = (entries) =>
  entries.map(([term, what]) => element("div", {}, element("dt", { text: term }), element("dd", { text: what })));
