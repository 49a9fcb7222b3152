// The server's answers. Every number on the page comes through `score`; errors keep the server's own words.

const TIMEOUT_MILLISECONDS = 15000;

/** The server answered, with an error: `code` and `message` are its own. */
export class RefusedError extends Error {
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** The server did not answer. */
export class AwayError extends Error {}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS) });
    if (response.ok) return await (options.method === "POST" ? response.arrayBuffer() : response.text());
  } catch (error) {
    throw new AwayError("The server does not answer.", { cause: error });
  }
  throw await refusal(response);
}

async function refusal(response) {
  try {
    const { code, message } = (await response.json()).error;
    return new RefusedError(code, message, response.status);
  } catch {
    return new RefusedError(`HTTP ${response.status}`, "the answer is not in this server's form.", response.status);
  }
}

/** The text of `GET /models`; equal texts mean that nothing has changed. */
export const modelsText = () => ask("/models");

/** What `GET /models/<model>/versions/<version>` says. */
export const describe = async (model, version) =>
  JSON.parse(await ask(`/models/${encodeURIComponent(model)}/versions/${version}`));

/** Path of the scoring route of one version. */
export const scorePath = (model, version) => `/models/${encodeURIComponent(model)}/score?version=${version}`;

/** Scores and gradients of rows: Float32Array [n * dim] in, { scores [n], gradients [n * dim] } out, one version. */
export async function score(model, version, rows, dim) {
  const headers = { "Content-Type": "application/octet-stream", Accept: "application/octet-stream" };
  const body = await ask(scorePath(model, version), { method: "POST", headers, body: rows });
  const table = new Float32Array(body);
  const count = rows.length / dim;
  const scores = new Float32Array(count);
  const gradients = new Float32Array(count * dim);
  for (let row = 0; row < count; row += 1) {
    const start = row * (dim + 1);
    scores[row] = table[start];
    gradients.set(table.subarray(start + 1, start + 1 + dim), row * dim);
  }
  return { scores, gradients };
}

/** A function that runs `work` one call at a time; of the calls that come meanwhile only the last is run. */
export function latestOnly(work) {
  let running = false;
  let waiting = null;
  return async (...call) => {
    waiting = call;
    if (running) return;
    running = true;
    try {
      while (waiting) {
        const next = waiting;
        waiting = null;
        await work(...next);
      }
    } finally {
      running = false;
    }
  };
}
