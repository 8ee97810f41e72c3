#include <cstring>

#include "core/base/error.h"
#include "core/comm/communicator.h"

namespace ashlar {
namespace {

struct Finished : CommWork {
  bool done() override { return true; }
  void wait() override {}
};

class SingleCommunicator : public Communicator {
 public:
  explicit SingleCommunicator(CopyBytes copy) : copy_(std::move(copy)) {}
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  std::unique_ptr<CommWork> all_reduce(void*, int64_t, DType, ReduceOp) override {
    return std::make_unique<Finished>();
  }
  std::unique_ptr<CommWork> reduce_scatter(const void* in, void* out, int64_t count, DType type,
                                           ReduceOp) override {
    return copy(in, out, count, type);
  }
  std::unique_ptr<CommWork> all_gather(const void* in, void* out, int64_t count,
                                       DType type) override {
    return copy(in, out, count, type);
  }
  std::unique_ptr<CommWork> broadcast(void*, int64_t, DType, int64_t root) override {
    ASHLAR_CHECK_EQ(root, 0);
    return std::make_unique<Finished>();
  }
  void barrier() override {}
  std::unique_ptr<Communicator> split(std::span<const int64_t> ranks, const std::string&) override {
    ASHLAR_CHECK(ranks.size() == 1 && ranks[0] == 0);
    return make_single_communicator(copy_);
  }

 private:
  std::unique_ptr<CommWork> copy(const void* in, void* out, int64_t count, DType type) const {
    const auto bytes = static_cast<size_t>(count * dtype_bytes(type));
    if (in != out && copy_) {
      copy_(out, in, bytes);
    } else if (in != out) {
      std::memcpy(out, in, bytes);
    }
    return std::make_unique<Finished>();
  }

  CopyBytes copy_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator(CopyBytes copy) {
  return std::make_unique<SingleCommunicator>(std::move(copy));
}

}  // namespace ashlar
