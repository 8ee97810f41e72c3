#include "train/distributed_config.h"

#include "core/base/error.h"

namespace ashlar {

DistributedConfig read_distributed(const Node& node) {
  NodeReader reader(node, "distributed");
  DistributedConfig config;
  config.zero = reader.integer_or("zero", 0, 0, 3);
  config.shard_ranks = reader.integer_or("shard_ranks", 0, 0, int64_t{1} << 20);
  config.reduce =
      static_cast<Reduction>(reader.choice_or("reduce", 0, {"fp32", "bf16", "ordered"}));
  config.timeout_seconds = reader.number_or("timeout", config.timeout_seconds, 1.0, 86400.0);
  reader.finish();
  if (config.zero == 0 && config.shard_ranks > 0) {
    fail_at(node, "distributed.shard_ranks", "zero: 0 shares nothing; use zero: 1, 2 or 3");
  }
  return config;
}

Node to_node(const DistributedConfig& config) {
  static const char* const kReductions[] = {"fp32", "bf16", "ordered"};
  return Node::Map{{"zero", config.zero},
                   {"shard_ranks", config.shard_ranks},
                   {"reduce", kReductions[static_cast<size_t>(config.reduce)]},
                   {"timeout", config.timeout_seconds}};
}

void check_distributed(const DistributedConfig& config, int64_t world, int64_t micro_batches) {
  require(world <= micro_batches, ErrorCode::kRequest,
          "{} ranks, but a step has only {} micro-batches: lower train.micro_batch, raise "
          "train.batch_size or start fewer ranks",
          world, micro_batches);
  const int64_t shards = config.shard_ranks;
  require(shards == 0 || (shards <= world && world % shards == 0), ErrorCode::kRequest,
          "distributed.shard_ranks: {} does not divide the {} ranks of this run", shards, world);
}

}  // namespace ashlar
