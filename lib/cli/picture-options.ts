import { access, constants } from "node:fs/promises";
import type { Command } from "commander";
import { fileError } from "../loaders/file-error.js";
import type { GenerateOptions } from "../pipelines/options.js";
import { decimal, wholeNumber } from "./option-values.js";

/** Options that bring pictures. */
export interface PictureFlags {
  image?: string[];
  mask?: string;
  controlImage?: string;
  strength?: number;
  paddingMaskCrop?: number;
  maxArea?: number;
  /** False with `--no-auto-resize`. */
  autoResize?: boolean;
}

export function addPictureOptions(command: Command): void {
  const several = (path: string, paths: string[] = []) => [...paths, path];
  command
    .option(
      "-i, --image <file>",
      "start from this picture, repaint a part of it, or edit it (Kontext; may be given several times)",
      several,
    )
    .option("--mask <file>", "repaint what is white in it")
    .option("--control-image <file>", "edges or a depth map, for FLUX.1-Canny-dev and -Depth-dev")
    .option("--strength <0-1>", "how far from the picture (default: 0.6; 1 for Fill)", decimal)
    .option(
      "--padding-mask-crop <pixels>",
      "draw only the surroundings of the mask, and paste them into the picture",
      wholeNumber(0),
    )
    .option("--max-area <pixels>", "of an image whose size follows from the picture", wholeNumber(1))
    .option("--no-auto-resize", "Kontext: leave the picture's size as it is");
}

/** The pictures' options under the pipeline's names. */
export function picturesOf(flags: PictureFlags): GenerateOptions {
  const { image, mask, controlImage, strength, paddingMaskCrop, maxArea, autoResize } = flags;
  return {
    image: image?.length === 1 ? image[0] : image,
    maskImage: mask,
    controlImage,
    strength,
    paddingMaskCrop,
    maxArea,
    // Unset unless switched off: other checkpoints than Kontext do not have it.
    ...(autoResize === false && { autoResize }),
  };
}

/** Before a checkpoint is loaded, not after it. */
export async function requirePictures({ image = [], mask, controlImage }: PictureFlags): Promise<void> {
  for (const path of [...image, mask, controlImage]) {
    if (path === undefined || /^[a-z]{2,}:/i.test(path)) continue; // a URL
    await access(path, constants.R_OK).catch((cause: unknown) => {
      throw fileError(path, cause, "ERR_FLUX_BAD_ARGUMENT");
    });
  }
}
