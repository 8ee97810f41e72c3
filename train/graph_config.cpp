#include "train/graph_config.h"

#include <fmt/format.h>

namespace ashlar {

std::string unrecordable(const TrainConfig& config) {
  if (config.distributed.reduce == Reduction::kOrdered) {
    return "distributed.reduce: ordered communicates within every pass; use fp32 or bf16";
  }
  if (config.distributed.zero >= 2) {
    return fmt::format("distributed.zero: {} communicates within every pass; use 0 or 1",
                       config.distributed.zero);
  }
  if (config.guards.replay_every > 0) {
    return "guards.replay_every reads every gradient of a pass on the host; set it to 0";
  }
  if (config.log.trace_steps > 0) {
    return "log.trace shows the stages of a pass, which a replay does not run one by one; leave it "
           "out";
  }
  if (config.model.block && config.document_mask) {
    return "train.document_mask of a Block Transformer is checked on the host in every pass; leave "
           "it out";
  }
  if (config.block_losses.decoding != BlockDecodingLoss::kNone) {
    return "train.block_losses.decoding counts blocks on the host in every pass; use none";
  }
  return {};
}

void check_cuda_graphs(const TrainConfig& config, const Node& key) {
  if (!config.cuda_graphs) return;
  const std::string why = config.device == DeviceKind::kCpu ? "needs a GPU, and train.device is cpu"
                                                            : unrecordable(config);
  if (!why.empty()) fail_at(key, "train.cuda_graphs", why);
}

}  // namespace ashlar
