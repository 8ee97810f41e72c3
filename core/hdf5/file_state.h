#pragma once

#include "core/hdf5/handle.h"
#include "core/hdf5/hdf5.h"

// Private to core/hdf5.

namespace ashlar {

struct H5File::State {
  std::filesystem::path path;
  h5::Handle file;
  int64_t file_bytes = 0;  ///< real length; only for files opened for reading
  bool writable = false;

  /// Error text that names an object: "dataset 'data'".
  [[noreturn]] void refuse(const std::string& object, const std::string& what) const {
    fail(ErrorCode::kData, "{}: {}: {}", path.string(), object, what);
  }
  /// True when every component of `name` is a hard link; throws when one leads elsewhere.
  bool resolves(const std::string& name) const;
  h5::Handle open_dataset(const std::string& name) const;
  /// Opens a dataset or a group; "" is the root.
  h5::Handle open_object(const std::string& name) const;
};

}  // namespace ashlar
