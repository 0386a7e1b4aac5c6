"""Write src/model/unicode.txt: what the tokenizer has to know about characters.

    make_unicode.py [--out src/model/unicode.txt]

From the interpreter's own `unicodedata`, whose version the first line names; the committed file is of 14.0.0
(Python 3.11). Lines: character classes as run lengths from code point 0 (c: control, format, private,
surrogate, unassigned; l: letter; n: number; o: other); canonical combining classes as start:length:class (hex);
canonical decompositions, `=` where the two also compose, `>` where they do not (hex).
"""

import argparse
import unicodedata
from itertools import groupby
from pathlib import Path

LAST = 0x110000


def kind(cp):
    category = unicodedata.category(chr(cp))[0]
    return {"C": "c", "L": "l", "N": "n"}.get(category, "o")


def composes(cp):
    """Whether NFC makes the character of its parts again; each is tried on its own, so order plays no part."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", chr(cp))) == chr(cp)


def digest():
    """FNV-1a over the normal form C of every character alone, behind a letter, and in front of two marks."""
    value = 0xCBF29CE484222325
    for c in map(chr, (cp for cp in range(LAST) if not 0xD800 <= cp < 0xE000)):
        if kind(ord(c)) == "c":
            continue
        for text in (c, "a" + c, c + "\u0301\u0323"):
            for byte in unicodedata.normalize("NFC", text).encode():
                value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=root / "src/model/unicode.txt")
    args = parser.parse_args()
    classes = "".join(f"{k}{len(list(g))} " for k, g in groupby(range(LAST), kind))
    combining, start = [], 0
    for value, group in groupby(range(LAST), lambda cp: unicodedata.combining(chr(cp))):
        length = len(list(group))
        if value:
            combining.append(f"{start:x}:{length:x}:{value:x}")
        start += length
    decompositions = []
    for cp in range(LAST):
        parts = unicodedata.decomposition(chr(cp))
        # Hangul syllables are computed, compatibility forms do not matter here
        if parts and not parts.startswith("<"):
            sign = "=" if composes(cp) and len(parts.split()) == 2 else ">"
            decompositions.append(f"{cp:x}{sign}{','.join(f'{int(p, 16):x}' for p in parts.split())}")
    head = f"Unicode {unicodedata.unidata_version}, made by tools/reference/make_unicode.py"
    args.out.write_text("\n".join([head, classes.strip(), " ".join(combining), " ".join(decompositions)]) + "\n")
    print(f"{args.out}: {args.out.stat().st_size} bytes, digest of normal forms {digest():#x}")


if __name__ == "__main__":
    main()
