// Asking for the image of every colour of a picture, request by request, patiently.

import { gradients } from "/page/server.js";

const DIM = 3;
const ROWS = 16384; // of one request: 192 KB each way
const LEAST_ROWS = 256;
const TOO_LARGE = 413;
const BUSY = new Set([429, 503]);
const TRIES = 5;
const USUAL_WAIT_SECONDS = 1; // of a busy server that names no time
const LONGEST_WAIT_SECONDS = 30;

/**
 * Ask for the colours of a palette whose images are not known yet, and take the answers.
 *
 * @param palette is asked from where it stands: to go on, call this again with the same one
 * @param version { model, version } that is asked
 * @param signal ends it: what comes after is dropped, and this rejects
 * @param told onAnswer() after every answer, onWait(seconds) before the same colours are asked again
 */
export async function recolour(palette, { model, version }, signal, { onAnswer, onWait }) {
  let count = ROWS;
  while (palette.numKnown < palette.size) {
    const rows = palette.next(count);
    try {
      const images = await patiently(() => gradients(model, version, rows, DIM, signal), signal, onWait);
      signal.throwIfAborted(); // others may ask for this palette by now
      palette.take(images);
      onAnswer();
    } catch (error) {
      if (error.status !== TOO_LARGE || count <= LEAST_ROWS) throw error;
      count = Math.max(LEAST_ROWS, count >> 1); // this server takes fewer rows at a time
    }
  }
}

async function patiently(ask, signal, onWait) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask();
    } catch (error) {
      if (!BUSY.has(error.status) || tries === TRIES) throw error;
      const seconds = Math.min(error.retryAfterSeconds ?? USUAL_WAIT_SECONDS, LONGEST_WAIT_SECONDS);
      onWait(seconds);
      await pause(seconds, signal);
    }
  }
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  signal.throwIfAborted();
  const end = () => {
    clearTimeout(timer);
    reject(signal.reason);
  };
  const timer = setTimeout(() => {
    signal.removeEventListener("abort", end);
    resolve();
  }, 1000 * seconds);
  signal.addEventListener("abort", end, { once: true });
});
