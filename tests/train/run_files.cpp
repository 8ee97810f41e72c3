#include <cstdio>
#include <string_view>

#include "core/base/error.h"
#include "core/io/sha256.h"
#include "tests/train/run_state.h"

// For checks that are no C++: run_files write FOLDER makes data and config.yaml of a tiny run that
// up to four ranks can share; run_files digest RUN prints the SHA-256 of all values of the newest
// checkpoint.

int main(int argc, char** argv) {
  using namespace ashlar;
  try {
    require(argc == 3, ErrorCode::kRequest, "usage: run_files write FOLDER | digest RUN");
    const std::filesystem::path path = argv[2];
    if (std::string_view(argv[1]) == "digest") {
      const std::vector<float> values = test::parameters_of(path);
      std::puts(sha256_hex(std::as_bytes(std::span(values))).c_str());
      return 0;
    }
    test::write_data(path);
    Node root = parse_yaml(test::train_yaml(path, path / "unused", test::kBlockModel), "fixture");
    apply_overrides(root, {"train.micro_batch=1", "checkpoint.every=2", "train.steps=24"});
    test::write_text(path / "config.yaml", write_yaml(root));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_files: %s\n", error.what());
    return 1;
  }
}
