// Folders that `transformers` wrote, decoded by the engine: tests/golden/make_hf_golden.py.

#include <gtest/gtest.h>

#include "package/format/package.h"
#include "package/import/open_model.h"
#include "tests/support/engine_logits.h"
#include "tests/support/files.h"
#include "tests/support/hf_golden.h"
#include "tests/support/logit_bound.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

TEST(HfModels, TheEngineGivesTheLibrarysLogits) {
  ASSERT_EQ(test::hf_golden_folders().size(), 8u);
  for (const auto& folder : test::hf_golden_folders()) {
    SCOPED_TRACE(folder.string());
    const test::HfGolden golden = test::read_hf_golden(folder);
    const ModelData model = open_model(folder);
    const auto bound = test::logit_bound(model.spec, golden.logits);
    EXPECT_TRUE(test::within(test::engine_logits(model, golden.tokens), golden.logits, bound));
  }
}

TEST(HfModels, ThePackageMadeOfAFolderHasItsWeights) {
  for (const auto& folder : test::hf_golden_folders()) {
    SCOPED_TRACE(folder.string());
    const test::TempDir dir;
    const ModelData model = open_model(folder);
    write_package(model, dir / "package");
    const ModelData back = open_model(dir / "package");
    EXPECT_EQ(back.spec, model.spec);
    EXPECT_EQ(weights_sha256(back), weights_sha256(model));
    const test::HfGolden golden = test::read_hf_golden(folder);
    EXPECT_TRUE(test::within(test::engine_logits(back, golden.tokens),
                             test::engine_logits(model, golden.tokens), test::exact()));
  }
}

}  // namespace
}  // namespace ashlar
