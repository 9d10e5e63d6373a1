/** The vehicle signs of the map, drawn once for each state and colour scheme: the same shapes as in the list. */

import type { VehicleStateKind } from "../state/fleet.ts";

export const GLYPH_RATIO = 3;
const SIZE = 26;

export const GLYPH_KINDS: readonly VehicleStateKind[] = ["moving", "standing", "cut_off", "offline", "silent", "no_position"];

export interface GlyphColours {
  fill: string;
  casing: string;
}

export function drawGlyph(kind: VehicleStateKind, colours: GlyphColours): ImageData {
  const pixels = SIZE * GLYPH_RATIO;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = pixels;
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  context.scale(GLYPH_RATIO, GLYPH_RATIO);
  context.translate(SIZE / 2, SIZE / 2);
  context.lineJoin = context.lineCap = "round";
  const shape = shapeOf(kind);
  context.strokeStyle = colours.casing;
  context.lineWidth = 4;
  context.stroke(shape);
  if (kind === "moving" || kind === "standing") {
    context.fillStyle = colours.fill;
    context.fill(shape);
  } else {
    context.fillStyle = colours.casing;
    context.fill(shape);
    context.strokeStyle = colours.fill;
    context.lineWidth = 2.4;
    context.stroke(shape);
    if (kind !== "offline") context.stroke(new Path2D("M-6.5 6.5 6.5 -6.5"));
  }
  return context.getImageData(0, 0, pixels, pixels);
}

function shapeOf(kind: VehicleStateKind): Path2D {
  if (kind === "moving") return new Path2D("M0 -10 7.5 8.5 0 4.4 -7.5 8.5Z");
  const circle = new Path2D();
  circle.arc(0, 0, kind === "standing" ? 6 : 5.5, 0, 2 * Math.PI);
  return circle;
}
