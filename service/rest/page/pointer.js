// Moving a point over a canvas: by pointer, by arrow keys.

const STEP = 1 / 100; // of the picture
const FAST = 10;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };

/** Listen on a canvas. Calls `moveTo(x, y)` in canvas pixels, `moveBy(across, up)` in shares of the picture, `home()`. */
export function listen(canvas, { moveTo, moveBy, home }) {
  const drag = (event) => moveTo(...placeOf(event, canvas));
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    drag(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) drag(event);
  });
  onKeys(canvas, { moveBy, home });
}

/** Where on a canvas, in its pixels of the page, an event of the pointer happened. */
export function placeOf(event, canvas) {
  const { left, top } = canvas.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
}

/** The keys of `listen` alone. */
export function onKeys(canvas, { moveBy, home }) {
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in KEYS) {
      const size = STEP * (event.shiftKey ? FAST : 1);
      moveBy(...KEYS[event.key].map((direction) => direction * size));
    } else if (event.key === "Home") {
      home();
    } else {
      return;
    }
    event.preventDefault();
  });
}
