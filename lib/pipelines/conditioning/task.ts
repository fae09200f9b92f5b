// What the pictures of a generate call are for: which of them a checkpoint takes, the size that follows from them, and their pixels
// at that size.

import { shown } from "../../arguments.js";
import { badArgument } from "../../errors.js";
import { type LatentSize, latentSize, SIZE_MULTIPLE } from "../../models/latents.js";
import type { GenerateOptions } from "../options.js";
import { floorSide, type PixelSize, referenceSize, sizeOfArea } from "./kontext.js";
import { crop, cropRegion, resizeAndFill } from "./mask-crop.js";
import { type ImageInput, type Picture, readMask, readPicture } from "./picture.js";
import { binarise, normalise } from "./pixels.js";
import { type Box, resize } from "./resample.js";
import { PUBLISHED_NAME, type Variant } from "./variant.js";

/** What of a checkpoint matters here. */
interface Capabilities {
  readonly variant: Variant;
  /** The default side of an image in pixels. */
  readonly sampleSize: number;
}

/** The options that concern pictures. */
const IMAGE_OPTIONS = ["image", "maskImage", "controlImage"] as const;

/** The decoded pictures of a call. */
export interface Pictures {
  readonly image: readonly Picture[];
  readonly mask: readonly Picture[];
  readonly control: readonly Picture[];
}

/** Where a drawn image is pasted back: `paddingMaskCrop`. */
export interface Patch {
  readonly picture: Picture;
  /** Grey, as large as the picture. */
  readonly mask: Picture;
  readonly box: Box;
}

/** Pixels of every picture at the size at which it is encoded; lists have one entry for all prompts or one for each. */
export interface ImageTask {
  /** How much of `image` is noised away; 1 where the loop starts from noise alone. */
  readonly strength: number;
  /** What the loop starts from, repaints or fills: [H, W, 3] in [−1, 1]. */
  readonly image: readonly Float32Array[];
  /** 1 where `image` is repainted, else 0: [H, W]. */
  readonly mask: readonly Float32Array[];
  /** As `image`. */
  readonly control: readonly Float32Array[];
  /** Kontext's, all of them for every prompt. */
  readonly references: readonly { readonly size: LatentSize; readonly pixels: Float32Array }[];
  readonly patches: readonly Patch[];
}

/** Of diffusers' image-to-image and inpainting pipelines; Fill's is 1. */
const DEFAULT_STRENGTH = 0.6;

/**
 * Whether a checkpoint does what a call's picture options ask for; nothing is read yet.
 *
 * @throws FluxError ERR_FLUX_BAD_ARGUMENT naming the option or the checkpoint that would do.
 */
export function checkTask(options: GenerateOptions, variant: Variant): void {
  const { image, maskImage, controlImage, strength, paddingMaskCrop } = options;
  const has = (value: unknown) => value !== undefined;
  const own = PUBLISHED_NAME[variant];
  if (variant === "fill" && !(has(image) && has(maskImage))) {
    throw badArgument(`${own} fills the white part of a mask: give image and maskImage, or load FLUX.1-dev`);
  }
  if (variant === "control" && !has(controlImage)) {
    throw badArgument(
      "this checkpoint (FLUX.1-Canny-dev or FLUX.1-Depth-dev) draws along edges or depth: give controlImage, or load FLUX.1-dev",
    );
  }
  if (variant !== "control" && has(controlImage)) {
    throw badArgument(
      `controlImage is for FLUX.1-Canny-dev and FLUX.1-Depth-dev, and this is ${own}; load one of those, or give the picture as image`,
    );
  }
  if (variant === "kontext") {
    const inpainting = has(maskImage) ? "maskImage" : has(paddingMaskCrop) ? "paddingMaskCrop" : undefined;
    if (inpainting !== undefined) {
      throw badArgument(
        `${own} edits a picture by its prompt and takes no ${inpainting}; for inpainting load FLUX.1-Fill-dev or FLUX.1-dev`,
      );
    }
    if (has(strength)) {
      throw badArgument(
        `${own} reads the whole picture and takes no strength; for image-to-image load FLUX.1-dev`,
      );
    }
  } else if (has(options.autoResize)) {
    throw badArgument(`autoResize is for reference images of FLUX.1-Kontext-dev, and this is ${own}`);
  }
  if (has(maskImage) && !has(image)) {
    throw badArgument("maskImage says where image is repainted; give image, too");
  }
  if (has(strength)) {
    if (!has(image)) throw badArgument("strength says how far the result may be from image; give image, too");
    checkStrength(strength!);
  }
  if (has(paddingMaskCrop)) {
    if (!has(maskImage)) throw badArgument("paddingMaskCrop goes with maskImage; give image and maskImage");
    if (variant === "control")
      throw badArgument("paddingMaskCrop does not go with controlImage; leave it out");
    if (!Number.isSafeInteger(paddingMaskCrop) || paddingMaskCrop! < 0) {
      throw badArgument(
        `paddingMaskCrop is a whole number of pixels, 0 or more, not ${shown(paddingMaskCrop)}`,
      );
    }
    if ((options.outputType ?? "image") !== "image") {
      throw badArgument(
        'paddingMaskCrop pastes what is drawn into the picture; its outputType is "image". Leave paddingMaskCrop out for others',
      );
    }
  }
  const { maxArea } = options;
  if (has(maxArea) && (!Number.isFinite(maxArea) || maxArea! < SIZE_MULTIPLE ** 2)) {
    throw badArgument(
      `maxArea is a number of pixels of at least ${SIZE_MULTIPLE ** 2}, not ${shown(maxArea)}`,
    );
  }
}

