#include <algorithm>
#include <limits>

#include "core/base/checked.h"
#include "core/hdf5/file_state.h"

namespace ashlar {

using h5::fail_hdf5;
using h5::Handle;
namespace fs = std::filesystem;

namespace {

constexpr hsize_t kAlignment = 64;

std::string quoted_dataset(const std::string& name) { return "dataset '" + name + "'"; }

/// The DType of a stored type, or nullopt for one we do not read.
std::optional<DType> stored_dtype(hid_t type) {
  const size_t size = H5Tget_size(type);
  switch (H5Tget_class(type)) {
    case H5T_INTEGER: {
      const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
      if (H5Tget_precision(type) != size * 8) return std::nullopt;
      if (size == 1) return is_signed ? DType::kI8 : DType::kU8;
      if (size == 2) return is_signed ? DType::kI16 : DType::kU16;
      if (size == 4) return is_signed ? DType::kI32 : DType::kU32;
      if (size == 8) return is_signed ? DType::kI64 : DType::kU64;
      return std::nullopt;
    }
    case H5T_FLOAT:
      for (DType dtype : {DType::kF32, DType::kF64}) {
        // Either byte order; anything but the IEEE layouts is foreign.
        const Handle swapped(H5Tcopy(h5::file_type(dtype)), H5Tclose);
        H5Tset_order(swapped.id(), H5T_ORDER_BE);
        if (H5Tequal(type, h5::file_type(dtype)) > 0 || H5Tequal(type, swapped.id()) > 0) {
          return dtype;
        }
      }
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

}  // namespace

H5File::H5File(std::unique_ptr<State> state) : state_(std::move(state)) {}
H5File::~H5File() = default;
H5File::H5File(H5File&&) noexcept = default;
H5File& H5File::operator=(H5File&&) noexcept = default;
const fs::path& H5File::path() const { return state_->path; }

H5File H5File::open(const fs::path& path) {
  h5::prepare_thread();
  std::error_code error;
  require(fs::is_regular_file(path, error), ErrorCode::kRequest, "{}: {}", path.string(),
          fs::exists(path, error) ? "not a file" : "no such file");
  auto state = std::make_unique<State>();
  state->path = path;
  state->file_bytes = checked_cast<int64_t>(fs::file_size(path), "file size");
  require(H5Fis_hdf5(path.c_str()) > 0, ErrorCode::kData, "{}: not an HDF5 file", path.string());
  state->file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!state->file.valid()) fail_hdf5(ErrorCode::kData, path, "", "cannot open as HDF5");
  return H5File(std::move(state));
}

H5File H5File::create(const fs::path& path) {
  h5::prepare_thread();
  auto state = std::make_unique<State>();
  state->path = path;
  state->writable = true;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // Raw data aligned for mmap readers that use vector loads; small objects are left packed.
  H5Pset_alignment(access.id(), 1024, kAlignment);
  // The format of HDF5 1.8 carries checksums over all metadata: damage is an error of the library,
  // where older formats let it follow wild addresses.
  H5Pset_libver_bounds(access.id(), H5F_LIBVER_V18, H5F_LIBVER_V110);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.id(), false);
  state->file =
      Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose);
  if (!state->file.valid()) fail_hdf5(ErrorCode::kIo, path, "", "cannot create");
  return H5File(std::move(state));
}

void H5File::close() {
  h5::prepare_thread();
  if (!state_->file.valid()) return;
  const bool flushed = !state_->writable || H5Fflush(state_->file.id(), H5F_SCOPE_GLOBAL) >= 0;
  std::string reason = flushed ? "" : h5::last_reason();
  const bool closed = state_->file.reset() >= 0;
  require(flushed && closed, ErrorCode::kIo, "{}: cannot write and close ({})",
          state_->path.string(), flushed ? h5::last_reason() : reason);
}

