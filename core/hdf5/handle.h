#pragma once

#include <hdf5.h>

#include <filesystem>
#include <string>
#include <utility>

#include "core/base/dtype.h"
#include "core/base/error.h"

// Private to core/hdf5: identifiers with an owner, and the library's error stack as one line.

namespace ashlar::h5 {

/// An HDF5 identifier closed by the function it came with.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, H5I_INVALID_HID);
      close_ = other.close_;
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  hid_t id() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// Closes now; negative when the library refused.
  herr_t reset() {
    if (id_ < 0) return 0;
    return close_(std::exchange(id_, H5I_INVALID_HID));
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
  herr_t (*close_)(hid_t) = nullptr;
};

/// Silences the library's printing on this thread and refuses a library without locks.
void prepare_thread();

/// The innermost message of this thread's error stack, or "" when there is none.
std::string last_reason();

/// Throws "file: object: what: reason of the library".
[[noreturn]] void fail_hdf5(ErrorCode code, const std::filesystem::path& path,
                            const std::string& object, const std::string& what);

/// The in-memory type of `dtype`; throws Error(kInternal) for one HDF5 cannot hold.
hid_t native_type(DType dtype);
/// The little-endian type that files carry.
hid_t file_type(DType dtype);

}  // namespace ashlar::h5
