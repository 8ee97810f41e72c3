#!/usr/bin/env python3
"""Writes tests/golden/transformers_*.safetensors: what the `transformers` library computes.

One file per tiny model (transformers_models.py): weights under our names (float32, exact), token ids, and,
computed in float64, logits, mean cross-entropy and the gradient of every parameter. The `model:` section of
the same network is in the file's metadata. Run with scripts/setup --live's Python:

    .deps/venv-torch/bin/python tests/golden/make_transformers_golden.py
"""

import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

from transformers_models import Built, cases, section_text, text

SEED = 20260101


def write(folder, name, entry, seed):
    built = Built(entry, seed)
    ids = text(seed)
    logits, loss, gradients = built.loss_and_gradients(ids[:, :-1], ids[:, 1:])
    assert logits.dtype == loss.dtype == torch.float64
    tensors = {"tokens": ids.to(torch.int32), "logits": logits, "loss": loss.reshape(1)}
    for key, value in built.weights().items():
        single = value.to(torch.float32)
        assert torch.equal(single.double(), value), f"{name}: {key} is not exact in float32"
        tensors[f"weight.{key}"] = single
    for key, value in gradients.items():
        tensors[f"gradient.{key}"] = value
    path = folder / f"transformers_{name}.safetensors"
    save_file(tensors, path, metadata={
        "model": section_text(entry), "family": entry["family"], "seed": str(seed),
        "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]})
    path.chmod(0o644)


def main():
    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for index, (name, entry) in enumerate(cases().items()):
        write(folder, name, entry, SEED + index)


if __name__ == "__main__":
    main()
