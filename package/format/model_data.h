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
  /// Put in front of every text (a block of them for Block Transformers, which need one). Without
  /// it texts begin bare, as in Qwen.
  std::optional<int64_t> start_token;
  std::vector<int64_t> stop_tokens;  ///< generation ends after any of these
  std::string tokenizer_json;        ///< text of tokenizer.json; empty when the model has none
  std::string chat_template;         ///< Jinja text as the file has it; empty when it has none
  std::string name;                  ///< for people; may be empty
  std::map<std::string, TensorSource> tensors;

  bool has(const std::string& name) const { return tensors.count(name) != 0; }
  /// Makes the tensor. Throws Error(kData) when there is none of this name.
  WeightTensor tensor(const std::string& name) const;
  /// Total bytes of the weights as stored.
  int64_t weight_bytes() const;
};

/// Every tensor present with the shape the spec asks for, none left over, tokens inside the
/// vocabulary. Throws Error(kData) with `source` (a file or folder), the tensor and the reason.
void validate(const ModelData& model, const std::string& source);

/// SHA-256 over (name, encoding, shape, bytes) in name order: independent of files and sharding.
std::string weights_sha256(const ModelData& model);

/// What evaluation puts in front of a text so that its first token can be scored: the start token,
/// else EOS. Throws Error(kRequest) when the model has neither.
int32_t marker_token(const ModelData& model);

}  // namespace ashlar
