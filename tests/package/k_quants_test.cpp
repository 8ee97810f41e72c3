#include "package/format/k_quants.h"

#include <gtest/gtest.h>

#include "package/format/package.h"
#include "tests/support/files.h"
#include "tests/support/random_blocks.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

using test::random_blocks;

TEST(KQuants, UnpackedCodesHaveTheSameValues) {
  for (BlockKind kind : test::kBlockKinds) {
    const WeightTensor blocks = random_blocks("w", kind, 5, 512);
    const WeightTensor codes = unpacked(blocks);
    EXPECT_EQ(codes.encoding().kind, TensorEncoding::Kind::kQuantized);
    EXPECT_TRUE(test::within(to_floats(codes), to_floats(blocks), test::exact()));
    std::vector<float> row(512);
    dequantize_rows(blocks, 3, row);
    const auto all = to_floats(blocks);
    EXPECT_TRUE(test::within(row, std::span(all).subspan(3 * 512, 512), test::exact()));
  }
}

TEST(KQuants, PackagesKeepTheBlocks) {
  ModelData model = test::random_block_model(3);
  model.start_token.reset();
  model.chat_template = "{{ messages }}";
  model.name = "wide";
  const test::TempDir dir;
  write_package(model, dir / "m");
  const ModelData back = read_package(dir / "m");
  EXPECT_EQ(weights_sha256(back), weights_sha256(model));
  EXPECT_EQ(back.weight_bytes(), model.weight_bytes());
  EXPECT_FALSE(back.start_token.has_value());
  EXPECT_EQ(back.chat_template, model.chat_template);
  EXPECT_EQ(back.name, "wide");
}

TEST(TensorSource, IsMadeWhenAskedForAndChecked) {
  const WeightTensor good = make_dense("w", {2, 2}, std::vector<float>{1, 2, 3, 4});
  int made = 0;
  const TensorSource source("w", {2, 2}, TensorEncoding::dense(DType::kF32), [&] {
    ++made;
    return good;
  });
  EXPECT_EQ(source.stored_bytes(), 16);
  EXPECT_EQ(made, 0);
  EXPECT_EQ(to_floats(source.load()), to_floats(good));
  EXPECT_EQ(made, 1);
  WeightTensor cut = good;
  auto& dense = std::get<DenseTensor>(cut.value);
  dense.data = dense.data.first(12);
  const TensorSource bad("w", {2, 2}, TensorEncoding::dense(DType::kF32), [&] { return cut; });
  test::expect_error(ErrorCode::kData, {"'w'", "12 bytes", "16"}, [&] { bad.load(); });
  test::expect_error(ErrorCode::kData, {"'w'", "300", "Q4_K"}, [&] {
    TensorSource("w", {2, 300}, TensorEncoding::blocks(BlockKind::kQ4K), {}).check();
  });
}

}  // namespace
}  // namespace ashlar
