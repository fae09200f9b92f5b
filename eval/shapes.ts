/** The shapes as sets of points, in units of the radius, y downwards: what training/data/render.py draws. */
import type { Shape } from "./palette.js";

type Point = readonly [x: number, y: number];

/** Whether (x, y) lies inside the shape. */
export function isInside(shape: Shape, x: number, y: number): boolean {
  switch (shape) {
    case "circle":
      return Math.hypot(x, y) < 1;
    case "square":
      return Math.abs(x) < 0.88 && Math.abs(y) < 0.88;
    case "triangle":
      return inPolygon(TRIANGLE, x, y);
    case "star":
      return inPolygon(STAR, x, y);
    case "ring":
      return Math.abs(Math.hypot(x, y) - 0.8) < 0.22;
    case "cross":
      return (Math.abs(x) < 1.02 && Math.abs(y) < 0.34) || (Math.abs(x) < 0.34 && Math.abs(y) < 1.02);
    case "diamond":
      return Math.abs(x) / 0.92 + Math.abs(y) / 1.18 < 1;
    case "heart":
      return inPolygon(HEART, Math.abs(x), y);
  }
}

/** Corners on a circle, the first at the top; every second one at `inner` if given. */
function corners(count: number, outer: number, inner: number | undefined, lift: number): Point[] {
  const steps = inner === undefined ? count : 2 * count;
  return Array.from({ length: steps }, (_, i) => {
    const radius = inner === undefined || i % 2 === 0 ? outer : inner;
    const angle = (2 * Math.PI * i) / steps;
    return [radius * Math.sin(angle), -radius * Math.cos(angle) + lift] as const;
  });
}

const TRIANGLE = corners(3, 1.2, undefined, 0.22);
const STAR = corners(5, 1.18, 0.5, 0.07);
const HEART = rightHalfOfHeart();

/** Over a disc of radius 0.56 at (0.5, -0.38), then straight to the tip (0, 1.05); closed left of the axis. */
function rightHalfOfHeart(): Point[] {
  const [centreX, centreY, radius, tip] = [0.5, -0.38, 0.56, 1.05];
  const length = Math.hypot(centreX, centreY - tip);
  const slope = Math.atan2(centreY - tip, centreX) + Math.asin(radius / length);
  const reach = Math.sqrt(length ** 2 - radius ** 2);
  const tangent: Point = [reach * Math.cos(slope), tip + reach * Math.sin(slope)];
  const start = -Math.PI + Math.acos(centreX / radius);
  const end = Math.atan2(tangent[1] - centreY, tangent[0] - centreX);
  const arc = Array.from({ length: 15 }, (_, i): Point => {
    const angle = start + ((end - start) * i) / 14;
    return [centreX + radius * Math.cos(angle), centreY + radius * Math.sin(angle)];
  });
  return [[-0.5, arc[0]![1]], ...arc, [0, tip], [-0.5, tip]];
}

/** Even-odd rule. */
function inPolygon(polygon: readonly Point[], x: number, y: number): boolean {
  let inside = false;
  for (const [i, [ax, ay]] of polygon.entries()) {
    const [bx, by] = polygon[(i + 1) % polygon.length]!;
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) inside = !inside;
  }
  return inside;
}
