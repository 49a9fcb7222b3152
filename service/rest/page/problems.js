// What went wrong, at the top of the page: the last problem of each thing that is asked, until that goes well.

import { byId, say } from "/page/elements.js";
import { AwayError, RefusedError } from "/page/server.js";

const PASSING = new Set([404, 429, 503]); // what may be otherwise at the next look
const problems = new Map(); // what was asked -> what went wrong with it last

/** Tell what went wrong with `what`; null: nothing. Return whether it may pass by itself. Defects are thrown on. */
export function tell(what, error) {
  if (error === null) problems.delete(what);
  else if (error instanceof AwayError) problems.set(what, `${error.message} This page tries again every few seconds.`);
  else if (error instanceof RefusedError) problems.set(what, `${error.code}: ${error.message}`);
  else throw error;
  const [first = null] = problems.values();
  if (first !== null) say(byId("problem"), first);
  byId("problem").hidden = first === null;
  return error instanceof AwayError || PASSING.has(error?.status);
}
