// The two tokenizers of a FLUX.1 folder. The vocabularies' models (byte-pair encoding, Unigram) are @huggingface/tokenizers';
// what surrounds them is here, so that ids equal those of the Python tokenizers for every text.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  BPE,
  ByteLevelPreTokenizer,
  Normalizer,
  PrecompiledNormalizer,
  SequenceNormalizer,
  Tokenizer as UnigramPipeline,
} from "@huggingface/tokenizers";
import { badArgument, FluxError } from "../errors.js";
import { PrecompiledCharsmap } from "./charsmap.js";
import { splitClipWords } from "./clip-text.js";
import { fileError } from "./file-error.js";
import { JsonFields, readJson } from "./json-fields.js";
import { quoted } from "./safetensors-header.js";

/** Longest text that is tokenized, in UTF-16 units, before and after normalisation; the encoders read a small part of it. */
export const MAX_PROMPT_LENGTH = 10_000;

/** T5 ids of a prompt that FLUX.1 reads at most. */
export const MAX_T5_LENGTH = 512;

/** A tokenized text. */
export interface Encoding {
  /** maxLength ids: BOS where the vocabulary has one, the text, EOS, padding. */
  readonly ids: Int32Array;
  /** Number of ids before the padding, EOS included. */
  readonly length: number;
  /** Whether the text was longer than fits. */
  readonly truncated: boolean;
}

interface Vocabulary {
  /** Ids of a text without BOS, EOS and padding. */
  readonly encodeText: (text: string) => readonly number[];
  /** Ids that are given by default, and at most. */
  readonly modelMaxLength: number;
  readonly longestLength: number;
  /** Every id is below it. */
  readonly idCount: number;
  /** Undefined in T5, which has no BOS. */
  readonly bosTokenId?: number;
  readonly eosTokenId: number;
  readonly padTokenId: number;
}

/** Turns text into padded token ids. */
export class Tokenizer {
  readonly modelMaxLength: number;
  readonly longestLength: number;
  readonly idCount: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number;
  readonly padTokenId: number;
  readonly #encodeText: (text: string) => readonly number[];

  constructor(vocabulary: Vocabulary) {
    this.modelMaxLength = vocabulary.modelMaxLength;
    this.longestLength = vocabulary.longestLength;
    this.idCount = vocabulary.idCount;
    this.bosTokenId = vocabulary.bosTokenId;
    this.eosTokenId = vocabulary.eosTokenId;
    this.padTokenId = vocabulary.padTokenId;
    this.#encodeText = vocabulary.encodeText;
  }

  /**
   * Tokenizes a text, truncated to maxLength with EOS kept, padded to maxLength.
   *
   * @param options.maxLength Ids wanted, at most longestLength. Default: modelMaxLength.
   * @throws FluxError ERR_FLUX_BAD_ARGUMENT for a text that is not a string or over MAX_PROMPT_LENGTH, or a bad maxLength.
   */
  encode(text: string, options: { maxLength?: number } = {}): Encoding {
    const maxLength = options.maxLength ?? this.modelMaxLength;
    const added = this.bosTokenId === undefined ? 1 : 2;
    if (!Number.isInteger(maxLength) || maxLength < added || maxLength > this.longestLength) {
      throw badArgument(
        `maxLength must be a whole number from ${added} to ${this.longestLength}, but it is ${maxLength}.`,
      );
    }
    if (typeof text !== "string") throw badArgument(`A prompt must be a string, but it is ${typeof text}.`);
    requirePromptLength(text);

    const textIds = this.#encodeText(text);
    const room = maxLength - added;
    const kept = textIds.slice(0, room);
    const prefix = this.bosTokenId === undefined ? [] : [this.bosTokenId];
    const unpadded = [...prefix, ...kept, this.eosTokenId];
    const ids = new Int32Array(maxLength).fill(this.padTokenId);
    ids.set(unpadded);
    return { ids, length: unpadded.length, truncated: textIds.length > room };
  }
}

/**
 * Loads CLIP's tokenizer from `vocab.json`, `merges.txt` and `tokenizer_config.json`.
 *
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS naming the file that is missing or damaged.
 */
