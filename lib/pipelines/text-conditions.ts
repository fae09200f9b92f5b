import type { Buffer } from "../runtime/buffer.js";
import { repeatRows } from "./host-tensor.js";
import type { PromptEncoder } from "./prompt-encoder.js";
import type { Conditions, Request } from "./request.js";

/** Where one side of true guidance has its text. */
export interface TextBuffers {
  /** T5's embeddings, [B, Tt, J]. */
  readonly promptEmbeds: Buffer<"f32">;
  /** CLIP's, [B, P]. */
  readonly pooled: Buffer<"f32">;
}

/** T5's tokens of such a call. */
export function textTokensOf(conditions: Conditions, { maxSequenceLength }: Request): number {
  return "texts" in conditions ? maxSequenceLength : conditions.embeds.shape[1]!;
}

/**
 * Queues all that fills the rows of a batch: every call's prompts in order, each once for each of its images. A text is encoded once, however many
 * rows it is for, and not at all where it is known yet.
 * @param calls of one batch, and so of one `maxSequenceLength`
 */
export function writeConditions(
  into: TextBuffers,
  calls: readonly { readonly conditions: Conditions; readonly request: Request }[],
  prompts: PromptEncoder,
): Promise<void>[] {
  const writes: Promise<void>[] = [];
  const clipRows = new RowsOfTexts();
  const t5Rows = new RowsOfTexts();
  let first = 0;
  for (const { conditions, request } of calls) {
    const { numImagesPerPrompt: copies, batch } = request;
    const at = (buffer: Buffer, row: number) => (row * buffer.elements) / buffer.shape[0]!;
    if ("texts" in conditions) {
      conditions.texts.forEach(({ clip, t5 }, index) => {
        const rows = Array.from({ length: copies }, (_, copy) => first + index * copies + copy);
        clipRows.add(clip, rows);
        t5Rows.add(t5, rows);
      });
    } else {
      const { embeds, pooled } = conditions;
      writes.push(into.promptEmbeds.write(repeatRows(embeds, copies).data, at(into.promptEmbeds, first)));
      writes.push(into.pooled.write(repeatRows(pooled, copies).data, at(into.pooled, first)));
    }
    first += batch;
  }
  const { maxSequenceLength } = calls[0]!.request;
  for (const [text, rows] of clipRows.all) writes.push(prompts.pooled(text, into.pooled, rows));
  for (const [text, rows] of t5Rows.all) {
    writes.push(prompts.sequence(text, maxSequenceLength, into.promptEmbeds, rows));
  }
  return writes;
}

/** The rows of a batch that each text is for. */
class RowsOfTexts {
  readonly all = new Map<string, number[]>();

  add(text: string, rows: readonly number[]): void {
    const known = this.all.get(text);
    if (known === undefined) this.all.set(text, [...rows]);
    else known.push(...rows);
  }
}
