#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/node.h"
#include "models/spec/parameters.h"
#include "models/spec/spec.h"
#include "package/format/rotation.h"
#include "package/format/tensor.h"

namespace ashlar {

/// How the cache should store K and V unless the user says otherwise; names of kernels/codec.h.
struct KvCodecNames {
  std::string key = "fp16";
  std::string value = "fp16";
  bool operator==(const KvCodecNames&) const = default;
};

/// A whole model as data: what a package holds, what an importer produces, what the engine opens.
/// Tensors are keyed by the names of `parameters(spec)`.
struct ModelData {
  ModelSpec spec;
  RotationManifest rotation;
  Node recipe;  ///< how it was quantized; null when it was not
  KvCodecNames kv_codec;
  int64_t start_token = 0;  ///< put in front of every text (a block of them for Block Transformers)
  std::vector<int64_t> stop_tokens;  ///< generation ends after any of these
  std::string tokenizer_json;        ///< text of tokenizer.json; empty when the model has none
  std::map<std::string, WeightTensor> tensors;

  const WeightTensor& tensor(const std::string& name) const;
  /// Total bytes of the weights as stored.
  int64_t weight_bytes() const;
};

/// Every tensor present with the shape the spec asks for, none left over, tokens inside the
/// vocabulary. Throws Error(kData) with `source` (a file or folder), the tensor and the reason.
void validate(const ModelData& model, const std::string& source);

/// SHA-256 over (name, encoding, shape, bytes) in name order: independent of files and sharding.
std::string weights_sha256(const ModelData& model);

}  // namespace ashlar
