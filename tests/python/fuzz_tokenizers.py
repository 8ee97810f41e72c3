#!/usr/bin/env python3
"""Ids and texts of generated strings: ours against Hugging Face `tokenizers` and `sentencepiece`, for equality.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3
    python tests/python/fuzz_tokenizers.py build/release/tests/tokenizer_stream [--count 100000] [--seed 1]

The vocabularies are those of ASHLAR_SHARED_DATA/tokenizers and, where scripts/real-model has been run, SmolLM2's; what is
absent is skipped with a message. The strings depend on count and seed alone and hold every code point at least once from
a count of 40,000 on.
"""

import argparse
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import time

import tokenizers

try:
    import sentencepiece
except ImportError:
    sentencepiece = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARSE, ADD, LOSSY, DECODE = 1, 2, 4, 8  # flags of tokenizer_stream
SPACES = [chr(c) for c in (*range(9, 14), 32, 32, 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
                           0x205F, 0x3000, 0x180E, 0x200B, 0xFEFF, 0x1C, 0x1F)]
MARKS = [*range(0x300, 0x370), *range(0x591, 0x5C8), *range(0x610, 0x61B), *range(0x64B, 0x660), *range(0x8D3, 0x900),
         0x93C, 0x94D, 0x9BE, 0x9D7, 0xB3E, 0xBD7, 0xCD6, 0xDCF, *range(0xE38, 0xE3B), *range(0xE48, 0xE4C), 0xF71, 0xF72,
         0xF74, *range(0x1AB0, 0x1ACF), *range(0x1DC0, 0x1E00), *range(0x20D0, 0x20F1), *range(0x302A, 0x3030), 0x3099,
         0x309A, 0xFE20, 0x110BA, 0x11127, 0x11930, 0x1D165, 0x1D16D, 0x1E2EC, 0x1E8D0, 0xFE0F]
JAMO = [*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A7, 0x11C3), 0xAC00, 0xAC01, 0xAC1C, 0xD788, 0xA960, 0xD7B0]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "🧑🏿‍🚀", "❤️", "1️⃣", "🫨", "🏴\U000e0067\U000e0062\U000e007f"]
WORDS = ["the", "Once", "upon", "HELLO", "don't", "I'LL", "we'Re", "it'ſ", "'KELVINK", "O'Neil's", "naïve", "Straße", "ÉCOLE",
         "ǅungla", "привет", "Ελλάδα", "שָׁלוֹם", "مَرْحَبًا", "नमस्ते", "สวัสดี", "你好世界", "こんにちは", "한국어", "한국", "ﬁne", "㎏", "½", "Ⅷ",
         "x̧̌", "é", "①②", "₃", "٣٤٥", "१२३", "1234567", "3.14159", "0x1F", "1,000,000", "a_b", "CamelCase2Go", "e\u0301", "ﷺ",
         "\u2581", "\u2581\u2581x", "<0x41>", "<0xE2>", "[UNK]", "\x00", "\x7f", "\u00ad", "\ufffd", "\uffff", "\U0010ffff"]
CODE = ["for (int i = 0; i < n; ++i) {\n\t\treturn a[i]->b;\n}\n", "def f(x):\n    return x ** 2  # ok\n\n\n", "<a href=\"x\">&nbsp;</a>",
        "SELECT * FROM t WHERE a<>'b''c';\r\n", "\\begin{equation}\n  \\alpha_{i}^{2}\n\\end{equation}", "{\"k\": [1, 2.5e-3, null]}",
        "----====****####", "!!!???...", "#!/bin/sh\n\n\n\techo \"$1\"\n", "a  b   c    d     e\t\tf\n \n  \n"]
RANGES = [(0x20, 0x7F), (0x80, 0x250), (0x370, 0x530), (0x530, 0x700), (0x900, 0x1100), (0x1E00, 0x2000), (0x2000, 0x2C00),
          (0x2C00, 0x3400), (0x4E00, 0x9FFF), (0xA000, 0xAC00), (0xAC00, 0xD7A4), (0xF900, 0x10000), (0x10000, 0x12000),
          (0x16800, 0x17000), (0x1B000, 0x1B300), (0x1CC00, 0x1D800), (0x1E000, 0x1EF00), (0x1F000, 0x20000)]


