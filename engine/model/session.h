#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engine/model/engine.h"

namespace ashlar {

/// What a saved session belongs to; it is taken up with exactly the same.
struct SessionOrigin {
  std::string model;  ///< weights_sha256 of the model
  CacheOptions cache;
  PolicyOptions policy;
};

/// Writes all that `sequence` has come to into one file (docs/formats.md): safetensors with a
/// version, its origin, and a SHA-256 over the tensors. Whole or not at all.
void save_session(const Engine& engine, const Sequence& sequence, const SessionOrigin& origin,
                  const std::filesystem::path& path);

/// The sequence again: it goes on with the same bits. Throws Error(kData) for a file that is
/// damaged, of another version or not a session, Error(kRequest) for one of another model, cache or
/// policy, Error(kResource) when there is no room; always naming the file and the reason.
std::unique_ptr<Sequence> restore_session(Engine& engine, const SessionOrigin& origin,
                                          std::shared_ptr<const Policy> policy,
                                          const std::filesystem::path& path);

/// A conversation: its text, and what whoever leads it remembers of it (UTF-8).
struct SavedChat {
  std::unique_ptr<Sequence> sequence;
  std::string transcript;
};

/// save_session for a conversation, with its transcript under the same SHA-256. Neither kind of
/// file is taken for the other.
void save_chat(const Engine& engine, const Sequence& sequence, const SessionOrigin& origin,
               const std::string& transcript, const std::filesystem::path& path);
/// What save_chat wrote; throws as restore_session does.
SavedChat restore_chat(Engine& engine, const SessionOrigin& origin,
                       std::shared_ptr<const Policy> policy, const std::filesystem::path& path);

}  // namespace ashlar
