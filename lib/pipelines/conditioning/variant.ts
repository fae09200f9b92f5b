import { badArgument, FluxError } from "../../errors.js";

/**
 * What a checkpoint was trained to do. `control` is FLUX.1-Canny-dev or FLUX.1-Depth-dev, which are built alike: the control image
 * says which one it is.
 */
export const VARIANTS = ["dev", "schnell", "kontext", "fill", "control"] as const;
export type Variant = (typeof VARIANTS)[number];

/** The checkpoint's name as it is published, for messages. */
export const PUBLISHED_NAME: Readonly<Record<Variant, string>> = {
  dev: "FLUX.1-dev",
  schnell: "FLUX.1-schnell",
  kontext: "FLUX.1-Kontext-dev",
  fill: "FLUX.1-Fill-dev",
  control: "FLUX.1-Canny-dev or FLUX.1-Depth-dev",
};

/** What tells variants apart. */
export interface VariantSigns {
  /** Width of the x_embedder (img_in): what a token brings in. */
  readonly inChannels: number;
  /** Width of a packed latent token. */
  readonly outChannels: number;
  /** False only for schnell. */
  readonly guidanceEmbeds: boolean;
  /** The diffusers class of the folder, or the name of a single file. */
  readonly name?: string | undefined;
}

/**
 * The variant of a checkpoint. Beside its latents (outChannels) a token of a control checkpoint brings the control image's latents,
 * one of Fill the masked image's latents and 8 × 8 × 2 × 2 pixels of the mask. Kontext is built like dev; it is told by the class
 * that model_index.json names, by the file's name, or by the caller.
 *
 * @param asked What the caller says it is.
 * @throws FluxError ERR_FLUX_UNSUPPORTED for a width of no known variant, ERR_FLUX_BAD_ARGUMENT when `asked` cannot be true.
 */
export function variantOf(signs: VariantSigns, asked?: Variant): Variant {
  const { inChannels, outChannels, guidanceEmbeds, name = "" } = signs;
  const found = byWidth(inChannels, outChannels);
  if (found === undefined) {
    throw new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `the transformer takes ${inChannels} channels a token and gives ${outChannels}; fluxwarp knows ${outChannels} (dev, schnell, ` +
        `Kontext), ${2 * outChannels} (Canny, Depth) and ${fillWidth(outChannels)} (Fill)`,
    );
  }
  const plain = guidanceEmbeds ? "dev" : "schnell";
  const recognised = found !== "plain" ? found : /kontext/i.test(name) ? "kontext" : plain;
  if (asked === undefined || asked === recognised) return recognised;
  if (!VARIANTS.includes(asked))
    throw badArgument(`variant is one of ${VARIANTS.join(", ")}, not "${asked}"`);
  const fits = found === "plain" ? asked === "kontext" || asked === plain : false;
  if (fits) return asked;
  throw badArgument(
    `variant "${asked}" is asked for, but the weights are those of ${PUBLISHED_NAME[recognised]}; leave variant out, or load ` +
      `${PUBLISHED_NAME[asked]}`,
  );
}

/** Channels a token brings in beside its latents. */
export function conditionChannels(variant: Variant, latentChannels: number): number {
  if (variant === "control") return latentChannels;
  return variant === "fill" ? fillWidth(latentChannels) - latentChannels : 0;
}

function byWidth(inChannels: number, outChannels: number): "plain" | "control" | "fill" | undefined {
  if (inChannels === outChannels) return "plain";
  if (inChannels === 2 * outChannels) return "control";
  return inChannels === fillWidth(outChannels) ? "fill" : undefined;
}

/** Latents, the masked image's latents, and a token's 16 × 16 pixels of the mask. */
function fillWidth(latentChannels: number): number {
  return 2 * latentChannels + 256;
}
