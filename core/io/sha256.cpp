#include "core/io/sha256.h"

#include <openssl/evp.h>

#include "core/base/error.h"
#include "core/io/mapped_file.h"

namespace ashlar {

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  ASHLAR_CHECK(context_ != nullptr);
  ASHLAR_CHECK(EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::update(std::span<const std::byte> bytes) {
  ASHLAR_CHECK(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
}

std::array<std::byte, 32> Sha256::digest() {
  std::array<std::byte, 32> out;
  unsigned size = 0;
  auto* bytes = reinterpret_cast<unsigned char*>(out.data());
  ASHLAR_CHECK(EVP_DigestFinal_ex(context_, bytes, &size) == 1 && size == out.size());
  return out;
}

std::string Sha256::hex() {
  std::string out;
  for (const std::byte b : digest()) out += fmt::format("{:02x}", std::to_integer<int>(b));
  return out;
}

std::array<std::byte, 32> sha256(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.update(bytes);
  return sha.digest();
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.update(bytes);
  return sha.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
  return sha256_hex(MappedFile(path).bytes());
}

}  // namespace ashlar
