#pragma once

#include <memory>

#include "train/config.h"
#include "train/data.h"

namespace ashlar {

/// Conversations as samples of training (shuffled), or of validation, in the order of the file and
/// each alone. Warns about those that were cut or left out. Throws Error(kRequest) for a model that
/// has no chat template or whose vocabulary lacks its tokens, and for packing where attention would
/// cross from one conversation to the next; Error(kData) "file:line: …" for what read_chats
/// refuses.
std::unique_ptr<TrainingData> open_chat_data(const ChatDataConfig& chat, const TrainConfig& config,
                                             uint64_t seed, bool training);

}  // namespace ashlar
