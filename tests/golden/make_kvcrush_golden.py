#!/usr/bin/env python3
"""Writes kvcrush_golden.json: what OpenVINO GenAI's own library decides, step by step.

    python -m venv VENV; VENV/bin/pip install openvino-genai==2026.4.1.0 openvino==2026.4.1
    VENV/bin/python tests/golden/make_kvcrush_golden.py          x86-64 Linux, and a C++ compiler

The wheel's library exports `KVCrushAlgorithm` and the score rule that runs before it, but no headers:
make_kvcrush_golden.cpp declares what it calls and is compiled here, outside the tree. Scores are
integers without ties, because the library's sorts are not stable: which of equal scores gets a 1 is
its accident. Equal distances are frequent all the same; std::sort keeps their order up to 16 elements
(libstdc++ then sorts by insertion), and `stable` says where the order is one that others can repeat.
Random anchors come from std::mt19937(seed), a fresh one per case; they are written down like the rest.
"""

import importlib.metadata
import json
import os
import pathlib
import random
import subprocess
import tempfile

import openvino

PINNED = {"openvino": "2026.4.1", "openvino-genai": "2026.4.1.0"}
HERE = pathlib.Path(__file__).parent
ANCHORS = ["random", "zeros", "ones", "mean", "alternate"]  # as the library numbers them
SEED = 20250322


def shuffled(rng, rows):
    scores = list(range(rows))
    rng.shuffle(scores)
    return scores


def staircase(page):
    """page + 1 pages, page p with p bits: all distances to zeros (and ones) differ, in any order."""
    rng = random.Random(SEED + page)
    counts = list(range(page + 1))
    rng.shuffle(counts)
    rows = page * (page + 1)
    high, low = shuffled(rng, rows // 2), shuffled(rng, rows - rows // 2)
    scores = []
    for count in counts:
        ones = [1] * count + [0] * (page - count)
        rng.shuffle(ones)
        scores += [rows + high.pop() if one else low.pop() for one in ones]
    return scores


def equal_sums(pages):
    """Pages of two rows, different scores, equal sums: the score rule has only ties."""
    pairs = [[score, 2 * pages - 1 - score] for score in range(pages)]
    rng = random.Random(SEED)
    rng.shuffle(pairs)
    return [score for pair in pairs for score in rng.sample(pair, 2)]


def cases():
    """(page, important pages, representatives, anchor, scores)"""
    rng = random.Random(SEED)
    for anchor in ANCHORS:
        yield 4, 3, 2, anchor, shuffled(rng, 4 * 11)
        yield 16, 4, 3, anchor, shuffled(rng, 16 * 14)
        yield 16, 3, 5, anchor, shuffled(rng, 16 * 24)  # 21 to choose from: its order of ties is its own
    for anchor in ("zeros", "ones"):
        yield 32, 0, 7, anchor, staircase(32)
        yield 32, 4, 6, anchor, staircase(32)
    yield 2, 4, 3, "alternate", equal_sums(12)
    for anchor in ("mean", "random"):
        yield 8, 4, 3, anchor, shuffled(rng, 8 * 8)  # one block more than the budget, as in decoding
        yield 3, 2, 5, anchor, shuffled(rng, 3 * 13)
        yield 32, 5, 1, anchor, shuffled(rng, 32 * 12)


def build(folder, site):
    program = folder / "golden"
    library = next((site / "openvino_genai").glob("libopenvino_genai.so.*"))
    subprocess.run(["c++", "-std=c++20", "-O1", "-Wall", str(HERE / "make_kvcrush_golden.cpp"), "-o", str(program), "-ldl"],
                   check=True)
    return [str(program), str(library)], {**os.environ, "LD_LIBRARY_PATH": str(site / "openvino" / "libs")}


def main():
    for package, version in PINNED.items():
        assert importlib.metadata.version(package) == version, (package, importlib.metadata.version(package))
    site = pathlib.Path(openvino.__file__).parent.parent
    out = []
    with tempfile.TemporaryDirectory() as folder:
        command, environment = build(pathlib.Path(folder), site)
        for index, (page, important, representatives, anchor, scores) in enumerate(cases()):
            assert len(set(scores)) == len(scores) and len(scores) % page == 0
            given = [page, important, representatives, ANCHORS.index(anchor), SEED + index, len(scores), *scores]
            done = subprocess.run(command, env=environment, input=" ".join(map(str, given)), text=True, check=True,
                                  capture_output=True)
            answer = json.loads(done.stdout)
            far = [answer["distances"][block] for block in answer["evicted"]]
            out.append({"page": page, "important": important, "representatives": representatives, "anchor": anchor,
                        "scores": scores, "stable": len(far) <= 16 or len(set(far)) == len(far), **answer})
    with open(HERE / "kvcrush_golden.json", "w", encoding="utf-8") as file:
        file.write('{"openvino_genai":"%s","cases":[\n' % PINNED["openvino-genai"])
        file.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in out))
        file.write("\n]}\n")


if __name__ == "__main__":
    main()
