"""Builds the two small tokenizers from the grammar, and encodes captions with them during training.

tokenizer/    CLIP's byte-level BPE: the 256 bytes, the same ending a word, merges learnt until every word of the grammar
              is one token, start and end of text last.
tokenizer_2/  T5's Unigram: whole words of the grammar with a leading blank (also capitalised), and single characters,
              so that any word in Latin letters can be spelt.
"""
import json
import math
import random
import re
import string
from collections import Counter
from functools import lru_cache
from pathlib import Path

from data.captions import describe
from data.scenes import sample_scene

CLIP_LENGTH = 77
T5_LENGTH = 64
CHARACTERS = string.ascii_letters + string.digits + ".,!?;:'\"()[]{}<>&%#@$/\\|*+-=_~^`éèêëàâäáåãçñöóôòõüúùûíìîïßæøœ’‘“”–—…"


def count_words(samples=60000, seed=11):
    """Words of many captions with their frequencies, case kept, punctuation apart."""
    rng, words = random.Random(seed), Counter()
    for _ in range(samples):
        words.update(re.findall(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]", describe(rng, sample_scene(rng))))
    # Random filler words (a few letters each) and rare capitals are left to single characters.
    return Counter({word: n for word, n in words.items() if n >= 20 or not word.isalpha()})


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes: byte -> character, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(printable))
    return table


def learn_merges(words):
    """Byte-pair merges, most frequent pair first (ties by spelling), until every word is one token."""
    spelt = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    while any(len(pieces) > 1 for pieces in spelt.values()):
        pairs = Counter()
        for word, pieces in spelt.items():
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelt = {word: merge(pieces, best) for word, pieces in spelt.items()}
    return merges


def merge(pieces, pair):
    out = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def special(content, normalized=False):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_clip(folder, words):
    lower = Counter()
    for word, n in words.items():
        lower[word.lower()] += n
    merges = learn_merges({word: n for word, n in lower.items() if word.isalpha()})
    characters = byte_characters().values()
    vocabulary = [*characters, *(c + "</w>" for c in characters), *(a + b for a, b in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(vocabulary)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    names.update(pad_token="<|endoftext|>", unk_token="<|endoftext|>")
    write_json(folder / "special_tokens_map.json", {k: special(v, k == "bos_token") for k, v in names.items()})
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(start): {**special("<|startoftext|>", True), "special": True},
            str(end): {**special("<|endoftext|>"), "special": True},
        },
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CLIP_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
        **names,
    }
    write_json(folder / "tokenizer_config.json", config)


def write_t5(folder, words):
    total = sum(words.values())
    scores = {}
    for word, n in words.items():
        spaced = "▁" + word if word.isalnum() else word
        scores[spaced] = math.log(n / total)
        if word.isalpha() and word.islower():
            scores.setdefault("▁" + word.capitalize(), math.log(n / total) - 4)
    scores["▁"] = -3.0
    for character in CHARACTERS:
        scores.setdefault(character, -12.0)
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    pieces += [[piece, round(score, 6)] for piece, score in sorted(scores.items(), key=lambda p: (-p[1], p[0]))]
    names = ("<pad>", "</s>", "<unk>")
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    pair = [{"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **special(name), "special": True} for i, name in enumerate(names)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            ],
        },
        "pre_tokenizer": {**metaspace, "prepend_scheme": "first"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": sequence,
            "pair": sequence + pair,
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": {**metaspace, "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer.json", tokenizer)
    roles = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", {k: special(v) for k, v in roles.items()})
    config = {
        "added_tokens_decoder": {str(i): {**special(name), "special": True} for i, name in enumerate(names)},
        "additional_special_tokens": [],
        "clean_up_tokenization_spaces": True,
        "extra_ids": 0,
        "legacy": False,
        "model_max_length": T5_LENGTH,
        "tokenizer_class": "T5Tokenizer",
        **roles,
    }
    write_json(folder / "tokenizer_config.json", config)


class ClipTokenizer:
    def __init__(self, folder):
        self.vocabulary = json.loads((Path(folder) / "vocab.json").read_text())
        lines = (Path(folder) / "merges.txt").read_text().split("\n")[1:]
        self.ranks = {tuple(line.split()): i for i, line in enumerate(lines) if line}
        self.bytes = byte_characters()
        self.start, self.end = self.vocabulary["<|startoftext|>"], self.vocabulary["<|endoftext|>"]
        self.word = lru_cache(maxsize=100000)(self.encode_word)

    def encode_word(self, word):
        pieces = [self.bytes[b] for b in word.encode()]
        pieces[-1] += "</w>"
        pieces = tuple(pieces)
        while len(pieces) > 1:
            best = min(zip(pieces, pieces[1:]), key=lambda pair: self.ranks.get(pair, math.inf))
            if best not in self.ranks:
                break
            pieces = merge(pieces, best)
        return [self.vocabulary[piece] for piece in pieces]

    def encode(self, text, length):
        """Ids with start and end, padded with end-of-text, truncated to `length`. Latin text only (training's)."""
        ids = [self.start]
        for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+", text.lower()):
            ids += self.word(word)
        ids = [*ids[: length - 1], self.end]
        return ids + [self.end] * (length - len(ids))


class T5Tokenizer:
    def __init__(self, folder):
        model = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
        self.scores = {piece: (score, i) for i, (piece, score) in enumerate(model["vocab"]) if i > 2}
        self.longest = max(map(len, self.scores))
        self.unknown = min(score for score, _ in self.scores.values()) - 10
        self.word = lru_cache(maxsize=100000)(self.encode_word)

    def encode_word(self, word):
        """The best-scoring segmentation (Viterbi); runs of unknown characters become one <unk>."""
        best = [(0.0, 0, -1)] + [(-math.inf, 0, -1)] * len(word)
        for end in range(1, len(word) + 1):
            for start in range(max(0, end - self.longest), end):
                found = self.scores.get(word[start:end]) or ((self.unknown, 2) if end - start == 1 else None)
                if found and best[start][0] + found[0] > best[end][0]:
                    best[end] = (best[start][0] + found[0], start, found[1])
        ids, end = [], len(word)
        while end > 0:
            _, start, index = best[end]
            if not (index == 2 and ids and ids[-1] == 2):
                ids.append(index)
            end = start
        return ids[::-1]

    def encode(self, text, length):
        """Ids ending in </s>, padded with <pad>, truncated to `length`."""
        ids = []
        for word in re.sub(r" +", " ", text.rstrip()).split(" ") if text.strip() else []:
            ids += self.word("▁" + word)
        ids = [*ids[: length - 1], 1]
        return ids + [0] * (length - len(ids))


if __name__ == "__main__":
    import sys

    root, vocabulary_words = Path(sys.argv[1]), count_words()
    write_clip(root / "tokenizer", vocabulary_words)
    write_t5(root / "tokenizer_2", vocabulary_words)