def every_code_point(rng):
    """Lists of code points, together all but the surrogates: neighbours, then the same mixed, then the rare planes."""
    common = [c for c in (*range(0x33480), *range(0xE0000, 0xE0200)) if not 0xD800 <= c < 0xE000]
    rare = [c for c in (*range(0x33480, 0xE0000), *range(0xE0200, 0x110000))]
    for at in range(0, len(common), 16):
        yield common[at : at + 16]
    for at in range(0, len(rare), 160):
        yield rare[at : at + 160]
    while True:
        yield [rng.choice(common) for _ in range(8)]


def atoms(rng, special):
    kind = rng.randrange(12)
    if kind == 0:
        return "".join(rng.choice(SPACES) for _ in range(rng.choice((1, 1, 2, 3, 9, 30))))
    if kind == 1:
        base = chr(rng.choice((0x61, 0x41, 0x65, 0x3B1, 0x915, 0xE01, 0xAC00, 0x1100, 0x11935, 0x20, 0x105D2, 0x41F)))
        return base + "".join(chr(rng.choice(MARKS)) for _ in range(rng.choice((1, 1, 2, 3, 6))))
    if kind == 2:
        return "".join(chr(rng.choice(JAMO)) for _ in range(rng.randrange(1, 7)))
    if kind == 3:
        return rng.choice(EMOJI)
    if kind == 4:
        return rng.choice(CODE)
    if kind == 5 and special:
        token = rng.choice(special)
        return token if rng.random() < 0.7 else token[: rng.randrange(len(token) + 1)] + token
    if kind in (6, 7):
        low, high = rng.choice(RANGES)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 9)))
    if kind == 8:
        return rng.choice((" ", "\n", "  ", "\r\n", "'", ".", ", ", "-"))
    word = rng.choice(WORDS)
    return rng.choice((word, word.upper(), word.lower(), " " + word, word + " "))


def corpus(count, seed, special):
    """`count` strings: 40 % with all code points in turn, the rest mixtures; a few very long."""
    rng = random.Random(seed)
    points = every_code_point(rng)
    for index in range(count):
        if index % 5 < 2:
            text = "".join(map(chr, next(points)))
            yield rng.choice(("", "", "a", " ", "\n", "1")) + text + rng.choice(("", "", "b", " z", "'s", "\u0301"))
        elif index % 2500 == 2:
            unit = rng.choice(("a", "ab", " ", "\n", "=", "é", "我", "1", "\u0301", "Ab1 ", " \n", "ㅏ", "'s", "<|", "\u2581"))
            yield unit * rng.randrange(500, 6000)
        else:
            yield "".join(atoms(rng, special) for _ in range(rng.choice((1, 2, 3, 5, 8, 13))))


class Ours:
    """The program, fed by files so that neither side waits for the other."""

    def __init__(self, program, vocabulary):
        self.command = [program, str(vocabulary)]

    def run(self, items):
        """(ids or None, decoded bytes or the message) of each (text, flags)."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as found:
            for text, flags in items:
                raw = text if isinstance(text, bytes) else text.encode("utf-8")
                given.write(struct.pack("<II", flags, len(raw)) + raw)
            given.seek(0)
            subprocess.run(self.command, stdin=given, stdout=found, check=True)
            found.seek(0)
            data = found.read()
        at = 0
        for _ in items:
            (count,) = struct.unpack_from("<I", data, at)
            at += 4
            ids = None
            if count != 0xFFFFFFFF:
                ids = list(struct.unpack_from(f"<{count}i", data, at))
                at += 4 * count
            (size,) = struct.unpack_from("<I", data, at)
            yield ids, data[at + 4 : at + 4 + size]
            at += 4 + size
        assert at == len(data), "the program answered more than it was asked"


class Failures:
    def __init__(self, name):
        self.name, self.count = name, 0

    def add(self, what, text, ours, theirs):
        self.count += 1
        if self.count <= 5:
            print(f"{self.name}: {what}: {text[:300]!r}\n  ours   {ours}\n  theirs {theirs}")


MODES = (PARSE, PARSE | ADD, 0)


def check_hf(name, program, vocabulary, json_path, options):
    """Our reading of `vocabulary` against the Python library's of `json_path`."""
    theirs = tokenizers.Tokenizer.from_file(str(json_path))
    added = theirs.get_added_tokens_decoder()
    special = sorted(token.content for token in added.values())
    items = [(text, MODES[i % 3]) for i, text in enumerate(corpus(options.count, options.seed, special))]
    failures = Failures(name)
    answers = list(Ours(program, vocabulary).run([(text, flags | LOSSY) for text, flags in items]))
    for flags in MODES:
        theirs.encode_special_tokens = not flags & PARSE
        chosen = [i for i, item in enumerate(items) if item[1] == flags]
        for at in range(0, len(chosen), 2000):
            part = chosen[at : at + 2000]
            encoded = theirs.encode_batch_fast([items[i][0] for i in part], add_special_tokens=bool(flags & ADD))
            decoded = theirs.decode_batch([e.ids for e in encoded], skip_special_tokens=True)
            for i, encoding, text in zip(part, encoded, decoded, strict=True):
                ids, ours = answers[i]
                if ids != encoding.ids:
                    failures.add(f"ids, flags {flags}", items[i][0], ids, encoding.ids)
                elif ours.decode("utf-8", "replace") != text:
                    failures.add("text", items[i][0], ours, text)
    refused = 0  # unless asked to be lossy, we refuse a text with a byte that the library drops
    for (ids, message), (lossy, _), (text, _) in zip(Ours(program, vocabulary).run(items), answers, items, strict=True):
        refused += ids is None and b"has no token for byte" in message
        if ids != lossy and b"has no token for byte" not in message:
            failures.add("strict", text, ids if ids is not None else message, lossy)
    print(f"{name}: {len(items)} strings, {failures.count} differences ({refused} hold a byte without a token)")
    return failures.count


