// The server's answers. Every number on the page comes through `score`; errors keep the server's own words.

const TIMEOUT_MILLISECONDS = 15000;

/** The server answered, with an error: `code` and `message` are its own, and when to ask again, where it says so. */
export class RefusedError extends Error {
  constructor(code, message, status, retryAfterSeconds = null) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The server did not answer. */
export class AwayError extends Error {}

/** Ask, and read the answer with `read(response)`; a `cancel` signal ends the wait as if the server were away. */
async function ask(path, read, { cancel = null, ...options } = {}) {
  let response;
  const timeout = AbortSignal.timeout(TIMEOUT_MILLISECONDS);
  const signal = cancel ? AbortSignal.any([cancel, timeout]) : timeout;
  try {
    response = await fetch(path, { cache: "no-store", ...options, signal });
    if (response.ok) return await read(response);
  } catch (error) {
    throw new AwayError("The server does not answer.", { cause: error });
  }
  throw await refusal(response);
}

async function refusal(response) {
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  try {
    const { code, message } = (await response.json()).error;
    return new RefusedError(code, message, response.status, seconds >= 0 ? seconds : null);
  } catch {
    return strange(response.status, seconds >= 0 ? seconds : null);
  }
}

const strange = (status, seconds = null) =>
  new RefusedError(`HTTP ${status}`, "the answer is not in this server's form.", status, seconds);

const asText = (response) => response.text();
const asBlob = (response) => response.blob();
const asBytes = (response) => response.arrayBuffer();

/** The text of `GET /models`; equal texts mean that nothing has changed. */
export const modelsText = () => ask("/models", asText);

/** What `GET /models/<model>/versions/<version>` says. */
export const describe = async (model, version) =>
  JSON.parse(await ask(`/models/${encodeURIComponent(model)}/versions/${version}`, asText));

/** A file of this page as a blob. */
export const file = (path) => ask(path, asBlob, { cache: "default" });

/** Path of the scoring route of one version; without `outputs` it answers both. */
export const scorePath = (model, version, outputs = null) =>
  `/models/${encodeURIComponent(model)}/score?${outputs === null ? "" : `outputs=${outputs}&`}version=${version}`;

/** The table of `width` float32 columns that a scoring route answers to `count` rows. */
async function post(path, rows, count, width, cancel = null) {
  const headers = { "Content-Type": "application/octet-stream", Accept: "application/octet-stream" };
  const body = await ask(path, asBytes, { method: "POST", headers, body: rows, cancel });
  if (body.byteLength !== Float32Array.BYTES_PER_ELEMENT * count * width) throw strange(200);
  return new Float32Array(body);
}

/**
 * Scores and gradients of rows: Float32Array [n * width] in, { scores [n], gradients [n * dim] } out, one version. A row
 * is x, and behind it the context, if there is one.
 */
export async function score({ model, version, dim, context }, rows) {
  const count = rows.length / (dim + (context?.dim ?? 0));
  const table = await post(scorePath(model, version), rows, count, dim + 1);
  const scores = new Float32Array(count);
  const gradients = new Float32Array(count * dim);
  for (let row = 0; row < count; row += 1) {
    const start = row * (dim + 1);
    scores[row] = table[start];
    gradients.set(table.subarray(start + 1, start + 1 + dim), row * dim);
  }
  return { scores, gradients };
}

/** Gradients of rows alone, as rows: Float32Array [n * dim] in and out, one version; `cancel` ends the wait. */
export const gradients = (model, version, rows, dim, cancel) =>
  post(scorePath(model, version, "gradient"), rows, rows.length / dim, dim, cancel);

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