function checkStrength(strength: number): void {
  if (typeof strength === "number" && strength > 0 && strength <= 1) return;
  const advice = strength === 0 ? " 0 would run no step and give the picture back." : "";
  throw badArgument(`strength is a number above 0 and at most 1, not ${shown(strength)}.${advice}`);
}

/** Decodes what a call brings. */
export async function readPictures(options: GenerateOptions): Promise<Pictures> {
  const [image, mask, control] = await Promise.all(
    IMAGE_OPTIONS.map((name) => {
      const read = name === "maskImage" ? readMask : readPicture;
      return Promise.all(listOf(name, options[name]).map(([label, input]) => read(label, input)));
    }),
  );
  return { image: image!, mask: mask!, control: control! };
}

/** Whether a call has any picture. */
export function hasPictures(options: GenerateOptions): boolean {
  return IMAGE_OPTIONS.some((name) => options[name] !== undefined);
}

/** With grey pictures where a checkpoint needs some and the call has none: the ops of a step do not depend on them. */
export function standIns(options: GenerateOptions, { variant, sampleSize }: Capabilities): GenerateOptions {
  if (hasPictures(options) || (variant !== "fill" && variant !== "control")) return options;
  const grey = { data: new Uint8Array(3).fill(128), width: 1, height: 1 };
  const pictures = variant === "fill" ? { image: grey, maskImage: grey } : { controlImage: grey };
  return { height: sampleSize, width: sampleSize, ...options, ...pictures };
}

/** With each its name for errors. */
function listOf(name: string, value: ImageInput | readonly ImageInput[] | undefined): [string, ImageInput][] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) return [[name, value as ImageInput]];
  if (value.length === 0) throw badArgument(`${name} is an empty list; give a picture, or leave it out`);
  return value.map((input: ImageInput, index) => [`${name}[${index}]`, input]);
}

/**
 * The size of the images to make. What the call leaves open follows from the first picture: its own size, rounded down to multiples
 * of 16, unless that is more than `maxArea` pixels. Kontext draws `maxArea` pixels whatever is asked for, and only the proportions
 * are the call's, as in diffusers.
 *
 * @throws FluxError ERR_FLUX_BAD_ARGUMENT when the picture is too small to follow.
 */
export function outputSize(
  options: GenerateOptions,
  { variant, sampleSize }: Capabilities,
  pictures: Pictures | undefined,
): { height?: number; width?: number } {
  const { height, width, maxArea = sampleSize ** 2 } = options;
  const picture = pictures?.image[0] ?? pictures?.control[0];
  const asked = askedSize({ height, width }, picture ?? { height: sampleSize, width: sampleSize });
  if (variant === "kontext") {
    if (!(asked.height >= 1 && asked.width >= 1)) return { height, width };
    const size = sizeOfArea(asked, maxArea);
    const isChanged = (side: number | undefined, to: number) => side !== undefined && side !== to;
    if (isChanged(height, size.height) || isChanged(width, size.width)) {
      process.emitWarning(
        `FLUX.1-Kontext-dev draws ${size.width}×${size.height}, which has maxArea pixels, instead of ${asked.width}×${asked.height}; ` +
          "set maxArea for another size",
        { code: "FLUX_SIZE_ADJUSTED" },
      );
    }
    return size;
  }
  if (picture === undefined || (height !== undefined && width !== undefined)) return { height, width };
  if (height !== undefined || width !== undefined) {
    return { height: height ?? floorSide(asked.height), width: width ?? floorSide(asked.width) };
  }
  if (Math.min(picture.width, picture.height) < SIZE_MULTIPLE) {
    throw badArgument(
      `the picture has ${picture.width}×${picture.height} pixels, and images have sides of at least ${SIZE_MULTIPLE}; give height and width`,
    );
  }
  if (picture.width * picture.height > maxArea) return sizeOfArea(picture, maxArea);
  return { height: floorSide(picture.height), width: floorSide(picture.width) };
}

