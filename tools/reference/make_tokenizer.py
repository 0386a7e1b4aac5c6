"""Write tests/data/tokenizer: a small CLIP vocabulary, configs, and what transformers makes of odd texts.

    make_tokenizer.py [--out tests/data/tokenizer]

The vocabulary is a byte-level BPE trained on generated words, laid out as CLIP's is: bytes, ended bytes, merges,
the two marks. `expected.json` holds, per config, the ids that `transformers.CLIPTokenizer` (slow, without ftfy,
which must not be installed) gives for each text: `ids` of the text alone, and `encoded`, the 77 ids a pipeline
would use, as far as the padding.
"""

import argparse
import collections
import importlib.util
import json
import random
import shutil
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 320
# Lead byte of variation selectors beyond U+FFFF, which is left out so that something is unknown.
UNKNOWN = chr(0xF3)
WORDS = (
    "a the of and photo photograph picture detailed highly sharp texture painting old house street mountain river "
    "cat dog cats dogs don't it's we'll they've i'm she'd you're café naïve über señor straße 2024 1080 4k 8k ... !! "
    "(best) -- soft light shadow colour colors"
).split()

TEXTS = [
    "", " ", "\t\n\r ", "a", "A", "!", "hello!", "!!!", "wow!! really?!", "a photo of a cat",
    "A Photo Of A CAT, highly detailed, sharp", "  leading and   inner\tspaces \n", "don't it's we'll they've i'm she'd you're",
    "DON'T IT'S", "'s 't 're 've 'm 'll 'd", "'''s", "rock'n'roll o'clock 'em", "can\u2019t", "1", "1234567890", "4k 8K 1080p",
    "3.14159 -1e10 ½ ² Ⅷ ١٢٣ 一二三", "café naïve über señor straße", "cafe\u0301 u\u0308ber \u212b", "A\u030angstro\u0308m",
    "ÀÉÎÕÜ ÇÑ ØÅÆ ŒŠŽ", "ΟΔΥΣΣΕΥΣ Σ ΑΣ. ΣΑΣ", "İstanbul Iğdır ı", "ǅungla ǈ", "straße STRASSE ẞ", "ﬁne ﬂow ﬅ", "Привет, МИР!",
    "日本語のテキスト", "中文，测试。混合abc", "한국어 각 \u1112\u1161\u11ab", "𠀀𪜀 豈 㐀", "עברית العربية", "हिन्दी क्षि க்ஷ ไทย",
    "😀", "👩\u200d👩\u200d👧 👍🏽 ❤\ufe0f 🏳\ufe0f\u200d🌈", "smile:😀cat", "🇩🇪 🇯🇵", "\u0000a\u0001b\u001fc\u007fd\u0085e\u00ade",
    "a\u000bb\u000cc\u001cd", "x\u00a0y\u2003z\u3000w\u2028v\u2029u\u200bt\u202fs\u1680r", "\ufeffbom \ufffd \ufffe?", "\ue000 private \U000f0000",
    "\u0378 unassigned \U0001fae8", "e\U000e0100 variation", "...", "a.b,c;d:e", "-- -- --", "(best) [quality] {x} <y>", "a_b-c+d=e*f/g\\h|i",
    "<|startoftext|>", "a<|endoftext|>b", "a <|endoftext|> b", "<|EndOfText|> <|STARTOFTEXT|>", "!<|ENDOFTEXT|>", "<|endoftext", "<|endoftext|><|endoftext|>",
    "'ſ ſ <|ſtartoftext|>", "http://example.org/a?b=c&d=%20", "&amp; &lt;b&gt; &#39;", "“quotes” ‘single’ – — …", "Ã©tait mojibake â€™",
    "supercalifragilisticexpialidocious" * 3, "the " * 100, "a" * 300, "!" * 90, "word! " * 40, "é" * 200, "日" * 100, "1" * 100,
    "a\u0301\u0323\u0302", "q\u0307\u0323 \u0301start", "\u0958 \u0915\u093c", "K \u212a Å",
]


