#!/usr/bin/env python3
"""The tokenizer.json files made of GGUF and SentencePiece vocabularies, read by Hugging Face `tokenizers`.

    pip install tokenizers==0.23.3
    python tests/python/check_tokenizers.py build/release/tests/test_tokenizer_golden

The test binary leaves the files; here the library must give the golden ids with them.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


def main():
    families = json.loads((GOLDEN / "tokenizer_families.json").read_text(encoding="utf-8"))
    pieces = json.loads((GOLDEN / "sentencepiece_golden.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.argv[1], "--gtest_filter=TokenizerFamilies.*"], check=True, capture_output=True,
                       env={**os.environ, "ASHLAR_WRITE_TOKENIZERS": folder})
        checked = 0
        for path in sorted(pathlib.Path(folder).iterdir()):
            tokenizer = Tokenizer.from_file(str(path))
            golden = {"texts": pieces["texts"], **pieces["tiny"]} if path.stem == "sentencepiece" else {
                "texts": families["texts"], **families["families"][path.stem]}
            for i, (text, ids) in enumerate(zip(golden["texts"], golden["ids"], strict=True)):
                found = tokenizer.encode(text, add_special_tokens=False).ids
                if path.stem == "sentencepiece" and any(t in text for t in ("<s>", "[INST]")):
                    continue  # written out, a control token is text to sentencepiece and a token here
                assert found == ids, (path.stem, text, found, ids)
                if "decoded" in golden:
                    assert tokenizer.decode(ids) == golden["decoded"][i], (path.stem, text)
            if "special" in golden:
                assert tokenizer.encode("Hello").ids == golden["special"], path.stem
            checked += 1
        assert checked == 9, checked
    print(f"{checked} vocabularies give the same ids")


if __name__ == "__main__":
    main()
