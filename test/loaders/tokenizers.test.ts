import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  loadClipTokenizer,
  loadT5Tokenizer,
  MAX_PROMPT_LENGTH,
  type Tokenizer,
} from "../../lib/loaders/tokenizers.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { goldenJson, goldenPath, hasShared, sharedPath } from "../support/golden.js";

interface Row {
  prompt: string;
  /** transformers 5. */
  clip: number[];
  /** transformers 4, given where it differs. */
  clip_v4_slow?: number[];
  clip_77: number[];
  t5: number[];
  t5_128: number[];
}
interface TokenCases {
  bos: number;
  eos: number;
  rows: Row[];
}

/** BOS, text, EOS cut or padded to `length`; CLIP pads with EOS. */
function fitted(ids: readonly number[], length: number, eos: number, pad: number): Int32Array {
  const kept = ids.length <= length ? ids : [...ids.slice(0, length - 1), eos];
  return Int32Array.from({ length }, (_, i) => kept[i] ?? pad);
}

const VOCABULARIES = [
  {
    title: "the tiny vocabularies",
    cases: "cases/tokens_tiny.json",
    clip: goldenPath("tiny-flux/tokenizer"),
    t5: goldenPath("tiny-flux/tokenizer_2"),
    isHere: true,
  },
  {
    title: "FLUX.1's vocabularies (read from ../shared/tokenizers)",
    cases: "cases/tokens_real.json",
    clip: sharedPath("tokenizers/clip"),
    t5: sharedPath("tokenizers/t5"),
    isHere: hasShared("tokenizers/clip/vocab.json") && hasShared("tokenizers/t5/tokenizer.json"),
  },
];

describe.each(VOCABULARIES)("$title", ({ cases: path, clip: clipFolder, t5: t5Folder, isHere }) => {
  const cases = goldenJson<TokenCases>(path);

  it.skipIf(!isHere)("give CLIP's ids of transformers 4 for every prompt", async () => {
    const clip = await loadClipTokenizer(clipFolder);
    expect(clip).toMatchObject({
      modelMaxLength: 77,
      bosTokenId: cases.bos,
      eosTokenId: cases.eos,
      padTokenId: cases.eos,
    });
    expect(cases.rows.length).toBe(45);
    for (const row of cases.rows) {
      const expected = row.clip_v4_slow ?? row.clip;
      const { ids, length, truncated } = clip.encode(row.prompt);
      expect([...ids.slice(0, length)], row.prompt).toEqual(
        expected.length <= 77 ? expected : [...expected.slice(0, 76), cases.eos],
      );
      expect(ids, row.prompt).toEqual(fitted(expected, 77, cases.eos, cases.eos));
      if (row.clip_v4_slow === undefined) expect([...ids], row.prompt).toEqual(row.clip_77);
      expect(truncated).toBe(expected.length > 77);
    }
  });

  it.skipIf(!isHere)("give T5's ids for every prompt, padded to 512 and truncated to 128", async () => {
    const t5 = await loadT5Tokenizer(t5Folder);
    expect(t5).toMatchObject({ modelMaxLength: 512, bosTokenId: undefined, eosTokenId: 1, padTokenId: 0 });
    for (const row of cases.rows) {
      const full = t5.encode(row.prompt);
      expect(full.length, row.prompt).toBe(row.t5.length);
      expect(full.truncated, row.prompt).toBe(false);
      expect(full.ids, row.prompt).toEqual(fitted(row.t5, 512, 1, 0));
      const short = t5.encode(row.prompt, { maxLength: 128 });
      expect([...short.ids], row.prompt).toEqual(row.t5_128);
      expect(short.truncated, row.prompt).toBe(row.t5.length > 128);
    }
  });
});

