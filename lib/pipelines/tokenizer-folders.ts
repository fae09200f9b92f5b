import { stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadClipTokenizer, loadT5Tokenizer, MAX_T5_LENGTH, type Tokenizer } from "../loaders/tokenizers.js";

/** The vocabularies of the small model that the package has: for models whose weights mean nothing. */
const SMALL_VOCABULARIES = fileURLToPath(new URL("../../models/tiny", import.meta.url));

/** Folders of CLIP's and T5's vocabularies, and how many tokens T5 is given by default where its folder does not say it right. */
export interface TokenizerFolders {
  readonly clip: string;
  readonly t5: string;
  readonly t5Length?: number;
}

/** The vocabularies in a folder of diffusers' layout. */
export function tokenizerFolders(folder: string): TokenizerFolders {
  return { clip: join(folder, "tokenizer"), t5: join(folder, "tokenizer_2") };
}

/** The vocabularies of a folder that has both, else the package's small ones. */
export async function findTokenizers(folder: string | undefined): Promise<TokenizerFolders> {
  if (folder !== undefined) {
    const found = tokenizerFolders(folder);
    const files = [join(found.clip, "vocab.json"), join(found.t5, "tokenizer.json")];
    const areThere = await Promise.all(files.map((file) => stat(file).catch(() => undefined)));
    if (areThere.every((file) => file?.isFile())) return found;
  }
  return { ...tokenizerFolders(SMALL_VOCABULARIES), t5Length: MAX_T5_LENGTH };
}

export async function loadTokenizers({
  clip,
  t5,
  t5Length,
}: TokenizerFolders): Promise<{ clip: Tokenizer; t5: Tokenizer }> {
  const loaded = await Promise.all([loadClipTokenizer(clip), loadT5Tokenizer(t5, t5Length)]);
  return { clip: loaded[0], t5: loaded[1] };
}
