// Types of the parts of @huggingface/tokenizers that are used here. The package's own declarations import each other without
// file endings, which TypeScript does not resolve in an ES module.
declare module "@huggingface/tokenizers" {
  interface BpeConfig {
    type: "BPE";
    vocab: Record<string, number>;
    merges: [string, string][];
    unk_token: string;
    end_of_word_suffix: string;
  }

  /** Byte-pair encoding of one word at a time. */
  export class BPE {
    constructor(config: BpeConfig);
    /** Tokens of words whose bytes are spelled as ByteLevelPreTokenizer spells them. */
    encode(words: string[]): string[];
  }

  export class ByteLevelPreTokenizer {
    constructor(config: { type: "ByteLevel"; add_prefix_space: boolean; use_regex: boolean });
    /** The text's UTF-8 bytes, each as a printable character. */
    pre_tokenize_text(text: string): string[];
  }

  export class Normalizer {
    constructor(config: object);
    config: object;
    normalize(text: string): string;
  }

  export class PrecompiledNormalizer extends Normalizer {}

  export class SequenceNormalizer extends Normalizer {
    normalizers: (Normalizer | null)[];
  }

  /** The pipeline that a tokenizer.json describes. */
  export class Tokenizer {
    constructor(tokenizer: object, config: object);
    normalizer: Normalizer | null;
    encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
    token_to_id(token: string): number | undefined;
  }
}
