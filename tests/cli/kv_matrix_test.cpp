// The tables of what goes with what: the program's own answers, in the docs as they are.

#include "cli/kv_matrix.h"

#include <gtest/gtest.h>

#include "engine/policy/policy.h"
#include "tests/support/files.h"

namespace ashlar::cli {
namespace {

TEST(KvMatrix, TheDocsSayWhatTheProgramSays) {
  const std::string docs = test::read_text("docs/kv-cache.md");
  const std::string begin = "<!-- kv-matrix -->\n", end = "<!-- /kv-matrix -->";
  const size_t from = docs.find(begin), to = docs.find(end);
  ASSERT_TRUE(from != std::string::npos && to != std::string::npos);
  EXPECT_EQ(docs.substr(from + begin.size(), to - from - begin.size()),
            matrix_markdown(matrix_architectures()))
      << "put what `ashlar inspect --kv-matrix` prints between the marks in docs/kv-cache.md";
}

TEST(KvMatrix, AsksForEveryPolicyAndKnowsRefusals) {
  const auto answers = ask_matrix(matrix_architectures());
  const auto find = [&](const std::string& architecture, const std::string& policy,
                        const std::string& codec) -> const MatrixAnswer& {
    for (const MatrixAnswer& a : answers) {
      if (a.architecture == architecture && a.policy == policy && a.codec == codec) return a;
    }
    ADD_FAILURE() << architecture << " " << policy << " " << codec << " was not asked";
    return answers.front();
  };
  for (const std::string& policy : policy_names()) {
    EXPECT_EQ(find("decoder", policy, "fp16").refusal, "");
    // Pages of blocks: too few of them for what arkvale keeps.
    EXPECT_EQ(find("Block, CLA", policy, "q2 + fp16 rows").refusal.empty(), policy != "arkvale");
    EXPECT_EQ(find("all windows", policy, "q4").refusal.empty(), policy == "none");
    EXPECT_NE(find("MLA", policy, "bf16 + fp16 rows").refusal.find("no more precisely"),
              std::string::npos);
  }
  EXPECT_EQ(find("CLA", "oracle", "q4:q8").refusal, "");
  for (const char* goes : {"decoder", "CLA", "some windows", "Block", "Block, CLA"}) {
    EXPECT_EQ(find(goes, "none", "zipcache").refusal, "");
    EXPECT_NE(find(goes, "h2o", "zipcache").refusal.find("never changes"), std::string::npos);
  }
  EXPECT_NE(find("MLA", "none", "zipcache").refusal.find("value in the key"), std::string::npos);
  EXPECT_NE(find("Block, all windows", "none", "zipcache").refusal.find("nothing to rank"),
            std::string::npos);
  EXPECT_NE(find("CLA", "none", "zipcache + fp16 rows").refusal.find("--kv-zip"),
            std::string::npos);
  EXPECT_EQ(answers.size(), 8 * (policy_names().size() + 1) * 18);
  const Node node = to_node(answers);
  EXPECT_EQ(node.as_list().size(), answers.size());
  EXPECT_TRUE(node.as_list().front().find("reason")->is_null());
}

// Every architecture is what its name says.
TEST(KvMatrix, ArchitecturesAreWhatTheirNamesSay) {
  for (const auto& [name, spec] : matrix_architectures()) {
    SCOPED_TRACE(name);
    const auto groups = kv_groups(spec);
    bool windows = false, latent = false, shared = false;
    for (const KvGroup& group : groups) {
      if (group.lifetime != KvLifetime::kSequence) continue;
      windows = windows || group.window > 0;
      latent = latent || group.kind == KvKind::kLatent;
      shared = shared || group.readers.size() > 1;
    }
    EXPECT_EQ(windows, name.find("windows") != std::string::npos);
    EXPECT_EQ(governed_groups(groups).empty(), name.find("all windows") != std::string::npos);
    EXPECT_EQ(latent, name == "MLA");
    EXPECT_EQ(shared, name.find("CLA") != std::string::npos);
    EXPECT_EQ(spec.block.has_value(), name.starts_with("Block"));
  }
}

}  // namespace
}  // namespace ashlar::cli
