#include "train/dist/parameter_unit.h"

#include <ATen/ATen.h>

#include "core/base/error.h"

namespace ashlar {
namespace {

using at::Tensor;

DType dtype_of(at::ScalarType type) {
  ASHLAR_CHECK(type == at::kFloat || type == at::kBFloat16);
  return type == at::kFloat ? DType::kF32 : DType::kBF16;
}

// The memory behind a tensor comes and goes while views of it, and the graph's references, stay.
// Nothing here counts as a change of values to autograd: the same values come back.
void free_memory(const Tensor& t) {
  c10::StorageImpl* storage = t.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(at::DataPtr(nullptr, t.device()));
  storage->set_nbytes(0);
}

void allocate_memory(const Tensor& t) {
  c10::StorageImpl* storage = t.storage().unsafeGetStorageImpl();
  const auto bytes = static_cast<size_t>(t.numel()) * t.element_size();
  if (storage->nbytes() == bytes) return;
  storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
}

}  // namespace

ParameterUnit::ParameterUnit(UnitLayout layout, const std::vector<std::vector<int64_t>>& shapes,
                             at::ScalarType type, int zero, const ShardGroups& groups,
                             WaitTally& waits, at::Device device)
    : layout_(std::move(layout)),
      range_(layout_.slice(groups.shard->rank(), groups.shard->size())),
      transient_(zero >= 3),
      groups_(groups),
      waits_(waits) {
  ASHLAR_CHECK_EQ(shapes.size(), layout_.parts.size());
  const auto options = at::TensorOptions().device(device);
  whole_ = at::zeros({layout_.size}, options.dtype(type));
  // Stage 3 keeps nothing but the slice; otherwise the slice can be part of the whole.
  master_ = transient_ || type != at::kFloat ? at::zeros({range_.size()}, options.dtype(at::kFloat))
                                             : whole_.narrow(0, range_.begin, range_.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    const UnitLayout::Part& part = layout_.parts[i];
    views_.push_back(whole_.narrow(0, part.offset, part.numel).view(shapes[i]));
  }
  if (transient_) free_memory(whole_);
}

void ParameterUnit::changed() {
  ASHLAR_CHECK(work_ == nullptr);
  current_ = groups_.shard->size() == 1 && whole_.is_alias_of(master_);
}

void ParameterUnit::begin_gather() {
  if (current_ || work_ != nullptr) return;
  allocate_memory(whole_);
  send_ = master_.to(whole_.scalar_type(), false, true);
  work_ = groups_.shard->all_gather(send_.data_ptr(), whole_.data_ptr(), range_.size(),
                                    dtype_of(whole_.scalar_type()));
  waits_.begun(work_.get());
}

void ParameterUnit::acquire() {
  begin_gather();
  if (work_ == nullptr) return;
  waits_.wait(*work_);
  work_.reset();
  send_ = Tensor();
  current_ = true;
}

void ParameterUnit::release() {
  if (!transient_) return;
  acquire();  // nothing may still be on its way into the memory
  free_memory(whole_);
  current_ = false;
}

}  // namespace ashlar