describe("CLIP's rules", () => {
  const load = () => loadClipTokenizer(goldenPath("tiny-flux/tokenizer"));
  const idsOf = (tokenizer: Tokenizer, text: string) => {
    const { ids, length } = tokenizer.encode(text);
    return [...ids.slice(1, length - 1)];
  };

  it("hold for texts whose ids must be equal", async () => {
    const clip = await load();
    const equal: [string, string][] = [
      ["a  photo\t of\r\na cat", "a photo of a cat"],
      ["A PHOTO", "a photo"],
      ["cat\u0000\u0007\u200b\ufeff\ufffd\ud800dog", "catdog"],
      ["cat\u000bdog", "catdog"],
      ["cat\u2028dog", "cat dog"],
      ["日本", "日 本"],
      ["cafe\u0301", "caf\u00e9"],
      ["42", "4 2"],
      ["\u1f88", "\u1f80"],
    ];
    for (const [text, same] of equal)
      expect(idsOf(clip, text), JSON.stringify(text)).toEqual(idsOf(clip, same));
  });

  it("take a special token for itself wherever it stands, in any case when it stands alone", async () => {
    const clip = await load();
    const cat = idsOf(clip, "cat");
    for (const text of ["cat<|endoftext|>cat", "cat <|endoftext|> cat", "cat <|ENDOFTEXT|> cat"]) {
      expect(idsOf(clip, text), text).toEqual([...cat, clip.eosTokenId, ...cat]);
    }
    expect(idsOf(clip, "!!<|endoftext|>")).toEqual([...idsOf(clip, "!!"), clip.eosTokenId]);
    expect(idsOf(clip, "!!<|ENDOFTEXT|>")).not.toContain(clip.eosTokenId);
  });
});

describe("T5's rules", () => {
  it("hold for texts whose ids must be equal", async () => {
    const t5 = await loadT5Tokenizer(goldenPath("tiny-flux/tokenizer_2"));
    const equal: [string, string][] = [
      ["one\r\ntwo", "one two"],
      ["one\u3000two", "one two"],
      ["cafe\u0301", "caf\u00e9"],
      ["\ufb01ne", "fine"],
      ["a\ud800b", "a\ufffdb"],
      ["trailing   ", "trailing"],
    ];
    for (const [text, same] of equal) expect(t5.encode(text), JSON.stringify(text)).toEqual(t5.encode(same));
  });
});

describe("Tokenizer.encode", () => {
  const loaders: [string, () => Promise<Tokenizer>][] = [
    ["CLIP", () => loadClipTokenizer(goldenPath("tiny-flux/tokenizer"))],
    ["T5", () => loadT5Tokenizer(goldenPath("tiny-flux/tokenizer_2"))],
  ];

  it.each(loaders)("refuses what is no prompt and no length: %s", async (_name, load) => {
    const tokenizer = await load();
    const bad = expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT" });
    expect(() => tokenizer.encode(7 as unknown as string)).toThrow(bad);
    expect(() => tokenizer.encode("x".repeat(MAX_PROMPT_LENGTH + 1))).toThrow(bad);
    for (const maxLength of [0, 1.5, -1, Number.NaN, tokenizer.longestLength + 1]) {
      expect(() => tokenizer.encode("a", { maxLength }), String(maxLength)).toThrow(bad);
    }
  });

  it.each(loaders)("truncates the longest prompt, keeping EOS: %s", async (_name, load) => {
    const tokenizer = await load();
    const { ids, length, truncated } = tokenizer.encode("ab ".repeat(MAX_PROMPT_LENGTH / 3));
    expect(truncated).toBe(true);
    expect(length).toBe(tokenizer.modelMaxLength);
    expect(ids.at(-1)).toBe(tokenizer.eosTokenId);
  });

  it("T5 gives up to 512 ids whatever its folder says, CLIP what its folder says", async () => {
    const folders = { tokenizer: loadClipTokenizer, tokenizer_2: loadT5Tokenizer };
    const [clip, t5] = await Promise.all(
      Object.entries(folders).map(async ([name, load]) => {
        const folder = await temporaryFolder();
        await cp(goldenPath(`tiny-flux/${name}`), folder, { recursive: true });
        const file = join(folder, "tokenizer_config.json");
        const config = JSON.parse(await readFile(file, "utf8"));
        await writeFile(file, JSON.stringify({ ...config, model_max_length: 64 }));
        return load(folder);
      }),
    );
    for (const tokenizer of [clip, t5]) expect(tokenizer.encode("a cat").ids).toHaveLength(64);
    expect(() => clip.encode("a cat", { maxLength: 77 })).toThrow(/from 2 to 64/);
    const whole = await loadT5Tokenizer(goldenPath("tiny-flux/tokenizer_2"));
    const options = { maxLength: 512 };
    expect(t5.encode("a cat", options)).toEqual(whole.encode("a cat", options));
  });

  it("refuses a prompt that normalisation makes too long", async () => {
    const t5 = await loadT5Tokenizer(goldenPath("tiny-flux/tokenizer_2"));
    // U+FDFA becomes eighteen characters.
    expect(() => t5.encode("\ufdfa".repeat(MAX_PROMPT_LENGTH))).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT" }),
    );
  });
});

