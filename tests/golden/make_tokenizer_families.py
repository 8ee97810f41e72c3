"""Writes tokenizer_families.json, sentencepiece_golden.json and sentencepiece_tiny.model: ids by Hugging Face `tokenizers`
for one small vocabulary of each kind under the pre-tokenizers of the common families, and ids by `sentencepiece`.

    pip install tokenizers==0.22.1 sentencepiece==0.2.1
    python tests/golden/make_tokenizer_families.py [FOLDER_WITH_mistral-v3.tokenizer.model]

The corpus is the one of make_tokenizer_golden.py. A family's file is `shape` with `model` = the base's vocabulary and merges.
"""

import io
import json
import pathlib
import sys

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from make_tokenizer_golden import HERE, TEXTS, corpus

assert sentencepiece.__version__ == "0.2.1", sentencepiece.__version__

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?"
          r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SPECIAL = ["<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SPACE = "\u2581"


def split(regex):
    return pre_tokenizers.Split(Regex(regex), "isolated")


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def base_byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(True)
    trainer = trainers.BpeTrainer(vocab_size=600, min_frequency=0, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    data = json.loads(tokenizer.to_str())
    for token in ["Hello", "\u0120quick"]:  # no merge makes them: only ignore_merges finds them
        assert token not in data["model"]["vocab"]
        data["model"]["vocab"][token] = len(data["model"]["vocab"])
    return Tokenizer.from_str(json.dumps(data))


def base_fallback():
    """Llama's layout: <unk>, <s>, </s>, 256 bytes, then pieces with U+2581 for spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=600, min_frequency=0, show_progress=False, limit_alphabet=60,
                                  special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    out = Tokenizer(models.BPE(model["vocab"], [tuple(m) for m in model["merges"]], byte_fallback=True, unk_token="<unk>",
                               fuse_unk=True))
    out.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ["<unk>", "<s>", "</s>"]])
    return out


def shape_byte_level(base, pre, norm=None, ignore_merges=False, post=None):
    data = json.loads(base.to_str())
    data["model"]["ignore_merges"] = ignore_merges
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if norm:
        tokenizer.normalizer = norm
    if post:
        tokenizer.post_processor = post
    return tokenizer


def shape_fallback(base, norm, pre, strip=True):
    tokenizer = Tokenizer.from_str(base.to_str())
    if norm:
        tokenizer.normalizer = norm
    if pre:
        tokenizer.pre_tokenizer = pre
    chain = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(chain + ([decoders.Strip(" ", 1, 0)] if strip else []))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def shapes():
    b, f = base_byte_level(), base_fallback()
    bos = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    neox = shape_byte_level(b, byte_level(True), normalizers.NFC())
    neox.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 8)])
    default = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]
    sequence = pre_tokenizers.Sequence
    prepend = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    return {"byte_level": b, "fallback": f}, {
        "llama3": ("byte_level", shape_byte_level(b, sequence([split(LLAMA3), byte_level(False)]), None, True,
                                                  processors.Sequence([processors.ByteLevel(trim_offsets=False), bos]))),
        "qwen2": ("byte_level", shape_byte_level(b, sequence([split(QWEN2), byte_level(False)]), normalizers.NFC())),
        "smollm": ("byte_level", shape_byte_level(b, sequence([pre_tokenizers.Digits(True), byte_level(True)]))),
        "tekken": ("byte_level", shape_byte_level(b, sequence([split(TEKKEN), byte_level(False)]), None, True)),
        "gpt-2": ("byte_level", shape_byte_level(b, byte_level(True))),
        "mpt": ("byte_level", shape_byte_level(b, byte_level(True), normalizers.NFC())),
        "default": ("byte_level", shape_byte_level(b, sequence([split(r) for r in default] + [byte_level(False)]))),
        "neox": ("byte_level", neox),
        "llama2": ("fallback", shape_fallback(f, prepend, None)),
        "mistral3": ("fallback", shape_fallback(f, None, pre_tokenizers.Metaspace(SPACE, "first", split=False))),
        "metaspace_always": ("fallback", shape_fallback(f, None, pre_tokenizers.Metaspace(SPACE, "always", split=True))),
        "metaspace_never": ("fallback", shape_fallback(f, None, pre_tokenizers.Metaspace(SPACE, "never", split=True), False)),
    }


def write_families():
    bases, families = shapes()
    texts = TEXTS[:-1]
    out = {"tokenizers": tokenizers.__version__, "texts": texts, "bases": {}, "families": {}}
    for name, tokenizer in bases.items():
        model = json.loads(tokenizer.to_str())["model"]
        out["bases"][name] = {"vocab": sorted(model["vocab"], key=model["vocab"].get),
                              "merges": [" ".join(m) for m in model["merges"]]}
    for name, (base, tokenizer) in families.items():
        shape = json.loads(tokenizer.to_str())
        del shape["model"]["vocab"], shape["model"]["merges"]
        out["families"][name] = {
            "base": base, "shape": shape, "special": tokenizer.encode("Hello").ids,
            "ids": [tokenizer.encode(t, add_special_tokens=False).ids for t in texts],
            "decoded": [tokenizer.decode(tokenizer.encode(t, add_special_tokens=False).ids) for t in texts]}
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    (HERE / "tokenizer_families.json").write_text(text.replace('],"', '],\n"') + "\n")


def write_sentencepiece(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for p in corpus() for line in p.split("\n")), model_writer=model, model_type="bpe",
        vocab_size=600, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.985, user_defined_symbols=["<tool>"], control_symbols=["[INST]"], num_threads=1,
        minloglevel=2, train_extremely_large_corpus=False)
    (HERE / "sentencepiece_tiny.model").write_bytes(model.getvalue())
    out = {"sentencepiece": sentencepiece.__version__, "texts": TEXTS[:-1] + ["[INST] hi [/INST]"]}
    processors_by_name = {"tiny": sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())}
    if folder:
        processors_by_name["mistral-v3"] = sentencepiece.SentencePieceProcessor(
            model_file=str(folder / "mistral-v3.tokenizer.model"))
    for name, processor in processors_by_name.items():
        out[name] = {"ids": [processor.encode(t) for t in out["texts"]], "vocab_size": processor.vocab_size()}
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    (HERE / "sentencepiece_golden.json").write_text(text.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    write_families()
    write_sentencepiece(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)