def train(words, count):
    """Merges of a plain BPE over words (tuples of symbols) with their frequencies."""
    merges = []
    for _ in range(count):
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        merged = collections.Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == best:
                    out.append(word[i] + word[i + 1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] += n
        words = merged
    return merges


def vocabulary():
    rng = random.Random(7)
    table = bytes_to_unicode()
    syllables = [a + b for a in "bcdfglmnprst" for b in ("a", "e", "i", "o", "er", "in", "an")]
    words = collections.Counter()
    for rank in range(1, 400):
        word = rng.choice(WORDS) if rank % 3 == 0 else "".join(rng.choices(syllables, k=rng.randint(1, 4)))
        symbols = [table[b] for b in word.encode()]
        symbols[-1] += "</w>"
        words[tuple(symbols)] += 4000 // rank
    merges = train(words, MERGES)
    symbols = list(table.values())
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + [START, END]
    assert len(set(tokens)) == len(tokens) and tokens[0] == "!"
    vocab = {t: i for i, t in enumerate(tokens) if t not in (UNKNOWN, UNKNOWN + "</w>")}
    return vocab, merges


def added(content, **more):
    plain = dict(content=content, lstrip=False, normalized=True, rstrip=False, single_word=False)
    return dict(sorted({**plain, **more}.items()))


def configs(vocab):
    """As they are published: for SD 1.x, for SD 2.x, and for models that a newer transformers has saved."""
    tokens = {k: added(v) for k, v in (("bos_token", START), ("eos_token", END), ("unk_token", END))}
    config = dict(
        {k: dict(v, __type="AddedToken") for k, v in tokens.items()}, add_prefix_space=False, do_lower_case=True,
        errors="replace", model_max_length=77, pad_token=END, tokenizer_class="CLIPTokenizer",
        special_tokens_map_file="./special_tokens_map.json")
    yield "sd1", config, dict(tokens, pad_token=END)
    yield "sd2", config, dict(tokens, pad_token="!")
    decoder = {str(vocab["!"]): added("!", normalized=False, special=True)}
    decoder |= {str(vocab[t]): added(t, special=True) for t in (START, END)}
    newer = dict(
        added_tokens_decoder=decoder, add_prefix_space=False, additional_special_tokens=[], bos_token=START,
        clean_up_tokenization_spaces=True, do_lower_case=True, eos_token=END, errors="replace", model_max_length=77,
        pad_token="!", tokenizer_class="CLIPTokenizer", unk_token=END)
    # what this file says does not count any more
    yield "newer", newer, dict(tokens, pad_token=END)


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "tests/data/tokenizer")
    args = parser.parse_args()
    assert importlib.util.find_spec("ftfy") is None, "with ftfy installed transformers follows other rules"
    vocab, merges = vocabulary()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, separators=(",", ":")) + "\n")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (args.out / "merges.txt").write_text("\n".join(lines) + "\n")
    expected = {}
    for name, config, special in configs(vocab):
        folder = args.out / name
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1, sort_keys=True) + "\n")
        with tempfile.TemporaryDirectory() as temp:
            for file in [args.out / "vocab.json", args.out / "merges.txt", *folder.iterdir()]:
                shutil.copy(file, temp)
            tokenizer = CLIPTokenizer.from_pretrained(temp)
            rows = []
            for text in TEXTS:
                encoded = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
                while len(encoded) > 2 and encoded[-1] == encoded[-2] == tokenizer.pad_token_id:
                    encoded.pop()
                rows.append({"text": text, "ids": tokenizer(text, add_special_tokens=False).input_ids, "encoded": encoded})
            expected[name] = {"pad": tokenizer.pad_token_id, "texts": rows}
            for other in ("sd1", "newer"):
                # what is the same need not be said twice
                if name != other and other in expected:
                    same = {json.dumps(r) for r in expected[other]["texts"]}
                    expected[name]["texts"] = [r for r in expected[name]["texts"] if json.dumps(r) not in same]
    text = json.dumps(expected, separators=(",", ":")).replace('{"text"', '\n{"text"')
    (args.out / "expected.json").write_text(text + "\n")
    print({k: len(v["texts"]) for k, v in expected.items()}, len(vocab), (args.out / "expected.json").stat().st_size)


if __name__ == "__main__":
    main()
