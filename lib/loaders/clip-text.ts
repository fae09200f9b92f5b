// What CLIP's tokenizer does to a prompt before its byte-pair encoding, as transformers 4's CLIPTokenizer does without ftfy
// (the tokenizer that FLUX.1 folders name): clean, set CJK ideographs apart, NFC, collapse white space, lower-case, split.

const WHITE_SPACE = /[\t\n\r\p{Zs}]/gu;
// Control, format, unassigned, private and surrogate code points; U+FFFD stands for what could not be decoded.
const DROPPED = /[\p{C}\uFFFD]/gu;
// The blocks of CJK ideographs that BERT's basic tokenizer sets apart; the kana and Hangul are not among them.
const CJK_IDEOGRAPH =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B820}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;

// Contractions, runs of letters, single digits, runs of anything else. The original ignores case by Unicode's simple
// folding, which after lower-casing concerns only the long s.
const WORD =
  /<\|[sſ]tartoftext\|>|<\|endoftext\|>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu;

/** Splits a text (without literal special tokens) into the words that are byte-pair encoded one by one. */
export function splitClipWords(text: string): string[] {
  const cleaned = text.replace(WHITE_SPACE, " ").replace(DROPPED, "");
  const spaced = cleaned.replace(CJK_IDEOGRAPH, " $& ").normalize("NFC");
  const lowered = spaced.split(/\s+/).map((word) => word.toLowerCase());
  return lowered.join(" ").match(WORD) ?? [];
}
