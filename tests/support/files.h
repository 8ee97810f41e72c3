#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/base/error.h"

namespace ashlar::test {

/// A fresh folder, removed with everything in it at the end of the scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

void write_text(const std::filesystem::path& path, const std::string& text);
std::string read_text(const std::filesystem::path& path);

/// Path of a fixture in the shared data folder (ASHLAR_DATA, default ../shared/data beside the
/// checkout), or empty when absent: the test then calls GTEST_SKIP with the name.
std::filesystem::path shared_data(const std::string& name);

/// Runs `body`, expects an ashlar::Error of `code` whose one-line message contains every fragment.
void expect_error(ErrorCode code, const std::vector<std::string>& fragments,
                  const std::function<void()>& body);

}  // namespace ashlar::test
