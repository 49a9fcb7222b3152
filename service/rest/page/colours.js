// Colours: numbers 0..255 for red, green, blue. A gradient of a function of these three is a colour again.

import { say } from "/page/elements.js";

const FEATURES = JSON.stringify(["red", "green", "blue"]);

/** Whether a version's gradient maps a colour to a colour: its features are red, green and blue. */
export const mapsColours = ({ features, context }) => !context && JSON.stringify(features) === FEATURES;

/** Three numbers as a colour that can be shown: rounded (halves to even) and clipped to 0..255. */
export const shown = (numbers) => Array.from(Uint8ClampedArray.from(numbers));

/** Show a colour in a swatch, an element of that class, and in words beside it. */
export function showColour(swatch, words, numbers) {
  const colour = numbers && shown(numbers);
  swatch.style.setProperty("--colour", colour ? `rgb(${colour.join(" ")})` : "transparent");
  say(words, colour ? colour.join(" ") : "–");
}

/**
 * The distinct colours of a picture, in the order in which they appear in it, and what each becomes. A score does not
 * depend on the other rows of its request, so each colour is asked once. Fully transparent pixels have no colour.
 */
export class Palette {
  /** @param pixels red, green, blue, alpha of each pixel, row by row */
  constructor(pixels) {
    this.pixels = pixels;
    this.numPixels = pixels.length / 4;
    const number = new Int32Array(2 ** 24); // of each colour, from 1; 0: not in the picture
    const first = new Uint32Array(this.numPixels); // of each colour in the picture: the pixel where it appears first
    this.colourOf = new Int32Array(this.numPixels);
    let size = 0;
    for (let pixel = 0; pixel < this.numPixels; pixel += 1) {
      const at = 4 * pixel;
      if (pixels[at + 3] === 0) continue;
      const colour = (pixels[at] << 16) | (pixels[at + 1] << 8) | pixels[at + 2];
      if (!number[colour]) {
        first[size] = pixel;
        size += 1;
        number[colour] = size;
      }
      this.colourOf[pixel] = number[colour] - 1;
    }
    this.size = size;
    this.first = first.slice(0, size);
    this.images = new Uint8ClampedArray(3 * size);
    this.numKnown = 0;
  }

  /** The next colours whose images are not known, at most `count`, as rows: Float32Array [n * 3]. */
  next(count) {
    const wanted = this.first.subarray(this.numKnown, this.numKnown + count);
    const rows = new Float32Array(3 * wanted.length);
    for (let k = 0; k < rows.length; k += 1) rows[k] = this.pixels[4 * wanted[Math.floor(k / 3)] + (k % 3)];
    return rows;
  }

  /** Take the gradients of those colours as their images: Uint8ClampedArray rounds (halves to even) and clips. */
  take(gradients) {
    this.images.set(gradients, 3 * this.numKnown);
    this.numKnown += gradients.length / 3;
  }

  /** How many pixels from the top, row by row, have a known image. */
  get numReady() {
    return this.numKnown < this.size ? this.first[this.numKnown] : this.numPixels;
  }

  /** Write the images of the pixels `from` to `to` (exclusive); alpha stays, and so do fully transparent pixels. */
  paint(into, from, to) {
    for (let pixel = from; pixel < to; pixel += 1) {
      const at = 4 * pixel;
      const isTransparent = this.pixels[at + 3] === 0;
      const [source, start] = isTransparent ? [this.pixels, at] : [this.images, 3 * this.colourOf[pixel]];
      for (let k = 0; k < 3; k += 1) into[at + k] = source[start + k];
      into[at + 3] = this.pixels[at + 3];
    }
  }
}
