#pragma once

#include "core/io/gguf.h"
#include "models/spec/spec.h"
#include "package/import/gguf_names.h"

namespace ashlar {

struct GgufModel {
  GgufArch arch = GgufArch::kLlama;
  ModelSpec spec;
};

/// The network of a GGUF file from its metadata and the presence of tensors (biases, an untied
/// head, Llama 3's RoPE divisors). Unknown architectures, keys of the architecture and RoPE types,
/// experts and pieces of a split file are refused, each by name: Error(kData) or, at a key,
/// Error(kRequest).
GgufModel read_gguf_spec(const GgufFile& file);

}  // namespace ashlar
