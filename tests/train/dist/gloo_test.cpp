#include "train/dist/gloo.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/base/error.h"
#include "tests/support/tolerance.h"
#include "tests/train/dist/ranks.h"

// Every collective of real processes against a plain loop over the ranks, bit for bit: the sum over
// ranks 0, 1, … in that order is part of the contract.

namespace ashlar {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF64, DType::kI64, DType::kU8};
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin};
// Odd, smaller than the number of ranks, both sides of the small path, several pieces per part.
constexpr int64_t kCounts[] = {0, 1, 3, 1021, 20011, 2 * (1 << 20) + 5};

double value_of(int64_t rank, int64_t i, DType type) {
  uint64_t mixed =
      (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(rank);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;  // splitmix64
  const auto bits = static_cast<uint32_t>(mixed >> 32);
  if (type == DType::kU8) return bits % 251;
  if (type == DType::kI64) return static_cast<double>(static_cast<int32_t>(bits));
  return static_cast<double>(static_cast<int32_t>(bits)) * 0x1p-20;
}

void store(void* data, int64_t i, DType type, double value) {
  switch (type) {
    case DType::kF32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case DType::kBF16:
      static_cast<uint16_t*>(data)[i] = float_to_bfloat(static_cast<float>(value));
      return;
    case DType::kF64:
      static_cast<double*>(data)[i] = value;
      return;
    case DType::kI64:
      static_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
      return;
    default:
      static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value);
  }
}

double load(const void* data, int64_t i, DType type) {
  switch (type) {
    case DType::kF32:
      return static_cast<const float*>(data)[i];
    case DType::kBF16:
      return bfloat_to_float(static_cast<const uint16_t*>(data)[i]);
    case DType::kF64:
      return static_cast<const double*>(data)[i];
    case DType::kI64:
      return static_cast<double>(static_cast<const int64_t*>(data)[i]);
    default:
      return static_cast<const uint8_t*>(data)[i];
  }
}

struct Buffer {
  std::vector<std::byte> bytes;
  DType type;
  int64_t count;
  Buffer(DType t, int64_t n) : bytes(static_cast<size_t>(n * dtype_bytes(t))), type(t), count(n) {}
  void* data() { return bytes.data(); }
  void fill(int64_t rank, int64_t offset = 0) {
    for (int64_t i = 0; i < count; ++i) store(data(), i, type, value_of(rank, offset + i, type));
  }
};

double combine(double a, double b, ReduceOp op, DType type) {
  if (op == ReduceOp::kMax) return std::max(a, b);
  if (op == ReduceOp::kMin) return std::min(a, b);
  const bool single = type == DType::kF32 || type == DType::kBF16;
  return single ? static_cast<float>(a) + static_cast<float>(b) : a + b;
}

// Element i of the reduction over `ranks`, rank after rank.
Buffer reduced(std::span<const int64_t> ranks, DType type, int64_t offset, int64_t count,
               ReduceOp op) {
  Buffer expected(type, count);
  Buffer one(type, 1);
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (size_t r = 0; r < ranks.size(); ++r) {
      one.fill(ranks[r], offset + i);
      const double value = load(one.data(), 0, type);
      sum = r == 0 ? value : combine(sum, value, op, type);
    }
    store(expected.data(), i, type, sum);
  }
  return expected;
}

void expect_same(Buffer& actual, Buffer& expected, const std::string& what) {
  if (actual.bytes == expected.bytes) return;
  for (int64_t i = 0; i < actual.count; ++i) {
    const double a = load(actual.data(), i, actual.type), b = load(expected.data(), i, actual.type);
    require(a == b, ErrorCode::kInternal, "{} [{}] is {}, expected {} ({})", what, i, a, b,
            test::exact().reason);
  }
}

// Checks all collectives of `comm`, whose ranks are `ranks` of the run.
void check_collectives(Communicator& comm, std::span<const int64_t> ranks, DType type,
                       int64_t count) {
  const int64_t n = comm.size(), me = comm.rank(), self = ranks[static_cast<size_t>(me)];
  const std::string where = fmt::format("{} {} of {} ranks", count, dtype_name(type), n);
  for (const ReduceOp op : kOps) {
    if (type == DType::kU8 && op == ReduceOp::kSum) continue;
    Buffer all(type, count);
    all.fill(self);
    comm.all_reduce(all.data(), count, type, op)->wait();
    Buffer expected = reduced(ranks, type, 0, count, op);
    expect_same(all, expected, "all_reduce of " + where);

    const int64_t part = count / n;
    Buffer in(type, n * part), out(type, part);
    in.fill(self);
    comm.reduce_scatter(in.data(), out.data(), part, type, op)->wait();
    Buffer mine = reduced(ranks, type, me * part, part, op);
    expect_same(out, mine, "reduce_scatter of " + where);
    char* in_place = static_cast<char*>(in.data()) + me * part * dtype_bytes(type);
    comm.reduce_scatter(in.data(), in_place, part, type, op)->wait();
    std::memcpy(out.data(), in_place, out.bytes.size());
    expect_same(out, mine, "reduce_scatter in place of " + where);
  }
  Buffer own(type, count / n), gathered(type, n * (count / n)), expected(type, n * (count / n));
  own.fill(self);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < own.count; ++i) {
      store(expected.data(), r * own.count + i, type,
            value_of(ranks[static_cast<size_t>(r)], i, type));
    }
  }
  comm.all_gather(own.data(), gathered.data(), own.count, type)->wait();
  expect_same(gathered, expected, "all_gather of " + where);
  for (int64_t root = 0; root < n; ++root) {
    Buffer data(type, count), sent(type, count);
    data.fill(self);
    sent.fill(ranks[static_cast<size_t>(root)]);
    comm.broadcast(data.data(), count, type, root)->wait();
    expect_same(data, sent, fmt::format("broadcast from {} of {}", root, where));
  }
}

