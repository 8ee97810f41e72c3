#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/node.h"

namespace ashlar {

// Evaluation sets as files of JSON lines. Every reader throws Error "file:line: key: reason" for a
// line that is not what it should be: kData for broken JSON, kRequest for a wrong key or value.
// Blank lines are skipped, further keys ignored.

/// The lines of `text` as nodes; `name` stands in messages and in the nodes' origins. Throws
/// Error(kRequest) when there are none.
std::vector<Node> parse_json_lines(std::string_view text, const std::string& name);

/// A text whose end is to be guessed, such as LAMBADA's last words.
struct Continuation {
  std::string context, continuation;
};
/// `{"context", "continuation"}` (llm-foundry's form of LAMBADA, Paperno et al. 2016).
std::vector<Continuation> read_continuations(const std::filesystem::path& path);

/// Two sentences of which one is grammatical.
struct MinimalPair {
  std::string good, bad;
  std::string set;         ///< the paradigm, BLiMP's UID
  std::string phenomenon;  ///< BLiMP's linguistics_term
};
/// BLiMP (Warstadt et al. 2020): a ZIP archive of `.jsonl` files (others, and what macOS adds, are
/// passed over), or one `.jsonl`, with `{"sentence_good", "sentence_bad", "UID",
/// "linguistics_term"}`. Sorted by phenomenon, then set, in file order within a set. `per_set` > 0
/// keeps the first so many of each set.
std::vector<MinimalPair> read_blimp(const std::filesystem::path& path, int64_t per_set = 0);

/// A question with answers to choose from. Each is a context and what continues it: contexts are
/// all the same in the ordinary form, continuations in the schema form.
struct Choices {
  std::vector<Continuation> options;
  int64_t gold = 0;
};
/// llm-foundry's two forms: `{"query", "choices", "gold"}` (ARC, PIQA, …), and the schema form
/// `{"context_options", "continuation", "gold"}` (WinoGrande, Winograd), in which the options
/// differ before what is scored (Trinh & Le 2018, arXiv 1806.02847). White space around texts is
/// cut off. A context becomes prefix + query + delimiter.
struct ChoiceForm {
  std::string prefix, delimiter;
};
std::vector<Choices> read_choices(const std::filesystem::path& path, const ChoiceForm& form);

/// HellaSwag (Zellers et al. 2019) in llm-foundry's form as above, or its own `{"ctx_a", "ctx_b",
/// "endings", "label", "activity_label"}`, put together and cleaned as lm-evaluation-harness does:
/// "activity_label: ctx_a Ctx_b", in which " [title]" becomes ". ", other brackets go, and double
/// spaces become single; `ctx` is taken where ctx_a is missing.
std::vector<Choices> read_hellaswag(const std::filesystem::path& path);

/// The cleaning of a HellaSwag text.
std::string clean_hellaswag(std::string_view text);
/// First character in title case, the others in lower case.
std::string capitalize(std::string_view text);

}  // namespace ashlar