/** What is asked for, a missing side in the picture's proportions. */
function askedSize({ height, width }: { height?: number; width?: number }, like: PixelSize): PixelSize {
  return {
    height: height ?? (width === undefined ? like.height : (width * like.height) / like.width),
    width: width ?? (height === undefined ? like.width : (height * like.width) / like.height),
  };
}

/** The pictures' pixels at the sizes at which they are encoded. */
export async function imageTask(
  options: GenerateOptions,
  { variant, sampleSize }: Capabilities,
  pictures: Pictures,
  size: PixelSize,
  prompts: number,
): Promise<ImageTask> {
  const { paddingMaskCrop: padding, autoResize = true } = options;
  const isNoised = pictures.image.length > 0 && variant !== "kontext";
  const strength = options.strength ?? (isNoised && variant !== "fill" ? DEFAULT_STRENGTH : 1);
  const control = await Promise.all(
    onePerPrompt("controlImage", pictures.control, prompts).map((picture) => pixelsAt(picture, size)),
  );
  const nothing = { strength, image: [], mask: [], control, references: [], patches: [] };
  if (variant === "kontext") {
    const references = pictures.image.map(async (picture) => {
      const own = referenceSize(picture, autoResize, sampleSize);
      return { size: latentSize(own.height, own.width), pixels: await pixelsAt(picture, own) };
    });
    return { ...nothing, references: await Promise.all(references) };
  }
  const images = onePerPrompt("image", pictures.image, prompts);
  const masks = onePerPrompt("maskImage", pictures.mask, prompts);
  requireSameProportions(images, masks);
  if (padding === undefined) {
    const [image, mask] = await Promise.all([
      Promise.all(images.map((picture) => pixelsAt(picture, size))),
      Promise.all(masks.map(async (mask) => binarise(await resize(mask, size.width, size.height)))),
    ]);
    return { ...nothing, image, mask };
  }
  const patches = await Promise.all(
    Array.from({ length: Math.max(images.length, masks.length) }, (_, i) =>
      patchOf(images[i % images.length]!, masks[i % masks.length]!, size, padding),
    ),
  );
  const cut = (picture: Picture, box: Box) => resizeAndFill(crop(picture, box), size);
  return {
    ...nothing,
    image: await Promise.all(patches.map(async ({ picture, box }) => normalise(await cut(picture, box)))),
    mask: await Promise.all(patches.map(async ({ mask, box }) => binarise(await cut(mask, box)))),
    patches,
  };
}

async function pixelsAt(picture: Picture, { width, height }: PixelSize): Promise<Float32Array> {
  return normalise(await resize(picture, width, height));
}

async function patchOf(picture: Picture, mask: Picture, size: PixelSize, padding: number): Promise<Patch> {
  const own = await resize(mask, picture.width, picture.height);
  const box = cropRegion(own, size, padding);
  if (box === undefined)
    throw badArgument("maskImage is black, so nothing would be repainted; paint what is to change white");
  return { picture, mask: own, box };
}

function onePerPrompt(name: string, pictures: readonly Picture[], prompts: number): readonly Picture[] {
  if (pictures.length <= 1 || pictures.length === prompts) return pictures;
  throw badArgument(
    `${name} has ${pictures.length} pictures for ${prompts} prompts; give one, or one for each prompt`,
  );
}

/** A mask of other proportions would be stretched over the picture: more likely it is another picture's. */
function requireSameProportions(images: readonly Picture[], masks: readonly Picture[]): void {
  const count = Math.max(images.length, masks.length);
  for (let i = 0; masks.length > 0 && i < count; i++) {
    const image = images[i % images.length]!;
    const mask = masks[i % masks.length]!;
    // A side of a scaled mask may be rounded either way.
    const allowed = Math.max(image.width, image.height, mask.width, mask.height);
    if (Math.abs(image.width * mask.height - image.height * mask.width) <= allowed) continue;
    throw badArgument(
      `maskImage has ${mask.width}×${mask.height} pixels and image ${image.width}×${image.height}; make the mask as large as the picture, or ` +
        "scale it with its proportions kept",
    );
  }
}