class Collectives : public testing::TestWithParam<int64_t> {};

TEST_P(Collectives, EqualAPlainLoop) {
  const int64_t world = GetParam();
  test::Ranks ranks(
      world, test::joined(world, test::free_port(), test::quick_options(), [&](Cluster& cluster) {
        std::vector<int64_t> all;
        for (int64_t r = 0; r < world; ++r) all.push_back(r);
        for (const DType type : kTypes) {
          for (const int64_t count : kCounts) {
            if (count > 1 << 20 && type != DType::kF64) continue;
            check_collectives(cluster.world(), all, type, count);
          }
        }
        cluster.world().barrier();
        return std::string("done");
      }));
  for (const auto& outcome : ranks.outcomes()) {
    EXPECT_EQ(outcome.status, 0) << outcome.text;
    EXPECT_EQ(outcome.text, "done");
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Collectives, testing::Values(1, 2, 3, 4));

TEST(Gloo, SplitGroupsWorkAlone) {
  const auto body = [](Cluster& cluster) {
    const int64_t me = cluster.launch().rank;
    const std::vector<int64_t> group =
        me % 2 == 0 ? std::vector<int64_t>{0, 2} : std::vector<int64_t>{1, 3};
    const auto half = cluster.world().split(group, "parity");
    const std::vector<int64_t> pair =
        me < 2 ? std::vector<int64_t>{0, 1} : std::vector<int64_t>{2, 3};
    const auto near = cluster.world().split(pair, "near");
    const auto self = half->split(std::vector<int64_t>{half->rank()}, "alone");
    for (const DType type : kTypes) {
      check_collectives(*half, group, type, 1021);
      check_collectives(*near, pair, type, 20011);
      check_collectives(*self, std::vector<int64_t>{me}, type, 17);
    }
    return std::string("done");
  };
  test::Ranks ranks(4, test::joined(4, test::free_port(), test::quick_options(), body));
  for (const auto& outcome : ranks.outcomes()) EXPECT_EQ(outcome.text, "done");
}

// Works may be waited for in any order, and run beside the caller.
TEST(Gloo, ManyAtOnce) {
  const auto body = [](Cluster& cluster) {
    constexpr int64_t kCount = 50'000;
    std::vector<Buffer> buffers;
    std::vector<std::unique_ptr<CommWork>> works;
    for (int64_t i = 0; i < 20; ++i) {
      buffers.emplace_back(DType::kF32, kCount).fill(cluster.launch().rank, i);
    }
    for (Buffer& buffer : buffers) {
      works.push_back(
          cluster.world().all_reduce(buffer.data(), kCount, DType::kF32, ReduceOp::kSum));
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!works[0]->done() && std::chrono::steady_clock::now() < deadline) usleep(1000);
    require(works[0]->done(), ErrorCode::kInternal, "nothing happens beside the caller");
    for (size_t i = works.size(); i-- > 0;) works[i]->wait();
    for (size_t i = 0; i < buffers.size(); ++i) {
      Buffer expected = reduced(std::vector<int64_t>{0, 1, 2}, DType::kF32, static_cast<int64_t>(i),
                                kCount, ReduceOp::kSum);
      expect_same(buffers[i], expected, fmt::format("buffer {}", i));
    }
    return std::string("done");
  };
  test::Ranks ranks(3, test::joined(3, test::free_port(), test::quick_options(), body));
  for (const auto& outcome : ranks.outcomes()) EXPECT_EQ(outcome.text, "done");
}

TEST(Gloo, AWrongTypeIsRefusedAtOnce) {
  const auto body = [](Cluster& cluster) {
    char byte = 0;
    int refused = 0;
    for (const DType type : {DType::kU8, DType::kI8, DType::kF16}) {
      try {
        cluster.world().all_reduce(&byte, 1, type, ReduceOp::kSum);
      } catch (const Error& error) {
        refused += error.code() == ErrorCode::kInternal ? 1 : 0;
      }
    }
    return std::to_string(refused);
  };
  test::Ranks ranks(2, test::joined(2, test::free_port(), test::quick_options(), body));
  for (const auto& outcome : ranks.outcomes()) EXPECT_EQ(outcome.text, "3");
}

}  // namespace
}  // namespace ashlar
