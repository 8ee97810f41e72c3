#pragma once

#include <algorithm>
#include <filesystem>
#include <vector>

namespace ashlar::test {

/// Every *.yaml under `folder`, sorted.
inline std::vector<std::filesystem::path> yaml_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".yaml") out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

/// The whole configurations of configs/smoke, seen from the root of the repository.
inline std::vector<std::filesystem::path> smoke_files() {
  std::vector<std::filesystem::path> out;
  for (const std::filesystem::path& path : yaml_files("configs/smoke")) {
    if (path.filename() != "common.yaml") out.push_back(path);  // a base, not whole by itself
  }
  return out;
}

}  // namespace ashlar::test
