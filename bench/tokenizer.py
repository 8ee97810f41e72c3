#!/usr/bin/env python3
"""Encoding and training of vocabularies: bench_tokenizer and Hugging Face `tokenizers` in turn, on the same documents with
the same number of threads.

    pip install tokenizers==0.23.3 numpy==2.4.6
    python bench/tokenizer.py encode --input novels.jsonl.zst --tokenizer dolma2.tokenizer.json --threads 1 2
    python bench/tokenizer.py train --input novels.jsonl.zst --validate novels-val.jsonl.zst --threads 1 2

Each round runs both sides once, in alternating order; a row holds the median of the rounds. The ids of both sides are
compared before any figure is shown. A `--tokenizer` that is no tokenizer.json is turned into one for Python.
"""

import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

KEY = 0x9E3779B97F4A7C15


def read_dump(path):
    data = pathlib.Path(path).read_bytes()
    at, documents = 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        documents.append(data[at + 8 : at + 8 + size].decode("utf-8"))
        at += 8 + size
    return documents


class Hash:
    """The polynomial over all ids modulo 2^64 that bench_tokenizer computes."""

    def __init__(self):
        self.value = 0

    def add(self, ids):
        import numpy as np

        powers = np.full(len(ids), KEY, np.uint64)
        powers[:1] = 1
        with np.errstate(over="ignore"):
            powers = np.cumprod(powers, dtype=np.uint64)
            total = np.sum((np.asarray(ids, np.uint64) + np.uint64(1)) * powers[::-1], dtype=np.uint64)
        self.value = (self.value * pow(KEY, len(ids), 2**64) + int(total)) % 2**64


def encode_once(tokenizer, documents, batch):
    seconds, cpu, tokens, checksum = 0.0, 0.0, 0, Hash()
    for at in range(0, len(documents), batch):
        part = documents[at : at + batch]
        start, cpu_start = time.perf_counter(), time.process_time()
        encoded = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        seconds += time.perf_counter() - start
        cpu += time.process_time() - cpu_start
        for one in encoded:
            tokens += len(one.ids)
            checksum.add(one.ids)
    return {"seconds": seconds, "cpu": cpu, "tokens": tokens, "hash": f"{checksum.value:016x}"}


def train_once(documents, vocab_size, output):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    start, cpu_start = time.perf_counter(), time.process_time()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu_start}
    tokenizer.save(output)
    return took


def worker(options):
    """The library's side: answers each line as bench_tokenizer does."""
    import tokenizers

    assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
    documents = read_dump(options.dump)
    tokenizer = tokenizers.Tokenizer.from_file(options.tokenizer[0]) if options.tokenizer else None
    if tokenizer:
        tokenizer.encode_special_tokens = True  # plain text, as in documents
    print(json.dumps({"documents": len(documents), "bytes": sum(len(d.encode()) for d in documents)}), flush=True)
    for _ in sys.stdin:
        done = (encode_once(tokenizer, documents, options.batch) if tokenizer
                else train_once(documents, options.vocab_size, options.output))
        print(json.dumps(done), flush=True)


class Side:
    def __init__(self, command, **environment):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a side ended with status {self.process.wait()}")
        return json.loads(line)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return {**self.answer(), "load": os.getloadavg()[0]}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def library(task, arguments, threads):
    return Side([sys.executable, __file__, task, "--worker", *arguments], RAYON_NUM_THREADS=str(threads),
                TOKENIZERS_PARALLELISM="true")


def alternate(ours, theirs, rounds):
    """Both sides' answers of each round, the first of a round changing."""
    found = []
    for index in range(rounds):
        order = (("ours", ours), ("theirs", theirs))[:: 1 if index % 2 == 0 else -1]
        found.append({name: side.run() for name, side in order})
    ours.close()
    theirs.close()
    return found


def row(name, threads, about, rounds):
    took = {side: statistics.median(r[side]["seconds"] for r in rounds) for side in ("ours", "theirs")}
    ratio = statistics.median(r["theirs"]["seconds"] / r["ours"]["seconds"] for r in rounds)
    return {"name": name, "threads": threads, "megabytes": about["bytes"] / 1e6, "ours_s": took["ours"],
            "theirs_s": took["theirs"], "ours_mb_s": about["bytes"] / 1e6 / took["ours"],
            "theirs_mb_s": about["bytes"] / 1e6 / took["theirs"], "ratio": ratio, "rounds": rounds,
            "cpu_ratio": statistics.median(r["theirs"]["cpu"] / r["ours"]["cpu"] for r in rounds)}


