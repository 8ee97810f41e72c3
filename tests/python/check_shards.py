#!/usr/bin/env python3
"""Token shards read by h5py, and the same text tokenized by Hugging Face `tokenizers`.

    pip install h5py==3.16.0 tokenizers==0.23.3
    python tests/python/check_shards.py build/release/ashlar

Trains a vocabulary on the LICENSE, prepares shards from it and compares every token.
"""

import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*arguments):
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def check(binary, folder):
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    documents = [text[i : i + 700] + " — naïve 日本 😀\n" for i in range(0, len(text), 700)]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    vocabulary = folder / "tokenizer.json"
    run(binary, "tokenizer", "train", "--input", corpus, "--vocab-size", "512", "--output", vocabulary, "--json")
    result = run(binary, "data", "prepare", "--input", corpus, "--tokenizer", vocabulary,
                 "--shard-tokens", "2000", "--output", folder / "shards", "--json")

    tokenizer = Tokenizer.from_file(str(vocabulary))
    expected, starts = [], []
    for document in documents:
        starts.append(len(expected))
        ids = tokenizer.encode(document, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == document
        expected += ids + [0]

    tokens, offsets, source_bytes = [], [], 0
    files = sorted((folder / "shards").glob("*.h5"))
    assert len(files) > 1
    for path in files:
        with h5py.File(path, "r") as file:
            data = file["data"]
            assert data.dtype == np.uint16 and data.ndim == 1 and data.chunks is None, data
            # The raw elements lie where h5py says, in one piece: a mapping of the file reads them.
            raw = np.memmap(path, "<u2", "r", data.id.get_offset(), data.shape)
            assert (raw == data[:]).all()
            assert file.attrs["tokens"] == len(data) and file.attrs["eos_id"] == 0
            assert file.attrs["vocab_size"] == 512
            assert file.attrs["vocabulary_sha256"] == result["vocabulary_sha256"]
            offsets += [len(tokens) + o for o in file["document_offsets"][:]]
            source_bytes += file.attrs["source_bytes"]
            tokens += data[:].tolist()
    assert tokens == expected
    assert offsets == starts
    assert source_bytes == sum(len(d.encode()) for d in documents)
    params = json.loads((folder / "shards" / "data_params.json").read_text())
    assert params["tokens"] == len(tokens)
    statistics = params["preparation"]
    assert statistics == result["statistics"]
    assert statistics["documents"] == len(documents) and statistics["tokens"] == len(tokens)
    assert statistics["longest_tokens"] == max(b - a for a, b in zip(starts, starts[1:] + [len(tokens)])) - 1
    assert [f["file"] for f in statistics["files"]] == ["corpus.jsonl"]
    print(f"{len(files)} shards, {len(tokens)} tokens: h5py and tokenizers agree")
    check_other_shards(binary, folder, vocabulary, documents)
    check_foreign(binary, folder)


def check_other_shards(binary, folder, vocabulary, documents):
    """The same shards from compressed files in a folder; duplicates are left out."""
    inputs = folder / "in"
    inputs.mkdir()
    half = len(documents) // 2
    lines = ["".join(json.dumps({"body": d}) + "\n" for d in part)
             for part in (documents[:half], documents[half:] + documents[:3] + [""])]
    with gzip.open(inputs / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines[0])
    (inputs / "b.jsonl").write_text(lines[1], encoding="utf-8")
    result = run(binary, "data", "prepare", "--input", inputs, "--text-key", "body", "--dedup", "near",
                 "--tokenizer", vocabulary, "--shard-tokens", "2000", "--output", folder / "again", "--json")
    statistics = result["statistics"]
    assert statistics["exact_duplicates"] == 3 and statistics["empty"] == 1, statistics
    for path in sorted((folder / "shards").glob("*.h5")):
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), path


def check_foreign(binary, folder):
    """Shards as h5py writes them, and ones that hold no tokens."""
    with h5py.File(folder / "plain.h5", "w") as file:
        file["data"] = np.arange(1000, dtype=">u2")  # big-endian, no attributes
    (folder / "plain").mkdir()
    (folder / "plain.h5").rename(folder / "plain" / "data-00000.h5")
    assert run(binary, "inspect", folder / "plain", "--json")["tokens"] == 1000
    pair = np.dtype([("a", "<i4"), ("b", "<i4")])
    for values in (np.zeros(4, "f4"), np.full(4, -1, "i1"), np.zeros(4, "f2"), np.zeros(4, pair), np.zeros(4, "S3"),
                   np.zeros(4, "c8")):
        with h5py.File(folder / "plain" / "data-00000.h5", "w") as file:
            file["data"] = values
        done = subprocess.run([binary, "inspect", folder / "plain", "--json"], capture_output=True, text=True)
        assert done.returncode == 1 and "data-00000.h5" in done.stderr, (values.dtype, done)
        assert done.stderr.count("\n") == 1, done.stderr
    print("foreign element types are refused by name")


def main():
    with tempfile.TemporaryDirectory() as folder:
        check(sys.argv[1], pathlib.Path(folder))


if __name__ == "__main__":
    main()
