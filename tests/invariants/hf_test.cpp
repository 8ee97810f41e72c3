// The training side on folders that `transformers` wrote: tests/golden/make_hf_golden.py.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "models/model.h"
#include "package/import/hf_model.h"
#include "tests/support/hf_golden.h"
#include "tests/support/logit_bound.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

TEST(HfModels, TheTrainingSideGivesTheLibrarysLogits) {
  const c10::AutoGradMode no_grad(false);
  ASSERT_EQ(test::hf_golden_folders().size(), 8u);
  for (const auto& folder : test::hf_golden_folders()) {
    SCOPED_TRACE(folder.string());
    const test::HfGolden golden = test::read_hf_golden(folder);
    const ModelData model = import_hf(folder);
    const Model network(model.spec);
    ParameterSet set;
    for (const ParameterSpec& p : parameters(model.spec)) {
      const auto values = to_floats(model.tensor(p.name));
      at::Tensor t = at::empty(p.shape, at::kFloat);
      std::copy(values.begin(), values.end(), t.data_ptr<float>());
      set.specs.push_back(p);
      set.tensors.push_back(t);
    }
    at::Tensor ids = at::empty({1, static_cast<int64_t>(golden.tokens.size())}, at::kLong);
    std::copy(golden.tokens.begin(), golden.tokens.end(), ids.data_ptr<int64_t>());
    const at::Tensor out = network.forward(set, ids, {}).contiguous();
    const std::vector<float> logits(out.data_ptr<float>(), out.data_ptr<float>() + out.numel());
    EXPECT_TRUE(test::within(logits, golden.logits, test::logit_bound(model.spec, golden.logits)));
  }
}

}  // namespace
}  // namespace ashlar
