// Costs of small models counted by hand: variants that the papers' tables do not have.

#include "models/spec/cost.h"

#include <gtest/gtest.h>

#include <map>

#include "core/base/checked.h"
#include "models/spec/parameters.h"
#include "models/spec/plan.h"
#include "tests/support/files.h"
#include "tests/support/specs.h"
#include "tests/support/tolerance.h"

namespace ashlar {
namespace {

constexpr double kHalf = 2;  // bytes per element

ModelSpec decoder(const std::string& attention, const std::string& more = "") {
  return test::spec_from_yaml(
      "kind: decoder\nvocab_size: 100\ncontext_length: 64\ndecoder: {d_model: 32, layers: 4, "
      "attention: {" +
      attention + "}, ffn: {d_ff: 48}" + more + "}\n");
}

ModelSpec block(const std::string& keys, const std::string& more = "") {
  return test::spec_from_yaml(
      "kind: block_transformer\nvocab_size: 100\ncontext_length: 64\nblock: {length: 4, " + keys +
      "}\n" + more +
      "global: {d_model: 32, layers: 2, attention: {heads: 4, head_dim: 8}, ffn: {d_ff: 48}}\n"
      "local: {d_model: 16, layers: 2, attention: {heads: 2, kv_heads: 1, head_dim: 8}, ffn: "
      "{d_ff: 24}}\n");
}

TEST(Cost, WindowsBoundRowsReadsAndScores) {
  const ModelSpec spec = decoder("heads: 4, kv_heads: 2, head_dim: 8",
                                 ", overrides: [{layers: [1, 3], attention: {window: 16}}]");
  const KvPlan kv = kv_plan(spec, 64, kHalf);
  const double row = 2 * 2 * 8 * 2;  // K and V, heads, head_dim, bytes
  EXPECT_EQ(kv.bytes_per_token, 4 * row);
  EXPECT_EQ(kv.bytes_at_context, 2 * (64 + 16) * row);
  EXPECT_EQ(kv.reads_per_token, 2 * (64 + 16) * row);
  EXPECT_EQ(kv.groups[1].rows, 16);
  EXPECT_EQ(decode_flops(spec, 64).attention(), 2.0 * 4 * 4 * 8 * (64 + 16));
  // Mean over 64 positions: 32.5 rows, and (1 + … + 16 + 48·16)/64 under the window.
  const double windowed = (16 * 17 / 2 + 48 * 16) / 64.0;
  EXPECT_EQ(training_flops(spec, 64).attention(), 2.0 * 4 * 4 * 8 * (32.5 + windowed));
}

TEST(Cost, LatentAttentionIsReadAsItIsCached) {
  const ModelSpec spec =
      decoder("kind: mla, heads: 4, head_dim: 8, latent_dim: 16, rope_dim: 4, value_dim: 6",
              ", kv_sharing: cla2");
  const KvPlan kv = kv_plan(spec, 64, kHalf);
  EXPECT_EQ(kv.groups.size(), 2u);
  EXPECT_EQ(kv.bytes_per_token, 2 * (16 + 4) * 2);  // the value lies in the key
  EXPECT_EQ(kv.reads_per_token, 4 * 64 * (16 + 4) * 2);
  const Flops training = training_flops(spec, 64), decode = decode_flops(spec, 64);
  // Expanded: queries of 8 + 4, values of 6. On the latent: keys of 16 + 4, values of 16.
  EXPECT_EQ(training.attention(), 4 * 2.0 * 4 * (12 + 6) * 32.5);
  EXPECT_EQ(decode.attention(), 4 * 2.0 * 4 * (20 + 16) * 64);
  // The two readers multiply with their owners' up-projections as well.
  EXPECT_EQ(decode.products() - training.products(), 2 * 2.0 * 4 * (8 + 6) * 16);
}

TEST(Cost, ContextsAndEmbeddersOfBlocks) {
  const double local_row = 2 * 8 * 2;
  // Prefix of 2: 5 rows; a block's four tokens see 2, 3, 4 and 5.
  KvPlan kv = kv_plan(block("prefix_length: 2"), 64, kHalf);
  EXPECT_EQ(kv.local_bytes, 2 * 5 * local_row);
  EXPECT_EQ(kv.local_reads_per_token, 2 * (2 + 3 + 4 + 5) / 4.0 * local_row);
  // Five positions per block see 1 + … + 5 rows; the block decoder is full at 16.
  const Flops decode = decode_flops(block("prefix_length: 2"), 64);
  EXPECT_EQ(decode.part("local").attention, 2 * 4.0 * 16 * 15 / 4);
  EXPECT_EQ(decode.part("global").attention, 2 * 4.0 * 32 * 16 / 4);
  kv = kv_plan(block("context: summation"), 64, kHalf);
  EXPECT_EQ(kv.local_bytes, 2 * 4 * local_row);
  EXPECT_EQ(kv.local_reads_per_token, 2 * (1 + 2 + 3 + 4) / 4.0 * local_row);
  const ModelSpec cross = block("context: cross_attention");
  kv = kv_plan(cross, 64, kHalf);
  EXPECT_EQ(kv.local_bytes, 2 * (4 + 4) * local_row);
  EXPECT_EQ(kv.local_reads_per_token, 2 * (2.5 + 4) * local_row);
  // Cross-attention: Q and output per token, K/V per context row; both once per token here.
  const Flops with = training_flops(cross, 64),
              without = training_flops(block("context: summation"), 64);
  EXPECT_EQ(with.part("local").products - without.part("local").products,
            2 * 2.0 * (2 * 16 * 16 + 2 * 8 * 16));
  EXPECT_EQ(with.part("local").attention - without.part("local").attention, 2 * 4.0 * 16 * 4);
  // An encoder of 2 CLS tokens runs over 6 positions per block, all of which see all.
  const ModelSpec encoder = block(
      "embedder: encoder, cls_tokens: 2",
      "encoder: {d_model: 8, layers: 1, attention: {heads: 2, head_dim: 4}, ffn: {d_ff: 16}}\n");
  const Flops f = prefill_flops(encoder, 64);
  EXPECT_EQ(f.part("encoder").products, 2.0 * (4 * 8 * 8 + 2 * 8 * 16) * 6 / 4);
  EXPECT_EQ(f.part("encoder").attention, 4.0 * 8 * 6 * 6 / 4);
  EXPECT_EQ(f.part("embedder").products, 2.0 * 32 * (2 * 8) / 4);
  const ParameterParts parts = parameter_parts(encoder);
  EXPECT_EQ(parts.token_tables, 100 * (8 + 16));
  EXPECT_EQ(parts.embedder, 32 * 16 + 32 + 6 * 8 + 2 * 8);
  EXPECT_EQ(parts.token_tables + parts.embedder + parts.in_layers() + parts.final_norms +
                parts.expansion + parts.head,
            parts.total);
}

TEST(Cost, ATiedHeadIsMultipliedAllTheSame) {
  const ModelSpec tied = test::small_decoder("none", "", true), untied = test::small_decoder();
  EXPECT_EQ(decode_flops(tied, 64).products(), decode_flops(untied, 64).products());
  EXPECT_EQ(parameter_parts(tied).head, 0);
  EXPECT_EQ(parameter_parts(untied).head, 61 * 32);
  EXPECT_EQ(prefill_flops(tied, 64).part("head").products, 0);
}

// Elements with the padding of each stage: embedding, four layers (the final norm with the last),
// head.
double padded(const ModelSpec& spec, int64_t shards) {
  std::map<std::string, int64_t> stages;
  for (const ParameterSpec& p : parameters(spec)) {
    const bool norm = p.role == ParameterRole::kFinalNorm;
    const int64_t layer = norm ? 3 : p.layer;
    stages[layer >= 0 ? std::to_string(layer) : p.name] += p.numel();
  }
  double sum = 0;
  for (const auto& [name, n] : stages) {
    sum += static_cast<double>(ceil_div(n, 4096 * shards) * 4096 * shards);
  }
  return sum;
}

TEST(Plan, MemoryAndTimeFollowTheStatedFormulas) {
  const ModelSpec spec = decoder("heads: 4, kv_heads: 2, head_dim: 8", ", kv_sharing: cla2");
  const RunShape run{10, 64, 8, 2, false};
  const double n = padded(spec, 1);
  Plan plan = make_plan(spec, run, {3, 2, "h100"});
  EXPECT_EQ(plan.memory.weights, 4 * n);
  EXPECT_EQ(plan.memory.gradients, 4 * n);
  EXPECT_EQ(plan.memory.optimizer, 8 * n);
  // The head's gradient and the logits of all 128 rows.
  EXPECT_EQ(plan.memory.compute_copies, 4 * 100 * 32 + 4 * 100 * 128);
  // Per token: 4·(4·32 stream + 64 Q and output + 144 FFN) + 2 owners' K and V + 4·32 at the end.
  EXPECT_EQ(plan.memory.activations, 4.0 * 2 * 64 * (4 * (128 + 64 + 144) + 2 * 32 + 128));
  EXPECT_EQ(plan.flops_per_token, 3 * training_flops(spec, 64).total());
  EXPECT_EQ(plan.run_flops, plan.flops_per_token * 10 * 8 * 64);
  // Four micro-batches over three ranks: the busiest has half of the step.
  EXPECT_EQ(plan.micro_batches_per_rank, 2);
  EXPECT_NEAR(10 * plan.step.compute, plan.run_flops / 2 / (67e12 * 0.4),
              test::reordered<double>(64, plan.seconds).absolute);
  EXPECT_EQ(plan.seconds, 10 * plan.step.total());
  RunShape half = run;
  half.bf16 = true;
  const Plan bf16 = make_plan(spec, half, {1, 2, "h100"});
  EXPECT_EQ(bf16.memory.activations, plan.memory.activations / 2);
  EXPECT_LT(bf16.step.compute, plan.step.compute);
  test::expect_error(ErrorCode::kRequest, {"device 'tpu' is not one of h200, h100, a100, cpu"},
                     [&] {
                       make_plan(spec, run, {1, 2, "tpu"});
                     });
}

TEST(Plan, RanksShareWhatTheStageSays) {
  const ModelSpec spec = decoder("heads: 4, kv_heads: 2, head_dim: 8", ", kv_sharing: cla2");
  const double n = padded(spec, 4), alone = padded(spec, 1);
  for (int64_t zero = 0; zero <= 3; ++zero) {
    RunShape run{10, 64, 8, 2, false, zero};
    const TrainingMemory m = training_memory(spec, run, 4);
    EXPECT_EQ(m.weights, zero == 0 ? 4 * alone : zero < 3 ? 4 * n : n) << zero;
    EXPECT_EQ(m.gradients, zero == 0 ? 4 * alone : zero < 2 ? 4 * n : n) << zero;
    EXPECT_EQ(m.optimizer, zero == 0 ? 8 * alone : 2 * n) << zero;
    // Hybrid sharding: pairs share.
    run.shard_ranks = 2;
    if (zero > 0) {
      EXPECT_EQ(training_memory(spec, run, 4).optimizer, 4 * padded(spec, 2)) << zero;
    }
    run.shard_ranks = 3;
    if (zero > 0) {
      test::expect_error(ErrorCode::kRequest, {"shard_ranks", "3", "4 ranks"},
                         [&] { training_memory(spec, run, 4); });
    }
  }
}

// A link so slow that nothing else counts: the ring's formula, and what the schedule can hide.
TEST(Plan, StepTimeFollowsTheRingsOfTheSchedule) {
  const ModelSpec spec = decoder("heads: 4, kv_heads: 2, head_dim: 8", ", kv_sharing: cla2");
  PlanOptions options;
  options.ranks = 4;
  options.ranks_per_node = 1;
  options.between = {1e-9, 1e6};
  const double n = padded(spec, 4), bytes = 4 * n;
  const auto step = [&](int64_t zero, int64_t passes) {
    const RunShape run{10, 64, 4 * passes, 1, false, zero};
    return make_plan(spec, run, options).step;
  };
  const double ring = 3.0 / 4 * bytes;  // sent by one rank in one gather or scatter
  const auto near = [&](double actual, double expected) {
    EXPECT_NEAR(actual, expected, test::reordered<double>(1e3, expected).absolute);
  };
  near(step(0, 2).bytes_sent, 2 * 3.0 / 4 * 4 * padded(spec, 1));
  near(step(1, 2).bytes_sent, 2 * ring);
  near(step(2, 2).bytes_sent, 3 * ring);
  // The head's copy stays from the forward to the backward pass.
  const double head = 3.0 / 4 * 4 * static_cast<double>(ceil_div(100 * 32, 4 * 4096) * 4 * 4096);
  near(step(3, 2).bytes_sent, 2 * (3 * ring - head));
  for (int64_t zero = 0; zero <= 3; ++zero) {
    const StepTime slow = step(zero, 1);
    EXPECT_GT(slow.exposed, 0.9 * slow.communication) << zero;
    EXPECT_LT(slow.exposed, slow.communication) << zero;
    near(slow.exposed_forward + slow.exposed_backward + slow.exposed_end, slow.exposed);
  }
  options.between = {1e-12, 1e18};
  EXPECT_LT(step(0, 1).exposed, 1e-3 * step(0, 1).compute);
  // Neighbours inside a node use its link.
  options.between = {1e-9, 1e6};
  options.inside = {1e-12, 1e18};
  options.ranks_per_node = 4;
  EXPECT_LT(step(2, 1).exposed, 1e-3 * step(2, 1).compute);
}

TEST(Plan, RecomputedLayersKeepTheirInputsAndCostTime) {
  const ModelSpec spec = decoder("heads: 4, kv_heads: 2, head_dim: 8", ", kv_sharing: cla2");
  RunShape run{10, 64, 8, 2, false};
  const Plan all = make_plan(spec, run, {1, 2, "h100"});
  run.recompute = {"*"};
  const Plan none = make_plan(spec, run, {1, 2, "h100"});
  // The worst moment is the last layer's backward pass: three inputs, two owners' K and V, and all
  // of that layer, which reads the second owner's.
  EXPECT_EQ(none.memory.activations, 4.0 * 2 * 64 * (3 * 32 + 2 * 32 + 128 + 64 + 144));
  EXPECT_LT(none.memory.activations, all.memory.activations);
  EXPECT_GT(none.step.compute, all.step.compute);
  EXPECT_LT(none.step.compute, 4.0 / 3 * all.step.compute);
}

TEST(Plan, ActivationsOfEveryVariant) {
  const auto per_token = [](const ModelSpec& spec) { return activation_bytes(spec, 1, 1); };
  const std::string gqa = "heads: 4, kv_heads: 2, head_dim: 8";
  const double plain = per_token(decoder(gqa));
  EXPECT_EQ(plain, 4 * (4 * 32 + 2 * 32 + 2 * 16 + 3 * 48) + 4 * 32);
  EXPECT_EQ(per_token(decoder(gqa + ", kv_norm: separate")) - plain, 4 * 32);
  EXPECT_EQ(per_token(decoder(gqa + ", qk_norm: true")) - plain, 4 * (32 + 16));
  EXPECT_EQ(per_token(decoder(gqa, ", residual: parallel")) - plain, -4 * 32);
  EXPECT_EQ(per_token(decoder("kind: mla, heads: 4, head_dim: 8, latent_dim: 16, rope_dim: 4, "
                              "value_dim: 6, query_latent_dim: 12",
                              ", kv_sharing: cla2")),
            // Q and output, query latent; two owners' latent, keys and values.
            4 * (128 + 48 + 24 + 2 * 12 + 144) + 2 * (2 * 16 + 4 + 48 + 24) + 128);
  // A quarter of the block decoder's layers and five quarters of the token decoder's.
  const double global = 2 * (4 * 32 + 4 * 32 + 3 * 48), local = 2 * (4 * 16 + 2 * 16 + 16 + 3 * 24);
  EXPECT_EQ(per_token(block("prefix_length: 2")), global / 4 + local * 5 / 4 + 4 * 16);
  const double cross = 2 * (2 * 16 + 2 * 16 + 2 * 8);
  EXPECT_EQ(per_token(block("context: cross_attention")), global / 4 + local + cross + 4 * 16);
}

}  // namespace
}  // namespace ashlar
