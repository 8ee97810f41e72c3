#!/usr/bin/env python3
"""Collects what scripts/demo left in a folder into one table and report.html (gnuplot draws the curves)."""

import html
import json
import pathlib
import subprocess
import sys

MODELS = {"decoder": "decoder, GQA + CLA2", "block": "Block Transformer, CLA2"}


def load(path):
    return json.loads(path.read_text())


def bits_per_byte(rows):
    return next(row["value"] for row in rows if row["metric"] == "bits_per_byte")


def tokens_per_second(rows):
    return next(row["tokens_per_second"] for row in rows if row["test"].startswith("tg"))


def collect(demo):
    table = []
    for name, title in MODELS.items():
        before, after = load(demo / f"{name}-fp32.inspect.json"), load(demo / f"{name}-w4.inspect.json")
        table.append({
            "model": title,
            "parameters": before["parameters_total"],
            "bpb": bits_per_byte(load(demo / f"{name}-fp32.eval.json")),
            "bpb_w4": bits_per_byte(load(demo / f"{name}-w4.eval.json")),
            "package": before["weight_bytes"],
            "package_w4": after["weight_bytes"],
            "kv": after["kv_bytes_per_token"],
            "kv_mha": after["multi_head_kv_bytes_per_token"],
            "speed": tokens_per_second(load(demo / f"{name}-w4.bench.json")),
        })
    return table


COLUMNS = [
    ("model", lambda r: r["model"]),
    ("parameters", lambda r: f"{r['parameters']:,}"),
    ("bits/byte fp32", lambda r: f"{r['bpb']:.4f}"),
    ("bits/byte W4+KV4", lambda r: f"{r['bpb_w4']:.4f} (+{100 * (r['bpb_w4'] / r['bpb'] - 1):.2f} %)"),
    ("weights fp32", lambda r: f"{r['package']:,} B"),
    ("weights W4", lambda r: f"{r['package_w4']:,} B"),
    ("KV/token", lambda r: f"{r['kv']:.1f} B"),
    ("KV/token multi-head fp16", lambda r: f"{r['kv_mha']:.0f} B ({r['kv_mha'] / r['kv']:.0f}×)"),
    ("tokens/s", lambda r: f"{r['speed']:.0f}"),
]


def print_table(table, bigram):
    cells = [[name for name, _ in COLUMNS]] + [[show(row) for _, show in COLUMNS] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"\nKneser-Ney bigram over the same tokens: {bigram:.4f} bits/byte")


def curves(demo):
    """runs/demo/curves.svg: training loss and validation loss over steps, per model."""
    plots = []
    for name, title in MODELS.items():
        train, validation = [], []
        for line in (demo / name / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            if "loss" in row:
                train.append((row["step"], row["loss"]))
            if "validation_loss" in row:
                validation.append((row["step"], row["validation_loss"]))
        for kind, points, style in (("training", train, "lines lw 1"), ("validation", validation, "linespoints pt 7 ps 0.5")):
            if points:
                data = demo / f"curve-{name}-{kind}.dat"
                data.write_text("".join(f"{x} {y}\n" for x, y in points))
                plots.append(f"'{data}' with {style} title '{title}: {kind}'")
    script = (
        "set terminal svg size 860,420 font 'sans,13' background 'white'\n"
        f"set output '{demo / 'curves.svg'}'\n"
        "set xlabel 'step'\nset ylabel 'loss (nats per token)'\nset grid lc rgb '#dddddd'\nset key top right\n"
        "plot " + ", ".join(plots) + "\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    return (demo / "curves.svg").read_text()


def samples(demo):
    parts = []
    for name, title in MODELS.items():
        for path in sorted(demo.glob(f"{name}.sample*.json")):
            row = load(path)
            prompt = row["text"][: len(row["text"]) - len(row["completion"])]
            parts.append(
                f"<h3>{html.escape(title)}</h3><p class=note>{row['prompt_tokens']} prompt tokens, {row['tokens']} generated, "
                f"{row['kv_bytes']:,} bytes of KV cache, H2O with a budget of 64 tokens</p>"
                f"<pre><b>{html.escape(prompt)}</b>{html.escape(row['completion'])}</pre>")
    return "\n".join(parts)


def write_report(demo, table, bigram):
    svg = curves(demo)
    svg = svg[svg.index("<svg"):]
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in COLUMNS)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(show(r))}</td>" for _, show in COLUMNS) + "</tr>" for r in table)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Ashlar demo</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }}
table {{ border-collapse: collapse; font-size: 14px; }} th, td {{ border: 1px solid #ccc; padding: .4em .6em; text-align: left; }}
th {{ background: #f3f3f3; }} pre {{ background: #f7f7f7; padding: 1em; white-space: pre-wrap; }} .note {{ color: #666; font-size: 14px; }}
</style>
<h1>Ashlar demo</h1>
<p>Two small models trained on the same tokens, rotated and quantized to 4 bits (weights and KV cache), decoded by an
engine without libtorch.</p>
<div style="overflow-x:auto"><table><tr>{head}</tr>{rows}</table></div>
<p>An interpolated Kneser–Ney bigram model over the same tokens and split: <b>{bigram:.4f}</b> bits per byte.</p>
<h2>Training</h2>
{svg}
<h2>Text</h2>
{samples(demo)}
</html>
"""
    temporary = demo / "report.html.part"
    temporary.write_text(page)
    temporary.rename(demo / "report.html")


def main():
    demo = pathlib.Path(sys.argv[1])
    table = collect(demo)
    bigram = bits_per_byte(load(demo / "bigram.json"))
    print_table(table, bigram)
    write_report(demo, table, bigram)
    print(f"report: {demo / 'report.html'}")


if __name__ == "__main__":
    main()
