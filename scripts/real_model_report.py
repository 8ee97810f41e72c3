#!/usr/bin/env python3
"""The table of scripts/real-model: size, speed and perplexity before and after quantization."""

import json
import pathlib
import sys

FORMS = {"original": "Q4_1 (the file)", "w8_kv8": "W8 + KV8, rotated", "w4_kv4": "W4 + KV4, cached keys rotated"}


def speed(path, test):
    rows = json.loads(path.read_text())
    return next(row["tokens_per_second"] for row in rows if row["test"].startswith(test))


def main(folder):
    print("| weights and cache | weights | KV/token | perplexity | prompt tokens/s | tokens/s | with int8 activations |")
    print("|---|---|---|---|---|---|---|")
    for form, title in FORMS.items():
        about = json.loads((folder / f"{form}.inspect.json").read_text())
        row = next(r for r in json.loads((folder / f"{form}.eval.json").read_text()) if r["metric"] == "perplexity")
        fp32, int8 = folder / f"{form}.bench.json", folder / f"{form}.bench8.json"
        print(
            f"| {title} | {about['weight_bytes'] / 1e6:.1f} MB | {about['kv_bytes_per_token']:.0f} B "
            f"| {row['value']:.3f} ({row['low']:.2f} – {row['high']:.2f}) "
            f"| {speed(fp32, 'pp'):.0f} | {speed(fp32, 'tg'):.1f} | {speed(int8, 'pp'):.0f}, {speed(int8, 'tg'):.1f} |"
        )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