describe("damaged vocabularies", () => {
  async function copyOf(name: "tokenizer" | "tokenizer_2"): Promise<string> {
    const folder = await temporaryFolder();
    await cp(goldenPath(`tiny-flux/${name}`), folder, { recursive: true });
    return folder;
  }
  const naming = (file: string, says: RegExp, code = "ERR_FLUX_BAD_WEIGHTS") => ({
    code,
    message: expect.stringMatching(new RegExp(`${file}.*${says.source}`, "s")),
  });

  it.each(["vocab.json", "merges.txt", "tokenizer_config.json"])("name a missing %s", async (file) => {
    const folder = await copyOf("tokenizer");
    await rm(join(folder, file));
    await expect(loadClipTokenizer(folder)).rejects.toMatchObject(naming(file, /not there/));
  });

  it("name a missing tokenizer.json", async () => {
    const folder = await copyOf("tokenizer_2");
    await rm(join(folder, "tokenizer.json"));
    await expect(loadT5Tokenizer(folder)).rejects.toMatchObject(naming("tokenizer.json", /not there/));
  });

  it("name what is wrong in CLIP's files", async () => {
    const folder = await copyOf("tokenizer");
    await writeFile(join(folder, "merges.txt"), "#version: 0.2\na b\nabc\n");
    await expect(loadClipTokenizer(folder)).rejects.toMatchObject(naming("merges.txt", /line 3/));
    await writeFile(join(folder, "vocab.json"), '{"a": "0"}');
    await expect(loadClipTokenizer(folder)).rejects.toMatchObject(
      naming("vocab.json", /"a" must be a whole number/),
    );
    await writeFile(join(folder, "vocab.json"), '{"a": 0}');
    await writeFile(join(folder, "merges.txt"), "#version: 0.2\n");
    await expect(loadClipTokenizer(folder)).rejects.toMatchObject(
      naming("vocab.json", /no token <\|startoftext\|>/),
    );
  });

  it("name merges that are cut off, or another vocabulary's", async () => {
    const folder = await copyOf("tokenizer");
    const file = join(folder, "merges.txt");
    const whole = await readFile(file, "utf8");
    for (const cut of ["", whole.slice(0, whole.indexOf("\n", whole.length / 2)), "#version: 0.2\n"]) {
      await writeFile(file, cut);
      await expect(loadClipTokenizer(folder)).rejects.toMatchObject(
        naming("merges.txt", /it does not make "/),
      );
    }
    await writeFile(file, `${whole.trimEnd()}\nq zx</w>\n`);
    await expect(loadClipTokenizer(folder)).rejects.toMatchObject(
      naming("merges.txt", /it makes "qzx<\/w>", which vocab\.json lacks/),
    );
  });

  it("name what is wrong in T5's file", async () => {
    const folder = await copyOf("tokenizer_2");
    const file = join(folder, "tokenizer.json");
    const json = JSON.parse(await readFile(file, "utf8"));
    const attempt = async (changes: object) => {
      await writeFile(file, JSON.stringify({ ...json, ...changes }));
      return loadT5Tokenizer(folder);
    };
    const model = json.model;
    await expect(attempt({ model: { ...model, type: "BPE" } })).rejects.toMatchObject(
      naming("tokenizer.json", /"model.type" is "BPE"/, "ERR_FLUX_UNSUPPORTED"),
    );
    await expect(attempt({ model: { ...model, vocab: [["a"]] } })).rejects.toMatchObject(
      naming("tokenizer.json", /vocab/),
    );
    await expect(attempt({ model: { ...model, unk_id: 1e6 } })).rejects.toMatchObject(
      naming("tokenizer.json", /unk_id/),
    );
    await expect(attempt({ added_tokens: 7 })).rejects.toMatchObject(
      naming("tokenizer.json", /cannot be used/),
    );
    await expect(
      attempt({ normalizer: { type: "Precompiled", precompiled_charsmap: "AAAA" } }),
    ).rejects.toMatchObject(naming("tokenizer.json", /precompiled_charsmap/));
  });
});
