// Attention of one layer around its kind: online rotation, output projection, and the token
// decoder's cross-attention.

#include "core/base/error.h"
#include "engine/model/attention_step.h"
#include "kernels/elementwise.h"

namespace ashlar {
namespace {

void add_projection(const LayerStep& step, const Linear& linear, const float* x, float* x_RD) {
  float* delta_RD = fit(step.work.out, step.rows * step.d_model);
  apply_linear(linear, x, step.rows, delta_RD, step.work, step.pool);
  add_inplace(x_RD, delta_RD, step.rows * step.d_model);
}

}  // namespace

AttentionOf attention_of(AttentionKind kind) {
  switch (kind) {
    case AttentionKind::kGrouped:
      return grouped_attention;
    case AttentionKind::kLatent:
      return latent_attention;
  }
  fail(ErrorCode::kInternal, "attention kind {} is not in the engine", static_cast<int>(kind));
}

void self_attention(const LayerStep& step, const float* source_RD, const float* input_RD,
                    float* x_RD) {
  const AttentionSpec& a = step.a();
  float* out = attention_of(a.kind)(step, source_RD, input_RD);
  const int64_t width = a.heads * a.value_dim();
  if (step.observer != nullptr) {
    const auto values = static_cast<size_t>(step.rows * width);
    step.observer->attended(step.group, step.group.readers[static_cast<size_t>(step.reader)],
                            {out, values}, step.rows);
  }
  const HadamardPlan& plan = step.weights.heads_plan;
  if (plan.n != 0) {
    step.pool.parallel_for(step.rows, [&](int64_t r, int thread) {
      hadamard_apply_strided(plan, out + r * width, a.value_dim(),
                             step.work.rotate.data() + thread * width);
    });
  }
  add_projection(step, step.weights.attention_out, out, x_RD);
}

void cross_attention(const LayerStep& step, const float* input_RD, float* x_RD) {
  const AttentionSpec& a = step.a();
  const int64_t width = a.heads * a.head_dim;
  float* query_RHE = fit(step.work.query, step.rows * width);
  apply_linear(step.weights.cross_query, input_RD, step.rows, query_RHE, step.work, step.pool);
  float* out_RHE = fit(step.work.attention, step.rows * width);
  attend(step,
         {*step.cross, a.heads, query_RHE, out_RHE, attention_scale(a.head_dim), nullptr, true});
  add_projection(step, step.weights.cross_out, out_RHE, x_RD);
}

void append_contexts(const StackModel& stack, std::span<KvStore* const> stores,
                     const float* context, int64_t rows, Workspace& work, ThreadPool& pool) {
  const int64_t all = static_cast<int64_t>(stores.size()) * rows;
  if (all == 0) return;
  for (size_t l = 0; l < stack.spec.layers.size(); ++l) {
    const LayerWeights& w = stack.weights.layers[l];
    const KvGroup& group = stack.groups[static_cast<size_t>(stack.cross_group[l])];
    const int64_t width = group.heads * group.key_dim;
    float* key = fit(work.key, all * width);
    float* value = fit(work.value, all * width);
    apply_linear(w.cross_key, context, all, key, work, pool);
    apply_linear(w.cross_value, context, all, value, work, pool);
    for (size_t i = 0; i < stores.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * rows * width;
      stores[i]->append(group.id, key + begin, value + begin, rows);
    }
  }
}

}  // namespace ashlar