std::vector<std::string> H5File::datasets() const {
  h5::prepare_thread();
  std::vector<std::string> names;
  const auto visit = [](hid_t, const char* name, const H5O_info_t* info, void* out) -> herr_t {
    if (info->type != H5O_TYPE_DATASET) return 0;
    try {
      static_cast<std::vector<std::string>*>(out)->emplace_back(name);
      return 0;
    } catch (const std::bad_alloc&) {
      return -1;  // exceptions may not cross the C library
    }
  };
  if (H5Ovisit2(state_->file.id(), H5_INDEX_NAME, H5_ITER_NATIVE, visit, &names, H5O_INFO_BASIC) <
      0) {
    fail_hdf5(ErrorCode::kData, state_->path, "", "cannot list its datasets");
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool H5File::State::resolves(const std::string& name) const {
  size_t end = 0;
  while (end < name.size()) {
    end = std::min(name.find('/', end), name.size());
    const std::string prefix = name.substr(0, end++);
    if (prefix.empty()) continue;
    if (H5Lexists(file.id(), prefix.c_str(), H5P_DEFAULT) <= 0) return false;
    H5L_info_t link;
    if (H5Lget_info(file.id(), prefix.c_str(), &link, H5P_DEFAULT) < 0) {
      fail_hdf5(ErrorCode::kData, path, "'" + prefix + "'", "cannot read its link");
    }
    if (link.type != H5L_TYPE_HARD) {
      refuse("'" + prefix + "'", "soft and external links are not followed");
    }
  }
  return H5Oexists_by_name(file.id(), name.c_str(), H5P_DEFAULT) > 0;
}

Handle H5File::State::open_dataset(const std::string& name) const {
  h5::prepare_thread();
  if (name.empty() || !resolves(name)) refuse(quoted_dataset(name), "not in the file");
  Handle dataset(H5Dopen2(file.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) fail_hdf5(ErrorCode::kData, path, quoted_dataset(name), "cannot open");
  return dataset;
}

bool H5File::has_dataset(const std::string& name) const {
  h5::prepare_thread();
  if (name.empty() || !state_->resolves(name)) return false;
  const Handle object(H5Oopen(state_->file.id(), name.c_str(), H5P_DEFAULT), H5Oclose);
  return object.valid() && H5Iget_type(object.id()) == H5I_DATASET;
}

H5Dataset H5File::dataset(const std::string& name) const {
  const Handle dataset = state_->open_dataset(name);
  const std::string object = quoted_dataset(name);
  const auto refuse = [&](const std::string& what) { state_->refuse(object, what); };

  const Handle space(H5Dget_space(dataset.id()), H5Sclose);
  const Handle type(H5Dget_type(dataset.id()), H5Tclose);
  const Handle plist(H5Dget_create_plist(dataset.id()), H5Pclose);
  if (!space.valid() || !type.valid() || !plist.valid()) {
    fail_hdf5(ErrorCode::kData, state_->path, object, "cannot read its description");
  }
  const std::optional<DType> dtype = stored_dtype(type.id());
  if (!dtype) refuse("its element type is not a plain integer or IEEE float");
  const int rank = H5Sget_simple_extent_ndims(space.id());
  if (rank < 0 || H5Sget_simple_extent_type(space.id()) == H5S_NULL) refuse("it has no shape");

  H5Dataset info;
  info.name = name;
  info.dtype = *dtype;
  std::vector<hsize_t> dims(static_cast<size_t>(rank));
  if (rank > 0) H5Sget_simple_extent_dims(space.id(), dims.data(), nullptr);
  const std::string what = state_->path.string() + ": " + object + ": shape";
  for (hsize_t d : dims) info.shape.push_back(checked_cast<int64_t>(d, what.c_str()));
  info.elements = checked_numel(info.shape, what.c_str());
  info.bytes = checked_mul(info.elements, dtype_bytes(info.dtype), what.c_str());
  if (state_->writable) return info;

  const H5D_layout_t layout = H5Pget_layout(plist.id());
  if (layout == H5D_VIRTUAL ||
      (layout == H5D_CONTIGUOUS && H5Pget_external_count(plist.id()) > 0)) {
    refuse("its data lies in other files");
  }
  // What the file really stores. Deflate cannot expand more than 1032:1, other filters less.
  constexpr int64_t kMaxExpansion = 1032;
  const hsize_t stored = H5Dget_storage_size(dataset.id());
  const int64_t limit = H5Pget_nfilters(plist.id()) > 0 ? kMaxExpansion : 1;
  if (stored > static_cast<hsize_t>(state_->file_bytes) ||
      info.bytes / limit > static_cast<int64_t>(stored)) {
    refuse(fmt::format("its shape needs {} bytes, the file of {} bytes stores {}", info.bytes,
                       state_->file_bytes, stored));
  }
  if (layout == H5D_CONTIGUOUS && info.bytes > 0) {
    const haddr_t offset = H5Dget_offset(dataset.id());
    const auto length = static_cast<haddr_t>(state_->file_bytes);
    if (offset == HADDR_UNDEF || offset > length ||
        static_cast<haddr_t>(info.bytes) > length - offset) {
      refuse("its data lies beyond the end of the file");
    }
    if (H5Tequal(type.id(), h5::file_type(info.dtype)) > 0) {
      info.offset = static_cast<int64_t>(offset);
    }
  }
  return info;
}

H5Dataset H5File::expect(const std::string& name, DType dtype) const {
  H5Dataset info = dataset(name);
  if (info.dtype != dtype) {
    state_->refuse(quoted_dataset(name),
                   fmt::format("holds {}, expected {}", dtype_name(info.dtype), dtype_name(dtype)));
  }
  return info;
}

void H5File::read_rows(const std::string& name, DType dtype, int64_t first, int64_t count,
                       std::span<std::byte> out) const {
  const H5Dataset info = expect(name, dtype);
  const int64_t rows = info.shape.empty() ? 1 : info.shape[0];
  if (first < 0 || count < 0 || first > rows || count > rows - first) {
    state_->refuse(quoted_dataset(name),
                   fmt::format("rows {} to {} of {} were asked for", first, first + count, rows));
  }
  const int64_t row_bytes = rows == 0 ? 0 : info.bytes / rows;
  ASHLAR_CHECK_EQ(static_cast<int64_t>(out.size()), row_bytes * count);
  if (out.empty()) return;

  const Handle dataset = state_->open_dataset(name);
  const Handle file_space(H5Dget_space(dataset.id()), H5Sclose);
  Handle memory_space(H5Screate(H5S_SCALAR), H5Sclose);
  if (!info.shape.empty()) {
    std::vector<hsize_t> start(info.shape.size(), 0);
    std::vector<hsize_t> extent(info.shape.begin(), info.shape.end());
    start[0] = static_cast<hsize_t>(first);
    extent[0] = static_cast<hsize_t>(count);
    H5Sselect_hyperslab(file_space.id(), H5S_SELECT_SET, start.data(), nullptr, extent.data(),
                        nullptr);
    memory_space =
        Handle(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
  }
  if (H5Dread(dataset.id(), h5::native_type(dtype), memory_space.id(), file_space.id(), H5P_DEFAULT,
              out.data()) < 0) {
    fail_hdf5(ErrorCode::kData, state_->path, quoted_dataset(name), "cannot read");
  }
}

}  // namespace ashlar
