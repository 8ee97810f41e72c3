#!/usr/bin/env python3
"""Writes unicode_tables.cpp: what the reference tokenizer knows of Unicode.

    pip install tokenizers==0.23.3 unicodedata2==16.0.0
    python data/tokenizer/make_unicode_tables.py > data/tokenizer/unicode_tables.cpp

The Python wheel `tokenizers` holds three Unicode tables of three ages. None of them is asked for its version: each is
compared with Unicode's own data over all code points, and this script fails where it does not agree.

- Patterns run in Oniguruma: the general categories of Unicode 16.0.
- The Digits pre-tokenizer asks Rust's standard library: the numbers of a later Unicode, a handful more.
- NFC, NFD, NFKC, NFKD: Unicode 9.0. To it, characters assigned later have no decomposition, do not combine and have
  class 0. A character's normal forms never change once it is assigned, so newer data with those characters cut out
  gives the same answer.
"""

import sys

import tokenizers
import unicodedata2 as ucd
from tokenizers import Regex, normalizers, pre_tokenizers

assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
assert ucd.unidata_version == "16.0.0", ucd.unidata_version

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn").split()
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
NEWER = 16
SYMBOLS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def members(pattern):
    """Code points that Oniguruma's `pattern` matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    for at in range(0, len(CHARACTERS), 4096):
        text = "".join(map(chr, CHARACTERS[at : at + 4096]))
        found.update(ord(c) for piece, _ in split.pre_tokenize_str(text) for c in piece)
    return found


def check_categories(categories):
    for group in sorted({*CATEGORIES, *"LMNPSZC"} - {"Cs"}):
        want = {c for c in CHARACTERS if categories[c].startswith(group)}
        assert members(rf"\p{{{group}}}") == want, group


def extra_numbers(categories):
    """Numbers to the Digits pre-tokenizer beyond \\p{N}."""
    digits = pre_tokenizers.Digits(individual_digits=False)
    found = {c for c in CHARACTERS if len(digits.pre_tokenize_str("a" + chr(c))) == 2}
    numbers = {c for c in CHARACTERS if categories[c][0] == "N"}
    assert numbers <= found
    return sorted(found - numbers)


class Forms:
    """What the wheel's normal forms know, and what Unicode 16 says."""

    def __init__(self):
        self.theirs = {form: getattr(normalizers, form)().normalize_str for form in FORMS}
        self.classes = {c: ucd.combining(chr(c)) for c in CHARACTERS}
        self.parts = set()  # (first, second, composite) of canonical compositions
        for c in CHARACTERS:
            pair = ucd.decomposition(chr(c)).split()
            if len(pair) == 2 and pair[0][0] != "<" and ucd.normalize("NFC", chr(c)) == chr(c):
                self.parts.add((int(pair[0], 16), int(pair[1], 16), c))
        self.seconds = {b for _, b, _ in self.parts} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
        self.newer = {c for c in CHARACTERS if self.is_newer(chr(c))}
        joined = {part: self.theirs["NFC"](chr(part[0]) + chr(part[1])) == chr(part[2]) for part in self.parts}
        known = {c for part, joins in joined.items() if joins for c in part}
        for part, joins in joined.items():
            if not joins:
                assert not known.issuperset(part[:2]), part
                self.newer |= set(part) - known

    def is_newer(self, c):
        if any(self.theirs[form](c) != ucd.normalize(form, c) for form in FORMS):
            return True
        # U+0345 has the highest class, U+0334 the lowest: one of them changes places with any mark.
        moves = any(self.theirs["NFD"](t) != t for t in ("a\u0345" + c, "a" + c + "\u0334"))
        return self.classes[ord(c)] != 0 and not moves

    def flags(self, c):
        if c in self.newer:
            return NEWER
        unsafe = 0
        for bit, form in enumerate(FORMS):
            joins = bit % 2 == 0 and c in self.seconds
            if self.classes[c] or joins or self.theirs[form](chr(c)) != chr(c):
                unsafe |= 1 << bit
        return unsafe


def runs(values):
    """A letter for the value, then the length of its run where that is not 1."""
    out, at = [], 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        out.append(SYMBOLS[values[at]] + (str(end - at) if end - at > 1 else ""))
        at = end
    return "".join(out)


def literal(name, text):
    lines = [text[at : at + 94] for at in range(0, len(text), 94)]
    quoted = "\n".join(f'    "{line}"' for line in lines)
    return f"const char* const {name} =\n{quoted};\n"


def main():
    categories = {c: ucd.category(chr(c)) for c in range(0x110000)}
    check_categories(categories)
    forms = Forms()
    flags = [0 if 0xD800 <= c < 0xE000 else forms.flags(c) for c in range(0x110000)]
    extra = extra_numbers(categories)
    print("// Written by make_unicode_tables.py from tokenizers 0.23.3 and Unicode 16.0.0.\n")
    print('#include "data/tokenizer/unicode_tables.h"\n\nnamespace ashlar {\n\n// clang-format off')
    print(literal("kCategoryRuns", runs([CATEGORIES.index(categories[c]) for c in range(0x110000)])))
    print(literal("kNormalFormRuns", runs(flags)))
    numbers = [int(c in extra) for c in range(0x110000)]
    print(literal("kExtraNumberRuns", runs(numbers)))
    print("// clang-format on\n\n}  // namespace ashlar")
    print(len(extra), "numbers,", len(forms.newer), "characters newer than the normal forms", file=sys.stderr)


if __name__ == "__main__":
    main()
