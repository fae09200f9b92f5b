// SentencePiece's precompiled character map: the normalisation that a T5 tokenizer carries in its tokenizer.json.
//
// Layout of the blob: a little-endian u32 with the size in bytes of a double-array trie (darts-clone), the trie's u32 units,
// then the replacements as NUL-terminated UTF-8. A key's value is the offset of its replacement.
// The map is applied as Hugging Face's tokenizers does: a grapheme cluster of up to five bytes is looked up as a whole, any
// other one code point by code point; of several keys that begin a chunk the shortest decides for all of it.

import { FluxError } from "../errors.js";

const LONGEST_LOOKED_UP_GRAPHEME_BYTES = 5;

export class PrecompiledCharsmap {
  readonly #units: Uint32Array;
  readonly #replacements: Uint8Array;
  readonly #graphemes = new Intl.Segmenter("und", { granularity: "grapheme" });
  readonly #utf8 = new TextEncoder();
  readonly #text = new TextDecoder();

  /**
   * @param base64 `precompiled_charsmap` of a tokenizer.json.
   * @throws FluxError ERR_FLUX_BAD_WEIGHTS naming `file` when the blob is damaged.
   */
  constructor(base64: string, file: string) {
    const blob = Uint8Array.from(Buffer.from(base64, "base64"));
    const trieBytes = blob.length < 4 ? 0 : new DataView(blob.buffer).getUint32(0, true);
    if (trieBytes === 0 || trieBytes % 4 !== 0 || 4 + trieBytes > blob.length) {
      throw new FluxError(
        "ERR_FLUX_BAD_WEIGHTS",
        `${file}: its precompiled_charsmap is damaged. Download the file again.`,
      );
    }
    this.#units = new Uint32Array(blob.buffer.slice(4, 4 + trieBytes));
    this.#replacements = blob.subarray(4 + trieBytes);
  }

  normalize(text: string): string {
    let normalized = "";
    for (const { segment } of this.#graphemes.segment(text)) {
      const bytes = this.#utf8.encode(segment);
      const whole = bytes.length <= LONGEST_LOOKED_UP_GRAPHEME_BYTES ? this.#lookUp(bytes) : undefined;
      if (whole !== undefined) normalized += whole;
      else
        for (const character of segment)
          normalized += this.#lookUp(this.#utf8.encode(character)) ?? character;
    }
    return normalized;
  }

  /** The replacement for the shortest key that is a prefix of `bytes`. */
  #lookUp(bytes: Uint8Array): string | undefined {
    const units = this.#units;
    let node = childrenOf(units[0]);
    for (const byte of bytes) {
      node ^= byte;
      // A unit's label is its byte; the top bit marks a value. 0 labels a leaf and never a child.
      const unit = units[node];
      if (byte === 0 || unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return undefined;
      node ^= childrenOf(unit);
      const hasLeaf = ((unit >>> 8) & 1) === 1;
      if (hasLeaf) return this.#replacement(units[node] & 0x7fffffff);
    }
    return undefined;
  }

  #replacement(begin: number): string {
    const end = this.#replacements.indexOf(0, begin);
    return this.#text.decode(this.#replacements.subarray(begin, end < 0 ? undefined : end));
  }
}

/** Offset from a unit to its children, to be combined with the unit's own position by XOR. */
function childrenOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