def check_sentencepiece(name, program, model, options):
    """User-defined symbols are left out of the strings: behind one the library puts no space."""
    if sentencepiece is None:
        print(f"{name}: skipped against sentencepiece: the wheel is not installed (scripts/setup)")
        return 0
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    special = [theirs.id_to_piece(i) for i in range(theirs.vocab_size()) if theirs.is_control(i)][:50]
    texts = list(corpus(options.count, options.seed, special))
    failures = Failures(name)
    for text, (ids, ours) in zip(texts, Ours(program, model).run([(text, 0) for text in texts]), strict=True):
        want = theirs.encode(text)
        if ids != want:
            failures.add("ids", text, ids, want)
        elif "\u2581" not in text and ours.decode("utf-8", "replace") != theirs.decode(want):
            failures.add("text", text, ours, theirs.decode(want))
    print(f"{name}: {len(texts)} strings against sentencepiece, {failures.count} differences")
    return failures.count


UNIGRAM = {  # settings of the trainer; the vocabularies are made here, from the repository's own texts
    "nmt_nfkc": {"user_defined_symbols": ["<tool>", "ab", "e\u0301"], "control_symbols": ["[INST]"]},
    "nmt_nfkc_cf, no prefix": {"normalization_rule_name": "nmt_nfkc_cf", "add_dummy_prefix": False},
    "nfkc, every space": {"normalization_rule_name": "nfkc", "remove_extra_whitespaces": False, "bos_id": -1},
    "identity, bytes": {"normalization_rule_name": "identity", "byte_fallback": True, "vocab_size": 900,
                        "user_defined_symbols": ["<tool>", "ab"], "remove_extra_whitespaces": False},
    "nmt_nfkc, bytes": {"byte_fallback": True, "vocab_size": 900, "unk_surface": "?"},
}


def train_unigram(folder, name, **settings):
    lines = [line for path in sorted((ROOT / "docs").glob("*.md")) for line in path.read_text("utf-8").splitlines()]
    model = folder / f"{name.replace(' ', '-')}.model"
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines + WORDS + CODE), model_writer=file, model_type="unigram", num_threads=1,
            hard_vocab_limit=False, minloglevel=2, **{"vocab_size": 600, "character_coverage": 0.99, **settings})
    return model


