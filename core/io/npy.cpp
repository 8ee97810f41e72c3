#include "core/io/npy.h"

#include "core/base/checked.h"
#include "core/io/atomic_file.h"

namespace ashlar {

void write_npy(const std::filesystem::path& path, std::span<const int64_t> shape,
               std::span<const float> values) {
  ASHLAR_CHECK_EQ(checked_numel(shape, "npy"), static_cast<int64_t>(values.size()));
  std::string dims;
  for (int64_t d : shape) dims += fmt::format("{}, ", d);
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims);
  // Magic, version and length take 10 bytes; data starts at a multiple of 64, header ends in '\n'.
  const int64_t total = round_up(10 + static_cast<int64_t>(header.size()) + 1, 64);
  header.resize(static_cast<size_t>(total - 11), ' ');
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  AtomicFile file(path);
  file.write(std::string_view("\x93NUMPY\x01\x00", 8));
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
  file.write(std::as_bytes(values));
  file.commit();
}

}  // namespace ashlar
