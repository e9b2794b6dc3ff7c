// Makes a picture small enough to travel within a message.

const LONGEST_SIDE = 1_280; // pixels
const LARGEST = 180_000; // characters of a data address: with the rest of a message it stays below 256 KiB
const QUALITIES = [0.8, 0.6, 0.4];

/** A data address of the picture in a file, scaled down as far as needed; null where that does not help. */
export async function shrink(file) {
  const bitmap = await createImageBitmap(file);
  for (let side = LONGEST_SIDE; side >= 320; side /= 2) {
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    for (const quality of QUALITIES) {
      const url = canvas.toDataURL("image/webp", quality);
      if (url.length <= LARGEST) return url;
    }
  }
  return null;
}
