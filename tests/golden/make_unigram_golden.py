"""Writes unigram_{rules,bytes}.model and unigram_golden.json: small Unigram models by `sentencepiece`, and its ids and texts.

    pip install sentencepiece==0.2.3
    python tests/golden/make_unigram_golden.py

The corpus is the repository's LICENSE; the texts are those of tokenizer_families.json, and some for the character map: its
rules are few, so that the file is small, but of all kinds (the standard maps are compared in fuzz_tokenizers.py).
"""

import io
import json
import pathlib
import tempfile

import sentencepiece

assert sentencepiece.__version__ == "0.2.3", sentencepiece.__version__

HERE = pathlib.Path(__file__).parent
RULES = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u00ad": "", "\u200b": "", "e\u0301": "é",
         "a\u030a": "å", "ﬁ": "fi", "ﬂ": "fl", "™": "TM", "½": "1/2", "…": "...", "...": "…", "–": " - ", "Ü": "UE",
         "ab": "b", "abab": "x y"}
MODELS = {
    "rules": {"vocab_size": 220, "user_defined_symbols": ["<tool>", "cab", "é"], "control_symbols": ["[INST]"]},
    "bytes": {"vocab_size": 420, "byte_fallback": True, "normalization_rule_name": "identity", "unk_surface": "?",
              "user_defined_symbols": ["<tool>", "ab"], "remove_extra_whitespaces": False},
}
MORE = ["ab abab ababab cab cabab xcab", "  \u3000 a \u00ad\u200b  b\u00a0\u00a0", "\u00ad", " \u00ad ", "<tool><tool> <tool", "E\u0301e\u0301\u0301",
        "a – b–c", "[INST] hi [/INST]", "………......", "<s></s><unk>", "§§ § ¶¶ {}{}", "\u2581 \u2581a\u2581"]


def train(lines, **settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", num_threads=1, minloglevel=2,
        character_coverage=0.995, **settings)
    return model.getvalue()


def main():
    lines = (HERE / "../../LICENSE").read_text(encoding="utf-8").splitlines() + ["caab é" * 3]
    texts = json.loads((HERE / "tokenizer_families.json").read_text())["texts"] + MORE
    out = {"sentencepiece": sentencepiece.__version__, "texts": texts, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        rules = pathlib.Path(folder) / "rules.tsv"
        rules.write_text("".join(f"{' '.join(f'{ord(c):X}' for c in a)}\t{' '.join(f'{ord(c):X}' for c in b)}\n"
                                 for a, b in RULES.items()))
        for name, settings in MODELS.items():
            if name == "rules":
                settings["normalization_rule_tsv"] = str(rules)
            model = train(lines, **settings)
            model = model.replace(str(rules).encode(), b"x" * len(str(rules)))  # nothing of this machine
            (HERE / f"unigram_{name}.model").write_bytes(model)
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            ids = [processor.encode(text) for text in texts]
            out["models"][name] = {"ids": ids, "decoded": [processor.decode(i) for i in ids], "vocab_size": processor.vocab_size()}
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    (HERE / "unigram_golden.json").write_text(text.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