export async function loadClipTokenizer(folder: string): Promise<Tokenizer> {
  const vocabFile = join(folder, "vocab.json");
  const vocabJson = await readJson(vocabFile);
  const vocab = checkClipVocab(vocabJson, vocabFile);
  const mergesFile = join(folder, "merges.txt");
  const merges = await readMerges(mergesFile);
  const config = await readTokenizerConfig(folder);

  const bos = config.token("bos_token", "<|startoftext|>");
  const eos = config.token("eos_token", "<|endoftext|>");
  const idOf = idsOf(vocab, vocabFile);
  const specialIds = new Map([bos, eos].map((token) => [token, idOf(token)]));
  requireMerges(mergesFile, merges, vocab);
  // A captured separator stays in the result of split as a part of its own.
  const special = new RegExp(`(${[...specialIds.keys()].map(escapeRegExp).join("|")})`);

  const bpe = new BPE({
    type: "BPE",
    vocab: vocabJson as Record<string, number>,
    merges,
    unk_token: config.token("unk_token", eos),
    end_of_word_suffix: "</w>",
  });
  const bytes = new ByteLevelPreTokenizer({ type: "ByteLevel", add_prefix_space: false, use_regex: false });

  const encodeWord = (word: string): readonly number[] => {
    const specialId = specialIds.get(word);
    if (specialId !== undefined) return [specialId];
    return bpe.encode(bytes.pre_tokenize_text(word)).map(idOf);
  };
  const encodeText = (text: string): readonly number[] =>
    text
      .split(special)
      .flatMap((part) => (specialIds.has(part) ? [part] : splitClipWords(part)))
      .flatMap(encodeWord);

  // Every position has its own embedding: there is no room for more.
  const modelMaxLength = config.modelMaxLength(77);
  return new Tokenizer({
    encodeText,
    modelMaxLength,
    longestLength: modelMaxLength,
    idCount: 1 + largest(vocab.values()),
    bosTokenId: idOf(bos),
    eosTokenId: idOf(eos),
    padTokenId: idOf(config.token("pad_token", eos)),
  });
}

/**
 * Loads T5's tokenizer (Unigram) from `tokenizer.json` and `tokenizer_config.json`.
 *
 * @param length Ids that it gives by default, in place of what the config says.
 * @throws FluxError ERR_FLUX_BAD_WEIGHTS naming the file that is missing or damaged, ERR_FLUX_UNSUPPORTED for another model.
 */
export async function loadT5Tokenizer(folder: string, length?: number): Promise<Tokenizer> {
  const file = join(folder, "tokenizer.json");
  const json = await readJson(file);
  checkUnigram(json, file);
  const config = await readTokenizerConfig(folder);
  const eos = config.token("eos_token", "</s>");

  let pipeline: UnigramPipeline;
  try {
    pipeline = new UnigramPipeline(json as object, { eos_token: eos });
  } catch (cause) {
    throw damagedVocabulary(file, `it cannot be used (${(cause as Error).message})`, cause);
  }
  pipeline.normalizer = withExactCharsmap(pipeline.normalizer, file);

  const idOf = (token: string): number => {
    const id = pipeline.token_to_id(token);
    if (id === undefined) throw damagedVocabulary(file, `it has no token ${token}`);
    return id;
  };
  // T5's positions are relative, so a folder's limit is a default; what FLUX.1 was trained with is the limit.
  const modelMaxLength = length ?? config.modelMaxLength(MAX_T5_LENGTH);
  return new Tokenizer({
    encodeText: (text) => pipeline.encode(text, { add_special_tokens: false }).ids,
    modelMaxLength,
    longestLength: Math.max(modelMaxLength, MAX_T5_LENGTH),
    idCount: idsOfUnigram(json),
    eosTokenId: idOf(eos),
    padTokenId: idOf(config.token("pad_token", "<pad>")),
  });
}

/** The library's precompiled normaliser is an approximation by NFKC; this is the map itself. */
class CharsmapNormalizer extends Normalizer {
  readonly #charsmap: PrecompiledCharsmap;

  constructor(config: object, file: string) {
    super(config);
    const { precompiled_charsmap: base64 } = config as { precompiled_charsmap?: string | null };
    this.#charsmap = new PrecompiledCharsmap(base64 ?? "", file);
  }

  override normalize(text: string): string {
    const normalized = this.#charsmap.normalize(text);
    requirePromptLength(normalized);
    return normalized;
  }
}

function withExactCharsmap(normalizer: Normalizer | null, file: string): Normalizer | null {
  if (normalizer instanceof PrecompiledNormalizer) return new CharsmapNormalizer(normalizer.config, file);
  if (normalizer instanceof SequenceNormalizer) {
    normalizer.normalizers = normalizer.normalizers.map((part) => withExactCharsmap(part, file));
  }
  return normalizer;
}

