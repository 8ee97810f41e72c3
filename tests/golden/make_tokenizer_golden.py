"""Writes tokenizer_golden.json: ids and a trained vocabulary by Hugging Face `tokenizers`.

    pip install tokenizers==0.22.1
    python tests/golden/make_tokenizer_golden.py [FOLDER_WITH_TOKENIZER_JSON_FILES]

The corpus is the repository's LICENSE, paragraph by paragraph, and the texts below.
"""

import json
import pathlib
import sys

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

assert tokenizers.__version__ == "0.22.1", tokenizers.__version__

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "", " ", "  ", "\n", "\t\t", "a", " a", "Hello, world!", "Hello  world", "   leading and trailing   ",
    "I'm you're they've it'll he'd don't 's'S 'LL", "x = 3.14159; y=2**10 # comment\n\treturn x\n\n\n",
    "1234567890 12 345 6789 ½ ² ٣ Ⅷ", "line one\nline two\r\n  line three \n\n \n", "naïve café résumé",
    "cafe\u0301 a\u030a o\u0302\u0323 \u1100\u1161\u11a8", "Ünïcödé ЁЖИК ёжик ΑΒΓ αβγ", "日本語のテキスト 中文字符 한국어 텍스트",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 emoji", "مرحبا بالعالم שלום עולם", "हिन्दी भाषा ไทย", "a\u00a0b\u2003c\u3000d\u2028e\u0085f\u200bg\ufeffh",
    "tabs\tand\x0bvertical\x0cforms\x1c\x1d\x1e\x1f", "quotes “curly” ‘single’ „low“ «guillemets» — dash – en … dots",
    "https://example.org/path?query=1&other=two#frag", "CamelCaseWords snake_case_words kebab-case-words",
    "!!!???...,,,;;;:::---___***///\\\\\\", "(((nested [brackets {here}])))", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababababababababababababab", "                        x                     y", "▁underline▁ ▁▁",
    "<|endoftext|>", "before<|endoftext|>after", "<s>hi</s>  there <unk>", "<|user|>\n hello <|end|>\n<|assistant|>", "<0x41><0x0A>",
    "|||IP_ADDRESS||| and |||EMAIL_ADDRESS||| there", "<|startoftranscript|><|en|><|0.00|> Hi<|2.00|>", "ﬁ ﬂ № ™ ㎏ ｆｕｌｌ",
    "\U0001d4d0\U0001d4d1 math \U00020000 ext", "Zeile\u2029Absatz", "\u0000nul\u0001 soh\u007fdel", "ſtrange 'ſ long s",
    "The quick brown fox jumps over the lazy dog. " * 4,
]


def corpus():
    license_text = (HERE / "../../LICENSE").read_text(encoding="utf-8")
    return [p for p in license_text.split("\n\n") if p] + TEXTS


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def trained(vocab_size, special):
    tokenizer = byte_level()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=0, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def ids(tokenizer):
    return [tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS]


def main():
    out = {"tokenizers": tokenizers.__version__, "texts": TEXTS, "trained": []}
    for vocab_size, special in [(700, ["<|endoftext|>"]), (1500, ["<|endoftext|>", "<|pad|>"])]:
        tokenizer = trained(vocab_size, special)
        model = json.loads(tokenizer.to_str())["model"]
        vocab = sorted(model["vocab"], key=model["vocab"].get)
        out["trained"].append({"vocab_size": vocab_size, "special": special, "vocab": vocab,
                               "merges": [" ".join(m) for m in model["merges"]], "ids": ids(tokenizer)})
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for name in ["neox-olmo", "whisper", "dolma2", "phi3"]:
        if folder:
            tokenizer = Tokenizer.from_file(str(folder / f"{name}.tokenizer.json"))
            out[name] = {
                "ids": ids(tokenizer),
                "special": tokenizer.encode("Hello", add_special_tokens=True).ids,
            }
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    (HERE / "tokenizer_golden.json").write_text(text.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
