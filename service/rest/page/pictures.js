// Pictures of the user's own: what is read, how large it may be, what is said when it cannot be read.

const MAX_MEGABYTES = 100;
const MAX_MEGAPIXELS = 100; // to decode: about 400 MB for a moment
const KEPT_MEGAPIXELS = 1;
const KEPT_SIDE = 8192; // no browser refuses a canvas as long as this
const BYTES_TO_KNOW = 16;
const FORMATS = "PNG, JPEG, WebP, AVIF, GIF or BMP";
// An SVG file is a program that draws: it is none of these.
const BEGINNINGS = [[0, "\x89PNG\r\n"], [0, "\xFF\xD8\xFF"], [8, "WEBP"], [4, "ftypavif"], [0, "GIF8"], [0, "BM"]];

/** A file that is not recoloured; the message says why and what would be. */
export class PictureError extends Error {}

/**
 * Read a picture: { name, pixels: ImageData, note }, scaled down where it is large, as `note` says.
 *
 * Its numbers are sRGB, upright, of the first image where there are several.
 */
export async function read(blob, name) {
  if (blob.size > MAX_MEGABYTES * 1e6) {
    throw new PictureError(`${name} has ${Math.ceil(blob.size / 1e6)} MB, expected at most ${MAX_MEGABYTES}. Choose a smaller file.`);
  }
  try {
    if (!(await beginsLikeAPicture(blob))) throw new TypeError("the first bytes are of no known format");
    const { width, height } = await sizeOf(blob);
    if (width * height > MAX_MEGAPIXELS * 1e6) {
      throw new PictureError(`${name} has ${Math.ceil((width * height) / 1e6)} megapixels, expected at most ${MAX_MEGAPIXELS}. Choose a smaller picture.`);
    }
    return { name, ...(await decode(blob, width, height)) };
  } catch (error) {
    if (error instanceof PictureError) throw error;
    throw new PictureError(`${name} is no picture that can be read. Choose a whole ${FORMATS} file.`, { cause: error });
  }
}

async function beginsLikeAPicture(blob) {
  const bytes = new Uint8Array(await blob.slice(0, BYTES_TO_KNOW).arrayBuffer());
  const text = String.fromCharCode(...bytes);
  return BEGINNINGS.some(([at, beginning]) => text.startsWith(beginning, at));
}

/** Width and height, as an image element reads them from the first bytes, without decoding the rest. */
async function sizeOf(blob) {
  const address = URL.createObjectURL(blob);
  const image = new Image();
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
      image.src = address;
    });
    return { width: image.naturalWidth, height: image.naturalHeight };
  } finally {
    image.onload = image.onerror = null;
    URL.revokeObjectURL(address);
  }
}

async function decode(blob, width, height) {
  const scale = Math.min(1, Math.sqrt((KEPT_MEGAPIXELS * 1e6) / (width * height)), KEPT_SIDE / Math.max(width, height));
  const kept = [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
  const smaller = scale < 1 ? { resizeWidth: kept[0], resizeHeight: kept[1], resizeQuality: "high" } : {};
  const bitmap = await createImageBitmap(blob, smaller);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = kept;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const note = scale < 1
    ? `${width} × ${height} pixels, scaled down to ${kept.join(" × ")}: at most ${KEPT_MEGAPIXELS} megapixel is recoloured.`
    : `${width} × ${height} pixels.`;
  return { pixels: context.getImageData(0, 0, ...kept), note };
}
