// The training side on folders that `transformers` wrote: tests/golden/make_hf_golden.py.

#include <gtest/gtest.h>

#include "package/import/hf_model.h"
#include "tests/support/hf_golden.h"
#include "tests/support/logit_bound.h"
#include "tests/support/tolerance.h"
#include "tests/support/train_logits.h"

namespace ashlar {
namespace {

TEST(HfModels, TheTrainingSideGivesTheLibrarysLogits) {
  ASSERT_EQ(test::hf_golden_folders().size(), 8u);
  for (const auto& folder : test::hf_golden_folders()) {
    SCOPED_TRACE(folder.string());
    const test::HfGolden golden = test::read_hf_golden(folder);
    const ModelData model = import_hf(folder);
    const auto logits = test::train_logits(model, golden.tokens);
    EXPECT_TRUE(test::within(logits, golden.logits, test::logit_bound(model.spec, golden.logits)));
  }
}

}  // namespace
}  // namespace ashlar
