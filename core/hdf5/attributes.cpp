#include <cstring>

#include "core/base/checked.h"
#include "core/hdf5/file_state.h"

namespace ashlar {

using h5::fail_hdf5;
using h5::Handle;

namespace {

std::string label(const std::string& object, const std::string& name) {
  return object.empty() ? "attribute '" + name + "'"
                        : "attribute '" + name + "' of '" + object + "'";
}

}  // namespace

Handle H5File::State::open_object(const std::string& name) const {
  h5::prepare_thread();
  if (!name.empty() && !resolves(name)) refuse("'" + name + "'", "not in the file");
  Handle object(H5Oopen(file.id(), name.empty() ? "/" : name.c_str(), H5P_DEFAULT), H5Oclose);
  if (!object.valid()) fail_hdf5(ErrorCode::kData, path, "'" + name + "'", "cannot open");
  return object;
}

namespace {

/// Writes a scalar attribute; an old one of that name is replaced.
void write_scalar(const Handle& owner, const std::filesystem::path& path, const std::string& text,
                  const std::string& name, hid_t file_type, hid_t memory_type, const void* value) {
  if (H5Aexists(owner.id(), name.c_str()) > 0) H5Adelete(owner.id(), name.c_str());
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(
      H5Acreate2(owner.id(), name.c_str(), file_type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  if (!attribute.valid() || H5Awrite(attribute.id(), memory_type, value) < 0) {
    fail_hdf5(ErrorCode::kIo, path, text, "cannot write");
  }
}

/// A string type of `size` bytes (H5T_VARIABLE for a pointer), UTF-8.
Handle string_type(size_t size) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), size);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  if (size != H5T_VARIABLE) H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
  return type;
}

}  // namespace

void H5File::set_attribute(const std::string& object, const std::string& name, int64_t value) {
  write_scalar(state_->open_object(object), state_->path, label(object, name), name, H5T_STD_I64LE,
               H5T_NATIVE_INT64, &value);
}

void H5File::set_attribute(const std::string& object, const std::string& name, double value) {
  write_scalar(state_->open_object(object), state_->path, label(object, name), name, H5T_IEEE_F64LE,
               H5T_NATIVE_DOUBLE, &value);
}

void H5File::set_attribute(const std::string& object, const std::string& name,
                           const std::string& value) {
  // Variable length: h5py reads it as str, and an empty text needs no special case.
  const Handle owner = state_->open_object(object);
  const Handle type = string_type(H5T_VARIABLE);
  const char* pointer = value.c_str();
  write_scalar(owner, state_->path, label(object, name), name, type.id(), type.id(), &pointer);
}

bool H5File::has_attribute(const std::string& object, const std::string& name) const {
  return H5Aexists(state_->open_object(object).id(), name.c_str()) > 0;
}

namespace {

/// Opens an attribute that holds exactly one value.
Handle open_single(const Handle& owner, const std::filesystem::path& path, const std::string& text,
                   const std::string& name) {
  require(H5Aexists(owner.id(), name.c_str()) > 0, ErrorCode::kData, "{}: {}: missing",
          path.string(), text);
  Handle attribute(H5Aopen(owner.id(), name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) fail_hdf5(ErrorCode::kData, path, text, "cannot open");
  const Handle space(H5Aget_space(attribute.id()), H5Sclose);
  require(H5Sget_simple_extent_npoints(space.id()) == 1, ErrorCode::kData,
          "{}: {}: expected a single value", path.string(), text);
  return attribute;
}

}  // namespace

int64_t H5File::integer_attribute(const std::string& object, const std::string& name) const {
  const std::string text = label(object, name);
  const Handle owner = state_->open_object(object);
  const Handle attribute = open_single(owner, state_->path, text, name);
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_INTEGER || H5Tget_size(type.id()) > 8) {
    state_->refuse(text, "expected an integer");
  }
  // An unsigned 64-bit value is read as such: HDF5 would clamp it silently.
  if (H5Tget_sign(type.id()) == H5T_SGN_NONE) {
    uint64_t value = 0;
    if (H5Aread(attribute.id(), H5T_NATIVE_UINT64, &value) < 0) {
      fail_hdf5(ErrorCode::kData, state_->path, text, "cannot read");
    }
    return checked_cast<int64_t>(value, text.c_str());
  }
  int64_t value = 0;
  if (H5Aread(attribute.id(), H5T_NATIVE_INT64, &value) < 0) {
    fail_hdf5(ErrorCode::kData, state_->path, text, "cannot read");
  }
  return value;
}

double H5File::number_attribute(const std::string& object, const std::string& name) const {
  const std::string text = label(object, name);
  const Handle owner = state_->open_object(object);
  const Handle attribute = open_single(owner, state_->path, text, name);
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_FLOAT)
    state_->refuse(text, "expected a floating-point number");
  double value = 0;
  if (H5Aread(attribute.id(), H5T_NATIVE_DOUBLE, &value) < 0) {
    fail_hdf5(ErrorCode::kData, state_->path, text, "cannot read");
  }
  return value;
}

std::string H5File::text_attribute(const std::string& object, const std::string& name) const {
  const std::string text = label(object, name);
  const Handle owner = state_->open_object(object);
  const Handle attribute = open_single(owner, state_->path, text, name);
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  if (H5Tget_class(type.id()) != H5T_STRING) state_->refuse(text, "expected a text");
  if (H5Tis_variable_str(type.id()) > 0) {
    char* pointer = nullptr;
    const Handle memory(H5Tcopy(type.id()), H5Tclose);
    if (H5Aread(attribute.id(), memory.id(), &pointer) < 0) {
      fail_hdf5(ErrorCode::kData, state_->path, text, "cannot read");
    }
    std::string value = pointer == nullptr ? "" : pointer;
    H5free_memory(pointer);
    return value;
  }
  const size_t size = H5Tget_size(type.id());
  if (!state_->writable && size > static_cast<size_t>(state_->file_bytes)) {
    state_->refuse(text, "its text is longer than the file");
  }
  std::string value(size, '\0');
  if (H5Aread(attribute.id(), type.id(), value.data()) < 0) {
    fail_hdf5(ErrorCode::kData, state_->path, text, "cannot read");
  }
  value.resize(strnlen(value.data(), size));
  return value;
}

}  // namespace ashlar
