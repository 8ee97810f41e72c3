#include "core/base/checked.h"
#include "core/hdf5/file_state.h"

namespace ashlar {

using h5::fail_hdf5;
using h5::Handle;

struct H5Writer::State {
  std::filesystem::path path;
  std::string name;
  DType dtype = DType::kU8;
  std::vector<hsize_t> shape;
  int64_t row_bytes = 0;
  int64_t rows_written = 0;
  Handle dataset;
};

namespace {

/// Contiguous, allocated at once (so that its place is known), never filled, and without time
/// stamps: the same content gives the same file.
Handle dataset_properties() {
  Handle plist(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(plist.id(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(plist.id(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(plist.id(), H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(plist.id(), false);
  return plist;
}

/// The groups above `name`, made one by one because those that the library makes carry time stamps.
void create_groups(hid_t file, const std::filesystem::path& path, const std::string& name,
                   const Handle& links) {
  const Handle plist(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(plist.id(), false);
  for (size_t slash = name.find('/'); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    const std::string prefix = name.substr(0, slash);
    if (prefix.empty() || H5Lexists(file, prefix.c_str(), H5P_DEFAULT) > 0) continue;
    const Handle group(H5Gcreate2(file, prefix.c_str(), links.id(), plist.id(), H5P_DEFAULT),
                       H5Gclose);
    if (!group.valid()) fail_hdf5(ErrorCode::kIo, path, "group '" + prefix + "'", "cannot create");
  }
}

Handle create_dataset(hid_t file, const std::filesystem::path& path, const std::string& name,
                      DType dtype, const std::vector<hsize_t>& shape) {
  h5::prepare_thread();
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_char_encoding(links.id(), H5T_CSET_UTF8);
  create_groups(file, path, name, links);
  const Handle plist = dataset_properties();
  const Handle space(shape.empty()
                         ? H5Screate(H5S_SCALAR)
                         : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                     H5Sclose);
  Handle dataset(H5Dcreate2(file, name.c_str(), h5::file_type(dtype), space.id(), links.id(),
                            plist.id(), H5P_DEFAULT),
                 H5Dclose);
  if (!dataset.valid()) {
    fail_hdf5(ErrorCode::kIo, path, "dataset '" + name + "'", "cannot create");
  }
  return dataset;
}

std::vector<hsize_t> to_dims(const std::vector<int64_t>& shape) {
  std::vector<hsize_t> dims;
  for (int64_t d : shape) dims.push_back(static_cast<hsize_t>(d));
  return dims;
}

}  // namespace

void H5File::write(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                   std::span<const std::byte> bytes) {
  const int64_t elements = checked_numel(shape, "dataset shape");
  ASHLAR_CHECK_EQ(static_cast<int64_t>(bytes.size()), elements * dtype_bytes(dtype));
  const Handle dataset =
      create_dataset(state_->file.id(), state_->path, name, dtype, to_dims(shape));
  if (bytes.empty()) return;
  if (H5Dwrite(dataset.id(), h5::native_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) <
      0) {
    fail_hdf5(ErrorCode::kIo, state_->path, "dataset '" + name + "'", "cannot write");
  }
}

H5Writer H5File::stream(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  ASHLAR_CHECK_GE(shape.size(), size_t{1});
  auto state = std::make_unique<H5Writer::State>();
  state->path = state_->path;
  state->name = name;
  state->dtype = dtype;
  state->shape = to_dims(shape);
  const std::vector<int64_t> row(shape.begin() + 1, shape.end());
  state->row_bytes = checked_mul(checked_numel(row, "dataset row"), dtype_bytes(dtype), "row");
  state->dataset = create_dataset(state_->file.id(), state_->path, name, dtype, state->shape);
  return H5Writer(std::move(state));
}

H5Writer::H5Writer(std::unique_ptr<State> state) : state_(std::move(state)) {}
H5Writer::~H5Writer() = default;
H5Writer::H5Writer(H5Writer&&) noexcept = default;
H5Writer& H5Writer::operator=(H5Writer&&) noexcept = default;

void H5Writer::append(std::span<const std::byte> bytes) {
  h5::prepare_thread();
  if (bytes.empty()) return;
  ASHLAR_CHECK_GT(state_->row_bytes, 0);
  const auto size = static_cast<int64_t>(bytes.size());
  ASHLAR_CHECK_EQ(size % state_->row_bytes, 0);
  const int64_t rows = size / state_->row_bytes;
  ASHLAR_CHECK_LE(rows, static_cast<int64_t>(state_->shape[0]) - state_->rows_written);
  std::vector<hsize_t> start(state_->shape.size(), 0), extent = state_->shape;
  start[0] = static_cast<hsize_t>(state_->rows_written);
  extent[0] = static_cast<hsize_t>(rows);
  const Handle file_space(H5Dget_space(state_->dataset.id()), H5Sclose);
  const Handle memory_space(
      H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr), H5Sclose);
  H5Sselect_hyperslab(file_space.id(), H5S_SELECT_SET, start.data(), nullptr, extent.data(),
                      nullptr);
  if (H5Dwrite(state_->dataset.id(), h5::native_type(state_->dtype), memory_space.id(),
               file_space.id(), H5P_DEFAULT, bytes.data()) < 0) {
    fail_hdf5(ErrorCode::kIo, state_->path, "dataset '" + state_->name + "'", "cannot write");
  }
  state_->rows_written += rows;
}

void H5Writer::finish() {
  h5::prepare_thread();
  ASHLAR_CHECK_EQ(state_->rows_written, static_cast<int64_t>(state_->shape[0]));
  if (state_->dataset.reset() < 0) {
    fail_hdf5(ErrorCode::kIo, state_->path, "dataset '" + state_->name + "'", "cannot close");
  }
}

}  // namespace ashlar