def check_unigram(name, program, model, json_path, options):
    """Our reading of a Unigram model, and of the tokenizer.json made of it, against the library's: all strings, broken ones too."""
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    subprocess.run([program, str(model), "--json", str(json_path)], check=True)
    special = ["<tool>", "[INST]", "<s>", "</s>", "<unk>", "ab", "e\u0301"]
    texts = [text.encode("utf-8") for text in corpus(options.count, options.seed, special)]
    rng = random.Random(options.seed)
    for i in range(0, len(texts), 20):
        at = rng.randrange(len(texts[i]) + 1)
        texts[i] = texts[i][:at] + bytes([rng.choice((0x80, 0xC0, 0xC3, 0xE2, 0xED, 0xF0, 0xFF))]) + texts[i][at:]
    # Long texts: the library's sums are floats, and near ties show where it counts them anew.
    texts += [(unit * (size // len(unit))).encode() for unit in ("a", "ab", "the----====****####", "tokens of a table; ", "\u4f60")
              for size in (20_000, 120_000)]
    failures = Failures(name)
    again = Ours(program, json_path).run([(text, LOSSY) for text in texts])
    ours = Ours(program, model).run([(text, LOSSY) for text in texts])
    for text, (ids, decoded), (ids_again, _) in zip(texts, ours, again, strict=True):
        want = theirs.encode(text)
        if ids != want:
            failures.add("ids", text, ids, want)
        elif ids_again != want:
            failures.add("ids from the tokenizer.json", text, ids_again, want)
        elif "\u2581".encode() not in text and decoded.decode("utf-8", "replace") != theirs.decode(want):
            failures.add("text", text, decoded, theirs.decode(want))
    python = tokenizers.Tokenizer.from_file(str(json_path))  # another algorithm: said, not required
    valid = [text.decode("utf-8") for text in texts[: options.count] if text.decode("utf-8", "ignore").encode() == text]
    python.encode_special_tokens = True
    other = sum(e.ids != theirs.encode(text) for text, e in
                zip(valid, python.encode_batch_fast(valid, add_special_tokens=False), strict=True))
    print(f"{name}: {len(texts)} strings against sentencepiece, {failures.count} differences; "
          f"`tokenizers` differs from it on {other} of {len(valid)}")
    return failures.count


def check_unigrams(program, folder, options):
    if sentencepiece is None:
        print("Unigram: skipped: the wheel sentencepiece is not installed (scripts/setup)")
        return 0
    bad = 0
    for name, settings in UNIGRAM.items():
        model = train_unigram(pathlib.Path(folder), name, **settings)
        bad += check_unigram(f"Unigram, {name}", program, model, pathlib.Path(folder) / "unigram.json", options)
    return bad


def check_decode(name, program, vocabulary, json_path, options):
    """Texts of lists of ids that no text encodes to."""
    theirs = tokenizers.Tokenizer.from_file(str(json_path))
    known = sorted(theirs.get_vocab().values())
    rng = random.Random(options.seed + 3)
    lists = [[rng.choice(known) for _ in range(rng.randrange(1, 12))] for _ in range(options.count // 10)]
    items = [(struct.pack(f"<{len(ids)}i", *ids), DECODE) for ids in lists]
    # ByteLevel puts one replacement character for a maximal part of a sequence, as we do. ByteFallback replaces every byte
    # token of a run that is not UTF-8 as a whole, good ones too: nothing to compare.
    fallback = json.loads(json_path.read_text("utf-8"))["model"].get("byte_fallback", False)
    texts = theirs.decode_batch(lists, skip_special_tokens=True)
    failures = Failures(name)
    for ids, (_, ours), text in zip(lists, Ours(program, vocabulary).run(items), texts, strict=True):
        if not (fallback and "\ufffd" in text) and ours.decode("utf-8", "replace") != text:
            failures.add("decoded", ids, ours, text)
    print(f"{name}: {len(lists)} lists of ids decoded, {failures.count} differences")
    return failures.count


def normalize_valid(normalizer, raw):
    """The valid runs of `raw` normalized, the other bytes as they are."""
    text = raw.decode("utf-8", "surrogateescape")
    runs = re.split("([\udc80-\udcff]+)", text)
    return b"".join(run.encode("utf-8", "surrogateescape") if i % 2 else normalizer.normalize_str(run).encode("utf-8")
                    for i, run in enumerate(runs))


def check_broken_utf8(name, program, vocabulary, json_path, options):
    """Bytes that are no UTF-8 come back as they were: no Python library defines more."""
    step = json.loads(json_path.read_text("utf-8"))["normalizer"] or {}
    form = tokenizers.normalizers.NFC() if step.get("type") == "NFC" else None
    rng = random.Random(options.seed)
    texts = []
    for text in corpus(options.count // 20, options.seed + 1, []):
        raw = bytearray(text.encode("utf-8"))
        for _ in range(rng.randrange(1, 4)):
            raw.insert(rng.randrange(len(raw) + 1), rng.choice((0x80, 0xBF, 0xC0, 0xC3, 0xE2, 0xED, 0xF0, 0xF5, 0xFF)))
        texts.append(bytes(raw))
    failures = Failures(name)
    for text, (ids, ours) in zip(texts, Ours(program, vocabulary).run([(text, 0) for text in texts]), strict=True):
        if form:
            text = normalize_valid(form, text)
        same = ours == text or ours == text.replace("\u2581".encode(), b" ")
        if ids is not None and not same:
            failures.add("broken UTF-8", text, ours, text)
    print(f"{name}: {len(texts)} strings of broken UTF-8, {failures.count} differences")
    return failures.count


TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
          r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = TEKKEN.replace("\\p{M}]+|", "\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|").replace(r"|\p{N}|", r"|\p{N}{1,3}|")
PATTERNS = {
    "tekken": [TEKKEN],
    "o200k": [O200K],
    "deepseek": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                 r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                 r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "qwen": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "lookbehind": [r"(?<=\d)(?=(?:\d\d\d)+(?!\d))|(?<!\S)\w+".replace(r"\w", "[a-z]") + r"|\P{L}|\D\S"],
}


def variants(base):
    """The vocabulary `base` under other patterns, normal forms and pre-tokenizers, as (name, tokenizer.json)."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = {name: [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
              for name, patterns in PATTERNS.items()}
    for individual in (True, False):
        digits = {"type": "Digits", "individual_digits": individual}
        splits[f"digits {individual}"] = [digits]
        splits[f"digits {individual}, gpt-2"] = [digits, {**byte_level, "use_regex": True}]
    splits["prefix space"] = [{**byte_level, "use_regex": True, "add_prefix_space": True}]
    for name, steps in splits.items():
        if steps[-1]["type"] != "ByteLevel":
            steps = [*steps, byte_level]
        yield name, {**base, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield form, {**base, "normalizer": {"type": form}}


def check_variants(program, path, folder, options):
    base = json.loads(path.read_text("utf-8"))
    smaller = argparse.Namespace(count=max(options.count // 5, 500), seed=options.seed + 2)
    bad = 0
    for name, shape in variants(base):
        variant = pathlib.Path(folder) / "variant.json"
        variant.write_text(json.dumps(shape), "utf-8")
        bad += check_hf(f"{path.name.split('.')[0]}, {name}", program, variant, variant, smaller)
    return bad


def shared_tokenizers():
    root = pathlib.Path(os.environ.get("ASHLAR_SHARED_DATA", ROOT.parent / "shared" / "data"))
    return root / "tokenizers"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the built tokenizer_stream")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="a part of a vocabulary's name")
    options = parser.parse_args()
    assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
    sources = {p.name.split(".")[0]: p for p in sorted(shared_tokenizers().glob("*.tokenizer.*"))}
    sources.update({"smollm2": p for p in sorted((ROOT / ".deps" / "smollm2").glob("*.gguf"))[:1]})
    if not sources:
        print("skipped: no vocabularies in shared data (ASHLAR_SHARED_DATA)")
    tiny = ROOT / "tests" / "golden" / "sentencepiece_tiny.model"
    bad = 0 if options.only else check_sentencepiece("sentencepiece_tiny", options.program, tiny, options)
    with tempfile.TemporaryDirectory() as folder:
        if not options.only or options.only in "unigram":
            bad += check_unigrams(options.program, folder, options)
        for name, path in sources.items():
            if options.only and options.only not in name:
                continue
            start = time.perf_counter()
            json_path = path
            if path.suffix != ".json":
                json_path = pathlib.Path(folder) / f"{name}.json"
                subprocess.run([options.program, str(path), "--json", str(json_path)], check=True)
                bad += check_hf(f"{name} as tokenizer.json", options.program, json_path, json_path, options)
            if path.suffix == ".model":
                bad += check_sentencepiece(name, options.program, path, options)
            else:
                bad += check_hf(name, options.program, path, json_path, options)
            anew = pathlib.Path(folder) / "anew.json"
            subprocess.run([options.program, str(json_path), "--rewrite", str(anew)], check=True)
            bad += check_hf(f"{name} written anew", options.program, json_path, anew, options)
            bad += check_decode(name, options.program, path, json_path, options)
            bad += check_broken_utf8(name, options.program, path, json_path, options)
            if name == "dolma2" and options.count >= 5000:
                bad += check_variants(options.program, path, folder, options)
            print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
