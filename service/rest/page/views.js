// Two canvases of equal size, the original beside the recoloured picture, and the pixel that is looked at in both.

import { showColour } from "/page/colours.js";
import { byId, say } from "/page/elements.js";
import { onKeys, placeOf } from "/page/pointer.js";

const TINY = 96; // pixels: a picture below this is shown with its pixels as squares

export class Views {
  /** @param take called with the colour [red, green, blue] of the original's pixel that was chosen */
  constructor(take) {
    this.take = take;
    this.canvases = [byId("original"), byId("recoloured")];
    this.contexts = this.canvases.map((canvas) => canvas.getContext("2d", { willReadFrequently: true }));
    this.pixel = null; // { x, y }
    for (const canvas of this.canvases) {
      canvas.addEventListener("click", (event) => this.choose(this.pixelAt(canvas, ...placeOf(event, canvas))));
    }
    onKeys(this.canvases[0], {
      moveBy: (across, up) => {
        const { x, y } = this.pixel ?? this.middle();
        const step = (share, side) => Math.sign(share) * Math.max(1, Math.round(Math.abs(share) * side));
        this.choose({ x: x + step(across, this.canvases[0].width), y: y - step(up, this.canvases[0].height) });
      },
      home: () => this.choose(this.middle()),
    });
    new ResizeObserver(() => this.mark()).observe(this.canvases[0]);
  }

  /** Show another original, and nothing beside it. */
  begin({ name, pixels }) {
    for (const canvas of this.canvases) {
      [canvas.width, canvas.height] = [pixels.width, pixels.height]; // this clears it
      canvas.classList.toggle("tiny", Math.max(pixels.width, pixels.height) < TINY);
    }
    this.name = name;
    this.contexts[0].putImageData(pixels, 0, 0);
    this.canvases[1].setAttribute("aria-label", `Recoloured: ${name}`);
    this.pixel = null;
    this.mark();
  }

  /** Show the recoloured picture anew from the pixel `from` to the pixel `to`, counted row by row. */
  paint(image, from, to) {
    const top = Math.floor(from / image.width);
    const bottom = Math.ceil(to / image.width);
    this.contexts[1].putImageData(image, 0, 0, 0, top, image.width, bottom - top);
    this.mark();
  }

  middle() {
    const [{ width, height }] = this.canvases;
    return { x: width >> 1, y: height >> 1 };
  }

  choose({ x, y }) {
    const [{ width, height }] = this.canvases;
    this.pixel = { x: Math.max(0, Math.min(width - 1, x)), y: Math.max(0, Math.min(height - 1, y)) };
    this.mark();
    const colour = this.colourIn(this.contexts[0]);
    if (colour) this.take(colour);
  }

  /** The colour of the pixel in a picture; null where the picture is transparent or not there yet. */
  colourIn(context) {
    const { x, y } = this.pixel;
    const [red, green, blue, alpha] = context.getImageData(x, y, 1, 1).data;
    return alpha ? [red, green, blue] : null;
  }

  /** Where a picture lies in its canvas: as large as fits, in the middle. */
  box({ clientWidth, clientHeight, width, height }) {
    const scale = Math.min(clientWidth / width, clientHeight / height);
    return { scale, left: (clientWidth - scale * width) / 2, top: (clientHeight - scale * height) / 2 };
  }

  pixelAt(canvas, x, y) {
    const { scale, left, top } = this.box(canvas);
    return { x: Math.floor((x - left) / scale), y: Math.floor((y - top) / scale) };
  }

  /** Show where the pixel is and what its colours are. */
  mark() {
    const where = this.pixel ? `Pixel ${this.pixel.x} across, ${this.pixel.y} down` : "No pixel is chosen";
    say(byId("pixel-place"), `${where}.`);
    byId("pixel-colours").hidden = this.pixel === null;
    this.canvases[0].setAttribute("aria-label", `Original: ${this.name}. ${where}`);
    this.canvases.forEach((canvas) => {
      const mark = canvas.nextElementSibling;
      mark.hidden = this.pixel === null;
      if (mark.hidden) return;
      const { scale, left, top } = this.box(canvas);
      mark.style.left = `${left + scale * (this.pixel.x + 0.5)}px`;
      mark.style.top = `${top + scale * (this.pixel.y + 0.5)}px`;
    });
    if (!this.pixel) return;
    showColour(byId("pixel-from"), byId("pixel-from-words"), this.colourIn(this.contexts[0]));
    showColour(byId("pixel-to"), byId("pixel-to-words"), this.colourIn(this.contexts[1]));
  }
}
