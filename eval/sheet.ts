/** Contact sheets: pictures in rows, each with its caption; a red bar under those that are wrong. */
import { writeFile } from "node:fs/promises";
import sharp from "sharp";
import type { Picture } from "./components.js";

export interface Cell {
  picture: Picture;
  caption: string;
  right: boolean;
}

const GAP = 8;
const CAPTION = 36;

/** Writes a PNG with `columns` cells a row. All pictures have one size. */
export async function writeSheet(path: string, cells: readonly Cell[], columns: number): Promise<void> {
  const { width, height } = cells[0]!.picture;
  const [cellWidth, cellHeight] = [width + GAP, height + CAPTION + GAP];
  const across = Math.min(columns, cells.length);
  const pictures = cells.map(({ picture }, i) => ({
    input: Buffer.from(picture.data.buffer, picture.data.byteOffset, picture.data.length),
    raw: { width, height, channels: 3 as const },
    left: (i % across) * cellWidth + GAP,
    top: Math.floor(i / across) * cellHeight + GAP,
  }));
  const sheetWidth = across * cellWidth + GAP;
  const sheetHeight = Math.ceil(cells.length / across) * cellHeight + GAP;
  const labels = cells.map((cell, i) => label(cell, pictures[i]!.left, pictures[i]!.top + height, width));
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${sheetWidth}" height="${sheetHeight}">${labels.join("")}</svg>`;
  const canvas = { width: sheetWidth, height: sheetHeight, channels: 3 as const, background: "#ffffff" };
  const png = await sharp({ create: canvas })
    .composite([...pictures, { input: Buffer.from(svg), left: 0, top: 0 }])
    .png({ palette: true, colours: 128 })
    .toBuffer();
  await writeFile(path, png);
}

/** The caption in two lines at most, and the bar. */
function label({ caption, right }: Cell, left: number, top: number, width: number): string {
  const lines = wrap(caption, Math.floor(width / 6)).slice(0, 2);
  const bar = right ? "" : `<rect x="${left}" y="${top}" width="${width}" height="3" fill="#d02020"/>`;
  const text = lines.map(
    (line, i) =>
      `<text x="${left}" y="${top + 16 + 14 * i}" font-family="sans-serif" font-size="11">${escape(line)}</text>`,
  );
  return bar + text.join("");
}

function wrap(text: string, longest: number): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines.at(-1)!;
    if (last !== "" && last.length + 1 + word.length > longest) lines.push(word);
    else lines[lines.length - 1] = last === "" ? word : `${last} ${word}`;
  }
  return lines;
}

function escape(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;");
}
