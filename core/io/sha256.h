#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace ashlar {

/// Incremental SHA-256 (OpenSSL).
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> bytes);
  /// The 32 bytes, or 64 lower-case hex digits of them; ends the computation.
  std::array<std::byte, 32> digest();
  std::string hex();

 private:
  evp_md_ctx_st* context_;
};

std::array<std::byte, 32> sha256(std::span<const std::byte> bytes);
std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_file(const std::filesystem::path& path);

}  // namespace ashlar