function requirePromptLength(text: string): void {
  if (text.length > MAX_PROMPT_LENGTH) {
    throw badArgument(
      `A prompt may have ${MAX_PROMPT_LENGTH} characters, but this one has ${text.length}. ` +
        "Shorten it: the text encoders read some hundred words.",
    );
  }
}

async function readMerges(file: string): Promise<[string, string][]> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    throw fileError(file, error, "ERR_FLUX_BAD_WEIGHTS");
  }
  const lines = text.trimEnd().split("\n");
  // The first line is the version of the format.
  return lines.slice(1).map((line, index) => {
    const pair = line.split(" ");
    if (pair.length !== 2 || pair[0] === "" || pair[1] === "") {
      throw damagedVocabulary(file, `line ${index + 2} is not a pair of tokens`);
    }
    return [pair[0], pair[1]];
  });
}

/**
 * Of byte-pair encoding every merge makes a token, and every token of more than one letter comes from a merge; all but the special ones, which
 * are in angle brackets. A file of another vocabulary, or one that is cut off, would give other ids without a word.
 */
function requireMerges(
  file: string,
  merges: readonly (readonly [string, string])[],
  vocab: ReadonlyMap<string, number>,
): void {
  const made = new Set(merges.map(([left, right]) => left + right));
  const unknown = [...made].find((token) => !vocab.has(token));
  if (unknown !== undefined)
    throw damagedVocabulary(file, `it makes ${quoted(unknown)}, which vocab.json lacks`);
  const isLong = (token: string) => [...token.replace(/<\/w>$/, "")].length > 1 && !/^<.*>$/.test(token);
  const missing = [...vocab.keys()].find((token) => isLong(token) && !made.has(token));
  if (missing !== undefined)
    throw damagedVocabulary(file, `it does not make ${quoted(missing)}, which vocab.json has`);
}

function checkClipVocab(json: unknown, file: string): ReadonlyMap<string, number> {
  const fields = new JsonFields(json, file);
  return new Map(fields.keys().map((token) => [token, fields.integer(token, undefined, 0)]));
}

function checkUnigram(json: unknown, file: string): void {
  const model = new JsonFields(json, file).object("model");
  if (model.string("type") !== "Unigram") throw model.unsupported("type", "Unigram");
  const vocab = model.raw("vocab");
  const isPiece = (piece: unknown) =>
    Array.isArray(piece) && piece.length === 2 && typeof piece[0] === "string" && Number.isFinite(piece[1]);
  if (!Array.isArray(vocab) || vocab.length === 0 || !vocab.every(isPiece)) {
    throw model.invalid("vocab", "a list of pieces and their scores");
  }
  const unknown = model.integer("unk_id", undefined, 0);
  if (unknown >= vocab.length) throw model.invalid("unk_id", `below the vocabulary's size (${vocab.length})`);
}

/** Pieces, and tokens beside them. After `checkUnigram`. */
function idsOfUnigram(json: unknown): number {
  const { model, added_tokens: added = [] } = json as {
    model: { vocab: unknown[] };
    added_tokens?: { id?: unknown }[];
  };
  return Math.max(model.vocab.length, 1 + largest(added.map(({ id }) => Number(id))));
}

function largest(numbers: Iterable<number>): number {
  let most = -1;
  for (const number of numbers) most = Math.max(most, number);
  return most;
}

interface TokenizerConfig {
  /** A special token, which a config gives as text or as an object with its content. */
  token(key: string, fallback: string): string;
  modelMaxLength(fallback: number): number;
}

async function readTokenizerConfig(folder: string): Promise<TokenizerConfig> {
  const file = join(folder, "tokenizer_config.json");
  const fields = new JsonFields(await readJson(file), file);
  return {
    token(key, fallback) {
      const value = fields.raw(key);
      if (value === undefined || value === null) return fallback;
      return typeof value === "object" ? fields.object(key).string("content") : fields.string(key);
    },
    modelMaxLength(fallback) {
      // transformers writes a number near 1e30 for "no limit".
      return fields.number("model_max_length", fallback) > 1e6
        ? fallback
        : fields.integer("model_max_length", fallback, 2);
    },
  };
}

function idsOf(vocab: ReadonlyMap<string, number>, file: string): (token: string) => number {
  return (token) => {
    const id = vocab.get(token);
    if (id === undefined) throw damagedVocabulary(file, `it has no token ${token}`);
    return id;
  };
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

function damagedVocabulary(file: string, what: string, cause?: unknown): FluxError {
  return new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${file} is not a usable vocabulary: ${what}. Download it again.`,
    {
      cause,
    },
  );
}
