// The picture: contours of the score, its gradient as arrows, the threshold, the point. One canvas, redrawn whole.

import { levels, segments } from "/page/contours.js";
import { rough } from "/page/numbers.js";

const MARGIN = { left: 56, right: 12, top: 12, bottom: 44 };
const NUM_LEVELS = 12;
const ARROW_PIXELS = 44; // from one arrow to the next, about
const LABEL_AT = 0.86; // contours are labelled near this share of the width
const LABEL_PIXELS = 34; // least distance of two labels

export class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.picture = null; // { axes, grid, scores, gradients, threshold }
    this.shading = null;
    this.point = null;
    this.answer = null;
    this.frame = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.shading = null;
      this.draw();
    });
  }

  show({ picture = this.picture, point = this.point, answer = this.answer }) {
    if (picture !== this.picture) this.shading = null;
    Object.assign(this, { picture, point, answer });
    this.draw();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  /** Feature values under a place on the canvas, kept inside the picture. */
  valuesAt(x, y) {
    const box = this.box();
    const shares = [(x - box.left) / box.width, 1 - (y - box.top) / box.height];
    return this.picture.axes.map(({ low, high }, k) => low + (high - low) * Math.max(0, Math.min(1, shares[k])));
  }

  box() {
    const { clientWidth, clientHeight } = this.canvas;
    return {
      left: MARGIN.left,
      top: MARGIN.top,
      width: clientWidth - MARGIN.left - MARGIN.right,
      height: clientHeight - MARGIN.top - MARGIN.bottom,
    };
  }

  paint() {
    const { canvas, context } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !this.picture) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    this.ink = (name) => style.getPropertyValue(`--${name}`).trim();
    context.font = `12px ${style.fontFamily}`;
    if (this.picture.axes.length === 2) this.paintPlane();
    else this.paintCurve();
  }

  paintPlane() {
    const { context, picture } = this;
    const box = this.box();
    const { n } = picture.grid;
    const toX = (i) => box.left + (i / (n - 1)) * box.width;
    const toY = (j) => box.top + (1 - j / (n - 1)) * box.height;
    this.clipped(box, () => {
      this.paintShading(box, n);
      const drawn = levels(picture.scores, NUM_LEVELS);
      for (const level of drawn) this.paintLevel(level, n, toX, toY, "contour", 1);
      this.paintArrows(box, n, toX, toY);
      if (picture.threshold !== null) {
        this.paintLevel(picture.threshold, n, toX, toY, "plot-halo", 6);
        this.paintLevel(picture.threshold, n, toX, toY, "threshold", 3);
      }
      this.paintLabels(box, drawn, n, toX, toY);
    });
    this.paintTicks(box, picture.axes[1].low, picture.axes[1].high, picture.axes[1].name);
    if (!this.point) return;
    const [across, up] = picture.axes;
    const share = ({ index, low, high }) => (this.point[index] - low) / (high - low);
    this.paintPoint(box, box.left + share(across) * box.width, box.top + (1 - share(up)) * box.height);
    context.globalAlpha = 1;
  }

  paintShading(box, n) {
    if (!this.shading) this.shading = shadingOf(this.picture.scores, n, this.ink("plot-low"), this.ink("plot-high"));
    const { context } = this;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    const cell = box.width / (n - 1);
    const row = box.height / (n - 1);
    context.drawImage(this.shading, box.left - cell / 2, box.top - row / 2, box.width + cell, box.height + row);
  }

  paintLevel(level, n, toX, toY, ink, width) {
    const { context } = this;
    context.beginPath();
    for (const [x0, y0, x1, y1] of segments(this.picture.scores, n, level)) {
      context.moveTo(toX(x0), toY(y0));
      context.lineTo(toX(x1), toY(y1));
    }
    context.strokeStyle = this.ink(ink);
    context.lineWidth = width;
    context.lineCap = "round";
    context.stroke();
  }

  /** The level in numbers on some of the lines: where each passes nearest to one upright line, unless it is crowded. */
  paintLabels(box, drawn, n, toX, toY) {
    const { context, picture } = this;
    const upright = box.left + LABEL_AT * box.width;
    const taken = [];
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const level of drawn) {
      if (level === picture.threshold) continue;
      const places = segments(picture.scores, n, level)
        .map(([x0, y0, x1, y1]) => [toX((x0 + x1) / 2), toY((y0 + y1) / 2)])
        .filter(([x, y]) => x > box.left + 20 && x < box.left + box.width - 20 && y > box.top + 10
          && y < box.top + box.height - 10);
      if (!places.length) continue;
      const [x, y] = places.reduce((best, place) =>
        (Math.abs(place[0] - upright) < Math.abs(best[0] - upright) ? place : best));
      if (taken.some(([otherX, otherY]) => Math.hypot(x - otherX, y - otherY) < LABEL_PIXELS)) continue;
      taken.push([x, y]);
      context.lineWidth = 4;
      context.strokeStyle = this.ink("plot-halo");
      context.strokeText(rough(level, 3), x, y);
      context.fillStyle = this.ink("text");
      context.fillText(rough(level, 3), x, y);
    }
  }

  paintArrows(box, n, toX, toY) {
    const { context, picture } = this;
    const [across, up] = picture.axes;
    const dim = picture.gradients.length / picture.scores.length;
    const arrows = [];
    const every = Math.max(1, Math.round((ARROW_PIXELS * (n - 1)) / box.width));
    for (let j = every >> 1; j < n; j += every) {
      for (let i = every >> 1; i < n; i += every) {
        const start = (j * n + i) * dim;
        const dx = (picture.gradients[start + across.index] * (across.high - across.low)) / box.width;
        const dy = (-picture.gradients[start + up.index] * (up.high - up.low)) / box.height;
        arrows.push({ x: toX(i), y: toY(j), dx, dy, size: Math.hypot(dx, dy) });
      }
    }
    const largest = Math.max(...arrows.map(({ size }) => size));
    if (!(largest > 0)) return;
    const longest = (0.85 * every * Math.min(box.width, box.height)) / (n - 1);
    context.strokeStyle = context.fillStyle = this.ink("arrow");
    context.lineWidth = 1.25;
    for (const { x, y, dx, dy, size } of arrows) {
      const length = longest * Math.sqrt(size / largest);
      if (length >= 1.5) this.paintArrow(x, y, (dx / size) * length, (dy / size) * length);
    }
  }

  paintArrow(x, y, dx, dy) {
    const { context } = this;
    const length = Math.hypot(dx, dy);
    const head = Math.min(5, length * 0.45);
    const [ux, uy] = [dx / length, dy / length];
    const [tipX, tipY] = [x + dx / 2, y + dy / 2];
    context.beginPath();
    context.moveTo(x - dx / 2, y - dy / 2);
    context.lineTo(tipX - ux * head * 0.8, tipY - uy * head * 0.8);
    context.stroke();
    context.beginPath();
    context.moveTo(tipX, tipY);
    context.lineTo(tipX - ux * head - uy * head * 0.5, tipY - uy * head + ux * head * 0.5);
    context.lineTo(tipX - ux * head + uy * head * 0.5, tipY - uy * head - ux * head * 0.5);
    context.fill();
  }

  /** One feature: the curve of the score and its tangent at the point. */
  paintCurve() {
    const { context, picture, point, answer } = this;
    const box = this.box();
    const [axis] = picture.axes;
    const low = Math.min(...picture.scores, picture.threshold ?? Infinity);
    const high = Math.max(...picture.scores, picture.threshold ?? -Infinity);
    const pad = (high - low) / 20 || 1;
    const toX = (value) => box.left + ((value - axis.low) / (axis.high - axis.low)) * box.width;
    const toY = (value) => box.top + (1 - (value - low + pad) / (high - low + 2 * pad)) * box.height;
    const line = (places, ink, width) => {
      context.beginPath();
      places.forEach(([x, y], k) => (k ? context.lineTo(toX(x), toY(y)) : context.moveTo(toX(x), toY(y))));
      context.strokeStyle = this.ink(ink);
      context.lineWidth = width;
      context.stroke();
    };
    this.clipped(box, () => {
      const { threshold } = picture;
      if (threshold !== null) line([[axis.low, threshold], [axis.high, threshold]], "threshold", 2);
      line([...picture.scores].map((score, k) => [picture.grid.ticks[0][k], score]), "accent", 2.5);
      if (point && answer) {
        const at = (x) => answer.scores[0] + answer.gradients[0] * (x - answer.point[0]);
        line([[axis.low, at(axis.low)], [axis.high, at(axis.high)]], "arrow", 1.25);
      }
    });
    this.paintTicks(box, low - pad, high + pad, "score");
    if (point && answer) this.paintPoint(box, toX(answer.point[0]), toY(answer.scores[0]));
  }

  clipped(box, paint) {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    paint();
    context.restore();
    context.strokeStyle = this.ink("line");
    context.lineWidth = 1;
    context.strokeRect(box.left, box.top, box.width, box.height);
  }

  paintTicks(box, low, high, upName) {
    const { context, picture } = this;
    const [across] = picture.axes;
    context.fillStyle = this.ink("quiet");
    const bottom = box.top + box.height;
    [0, 0.5, 1].forEach((share, k) => {
      context.textAlign = ["left", "center", "right"][k];
      context.textBaseline = "top";
      context.fillText(rough(across.low + share * (across.high - across.low), 3), box.left + share * box.width, bottom + 6);
      context.textAlign = "right";
      context.textBaseline = ["bottom", "middle", "top"][k];
      context.fillText(rough(low + share * (high - low), 3), box.left - 6, bottom - share * box.height);
    });
    context.fillStyle = this.ink("text");
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(this.fitting(across.name, box.width), box.left + box.width / 2, bottom + MARGIN.bottom - 2);
    context.save();
    context.translate(12, box.top + box.height / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText(this.fitting(upName, box.height), 0, 0);
    context.restore();
  }

  /** A name, cut where it is wider than its place. */
  fitting(name, width) {
    let text = name;
    while (text.length > 1 && this.context.measureText(text).width > width) text = `${text.slice(0, -2).trimEnd()}…`;
    return text;
  }

  paintPoint(box, x, y) {
    const { context } = this;
    const [cx, cy] = [
      Math.max(box.left, Math.min(box.left + box.width, x)),
      Math.max(box.top, Math.min(box.top + box.height, y)),
    ];
    context.beginPath();
    context.arc(cx, cy, 9, 0, 2 * Math.PI);
    context.fillStyle = this.ink("point");
    context.fill();
    context.lineWidth = 3;
    context.strokeStyle = this.ink("plot-halo");
    context.stroke();
    if (cx !== x || cy !== y) {
      context.fillStyle = this.ink("text");
      context.textAlign = "center";
      context.textBaseline = "bottom";
      const inside = Math.max(box.left + LABEL_PIXELS, Math.min(box.left + box.width - LABEL_PIXELS, cx));
      context.fillText("outside", inside, cy < box.top + LABEL_PIXELS ? cy + 2 * LABEL_PIXELS / 3 : cy - 12);
    }
  }
}

/** A canvas of n x n pixels, the scores by rank between two colours: a convex score is steep at the rim. */
function shadingOf(scores, n, low, high) {
  const ends = [low, high].map((ink) => [1, 3, 5].map((at) => Number.parseInt(ink.slice(at, at + 2), 16)));
  const order = Array.from(scores.keys()).sort((a, b) => scores[a] - scores[b]);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = n;
  const image = new ImageData(n, n);
  const bottom = scores[order[0]];
  const middle = scores[order[order.length >> 1]] - bottom || 1;
  order.forEach((row) => {
    const height = scores[row] - bottom;
    const share = height / (height + middle); // 0 at the lowest score, 1/2 at the median
    const pixel = 4 * ((n - 1 - Math.floor(row / n)) * n + (row % n));
    ends[0].forEach((start, k) => {
      image.data[pixel + k] = start + share * (ends[1][k] - start);
    });
    image.data[pixel + 3] = 255;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
