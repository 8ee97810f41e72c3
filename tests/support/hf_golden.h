#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/base/error.h"
#include "core/io/safetensors.h"

namespace ashlar::test {

/// What `transformers` computed from one folder of tests/golden/hf: float64 logits of every row.
struct HfGolden {
  std::vector<int32_t> tokens;
  std::vector<double> logits;  ///< [tokens, vocab]
};

inline std::vector<std::filesystem::path> hf_golden_folders() {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden/hf")) {
    out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

inline HfGolden read_hf_golden(const std::filesystem::path& folder) {
  const SafetensorsFile file(folder / "expected.safetensors");
  HfGolden out;
  const auto read = [&](const char* name, auto& values) {
    const TensorInfo* info = file.find(name);
    require(info != nullptr, ErrorCode::kData, "{}: no '{}'", file.path().string(), name);
    const auto bytes = file.data(*info);
    values.resize(bytes.size() / sizeof(values[0]));
    std::memcpy(values.data(), bytes.data(), bytes.size());
  };
  read("tokens", out.tokens);
  read("logits", out.logits);
  return out;
}

}  // namespace ashlar::test
