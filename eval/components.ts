/** Connected components of masks. */

/** Row-major RGB bytes; a FluxImage is one. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Row-major, 1 inside and 0 outside. */
export interface Mask {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** The 4-connected components of at least `smallest` pixels, each as a mask of the same size. */
export function findComponents({ width, height, data }: Mask, smallest: number): Mask[] {
  const left = data.slice();
  const components: Mask[] = [];
  for (let start = 0; start < left.length; start++) {
    if (!left[start]) continue;
    const pixels = fill(left, width, height, start);
    if (pixels.length < smallest) continue;
    const component = new Uint8Array(data.length);
    for (const pixel of pixels) component[pixel] = 1;
    components.push({ width, height, data: component });
  }
  return components;
}

/** Pixels connected to `start`; they are cleared in `left`. */
function fill(left: Uint8Array, width: number, height: number, start: number): number[] {
  const pixels = [start];
  left[start] = 0;
  const visit = (pixel: number) => {
    if (!left[pixel]) return;
    left[pixel] = 0;
    pixels.push(pixel);
  };
  for (let i = 0; i < pixels.length; i++) {
    const pixel = pixels[i]!;
    const x = pixel % width;
    if (x > 0) visit(pixel - 1);
    if (x < width - 1) visit(pixel + 1);
    if (pixel >= width) visit(pixel - width);
    if (pixel < width * (height - 1)) visit(pixel + width);
  }
  return pixels;
}
