#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/files.h"
#include "tests/train/run_fixture.h"
#include "train/checkpoint/checkpoint.h"

namespace ashlar::test {

/// A folder with data, and configurations of runs in it.
struct Fixture {
  TempDir dir;
  explicit Fixture() { write_data(dir.path()); }
  std::string yaml(const std::string& run, const std::string& model = kDecoderModel,
                   const std::string& precision = "fp32") const {
    return train_yaml(dir.path(), dir / run, model, precision);
  }
};

/// Every value of a checkpoint.
inline std::vector<float> parameters_of(const std::filesystem::path& checkpoint) {
  const CheckpointReader reader(checkpoint);
  std::vector<float> all;
  for (const std::string& name : reader.names()) {
    int64_t n = 1;
    for (int64_t d : reader.shape(name)) n *= d;
    std::vector<float> values(static_cast<size_t>(n));
    reader.read(name, values);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

}  // namespace ashlar::test
