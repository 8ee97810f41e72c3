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

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  ASHLAR_CHECK(EVP_DigestFinal_ex(context_, digest, &size) == 1);
  std::string out;
  for (unsigned i = 0; i < size; ++i) out += fmt::format("{:02x}", digest[i]);
  return out;
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