def as_json(options, tokenizer, folder):
    """A tokenizer.json of the same vocabulary."""
    if tokenizer.endswith(".json"):
        return tokenizer
    path = str(pathlib.Path(folder) / (pathlib.Path(tokenizer).name + ".json"))
    program = str(pathlib.Path(options.binary).parent / "tests" / "tokenizer_stream")
    subprocess.run([program, tokenizer, "--json", path], check=True)
    return path


def compare_encode(options, folder):
    for tokenizer in options.tokenizer:
        for threads in options.threads:
            dump = str(pathlib.Path(folder) / "documents")
            ours = Side([options.binary, "encode", "--tokenizer", tokenizer, "--input", *options.input, "--threads",
                         str(threads), "--megabytes", str(options.megabytes), "--piece", str(options.piece), "--batch",
                         str(options.batch), "--dump", dump])
            theirs = library("encode", ["--tokenizer", as_json(options, tokenizer, folder), "--dump", dump, "--batch",
                                        str(options.batch)], threads)
            rounds = alternate(ours, theirs, options.rounds)
            answers = {(r[side]["tokens"], r[side]["hash"]) for r in rounds for side in ("ours", "theirs")}
            assert len(answers) == 1, f"{tokenizer}: the two sides give other ids: {answers}"
            yield {**row(pathlib.Path(tokenizer).name, threads, ours.about, rounds), "tokens": answers.pop()[0]}


def bytes_per_token(options, tokenizer):
    side = Side([options.binary, "encode", "--tokenizer", tokenizer, "--input", options.validate])
    tokens = side.run()["tokens"]
    side.close()
    return side.about["bytes"] / tokens


def compare_train(options, folder):
    for threads in options.threads:
        dump, mine, library_s = (str(pathlib.Path(folder) / n) for n in ("documents", "ours.json", "theirs.json"))
        size = ["--vocab-size", str(options.vocab_size)]
        ours = Side([options.binary, "train", *size, "--output", mine, "--input", *options.input, "--threads", str(threads),
                     "--megabytes", str(options.megabytes), "--piece", str(options.piece), "--dump", dump])
        theirs = library("train", [*size, "--output", library_s, "--dump", dump], threads)
        rounds = alternate(ours, theirs, options.rounds)
        vocabularies = [json.loads(pathlib.Path(p).read_text("utf-8"))["model"] for p in (mine, library_s)]
        same = all(vocabularies[0][key] == vocabularies[1][key] for key in ("vocab", "merges"))
        result = {**row(f"train {options.vocab_size}", threads, ours.about, rounds), "same_merges": same}
        if options.validate:
            result["bytes_per_token"] = [bytes_per_token(options, p) for p in (mine, library_s)]
        yield result


def table(results):
    lines = ["| what | threads | MB | ours s | tokenizers s | ours MB/s | tokenizers MB/s | ratio | CPU ratio | load |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for r in results:
        load = statistics.median(entry["ours"]["load"] for entry in r["rounds"])
        lines.append(f"| {r['name']} | {r['threads']} | {r['megabytes']:.0f} | {r['ours_s']:.2f} | {r['theirs_s']:.2f} | "
                     f"{r['ours_mb_s']:.1f} | {r['theirs_mb_s']:.1f} | {r['ratio']:.1f}× | {r['cpu_ratio']:.1f}× | "
                     f"{load:.1f} |")
        if "same_merges" in r:
            lines.append(f"\nsame vocabulary and merges: {r['same_merges']}; bytes per token, ours and theirs: "
                         f"{r.get('bytes_per_token')}\n")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("encode", "train"))
    parser.add_argument("--binary", default="build/release/bench_tokenizer")
    parser.add_argument("--input", nargs="+")
    parser.add_argument("--tokenizer", nargs="+")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--validate", help="train: documents on which bytes per token are measured")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--megabytes", type=int, default=0, help="of text, about; default: all")
    parser.add_argument("--piece", type=int, default=0, help="cut documents at line ends into pieces of so many bytes")
    parser.add_argument("--batch", type=int, default=32, help="documents encoded at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dump", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in (compare_encode if options.task == "encode" else compare_train)(options, folder):
            results.append(result)
            print(table([result]).splitlines()[2], file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2) if options.json else table(results))


if __name__ == "__main__":
    main()
