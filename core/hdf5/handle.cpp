#include "core/hdf5/handle.h"

#include <fmt/format.h>

namespace ashlar::h5 {

void prepare_thread() {
  // A file that a full disk kept from being closed leaves a dangling identifier behind, which the
  // library would follow when it takes itself down at exit. Our handles close what they opened.
  static const bool no_exit_handler = H5dont_atexit() >= 0;
  static_cast<void>(no_exit_handler);
  thread_local const bool prepared = [] {
    hbool_t safe = false;
    if (H5open() < 0 || H5is_library_threadsafe(&safe) < 0 || !safe) {
      fail(ErrorCode::kInternal, "libhdf5 was built without thread safety; use Debian's libhdf5");
    }
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  static_cast<void>(prepared);
}

std::string last_reason() {
  std::string reason;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned depth, const H5E_error2_t* error, void* out) -> herr_t {
        if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &reason);
  for (char& c : reason) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return reason;
}

void fail_hdf5(ErrorCode code, const std::filesystem::path& path, const std::string& object,
               const std::string& what) {
  std::string message = path.string() + ": ";
  if (!object.empty()) message += object + ": ";
  message += what;
  if (const std::string reason = last_reason(); !reason.empty()) message += " (" + reason + ")";
  throw Error(code, message);
}

hid_t native_type(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return H5T_NATIVE_UINT8;
    case DType::kI8:
      return H5T_NATIVE_INT8;
    case DType::kU16:
      return H5T_NATIVE_UINT16;
    case DType::kI16:
      return H5T_NATIVE_INT16;
    case DType::kU32:
      return H5T_NATIVE_UINT32;
    case DType::kI32:
      return H5T_NATIVE_INT32;
    case DType::kU64:
      return H5T_NATIVE_UINT64;
    case DType::kI64:
      return H5T_NATIVE_INT64;
    case DType::kF32:
      return H5T_NATIVE_FLOAT;
    case DType::kF64:
      return H5T_NATIVE_DOUBLE;
    case DType::kBool:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  fail(ErrorCode::kInternal, "HDF5 has no type for {}: store its bits", dtype_name(dtype));
}

hid_t file_type(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return H5T_STD_U8LE;
    case DType::kI8:
      return H5T_STD_I8LE;
    case DType::kU16:
      return H5T_STD_U16LE;
    case DType::kI16:
      return H5T_STD_I16LE;
    case DType::kU32:
      return H5T_STD_U32LE;
    case DType::kI32:
      return H5T_STD_I32LE;
    case DType::kU64:
      return H5T_STD_U64LE;
    case DType::kI64:
      return H5T_STD_I64LE;
    case DType::kF32:
      return H5T_IEEE_F32LE;
    case DType::kF64:
      return H5T_IEEE_F64LE;
    case DType::kBool:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  fail(ErrorCode::kInternal, "HDF5 has no type for {}: store its bits", dtype_name(dtype));
}

}  // namespace ashlar::h5
