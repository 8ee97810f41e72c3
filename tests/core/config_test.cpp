#include "core/config/config.h"

#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace ashlar {
namespace {

TEST(Config, ScalarsFollowTheCoreSchemaAndKnowTheirLine) {
  const Node node =
      parse_yaml("a: 1\nb: 1.0e-5\nc: true\nd: '1'\ne: ~\nf: [1, x]\ng: 1e3\n", "r.yaml");
  EXPECT_EQ(node.find("a")->as_int(), 1);
  EXPECT_EQ(node.find("b")->as_double(), 1e-5);
  EXPECT_TRUE(node.find("c")->as_bool());
  EXPECT_EQ(node.find("d")->as_string(), "1");
  EXPECT_TRUE(node.find("e")->is_null());
  EXPECT_EQ(node.find("f")->as_list()[1].as_string(), "x");
  EXPECT_EQ(node.find("g")->as_double(), 1000.0);
  EXPECT_EQ(node.find("d")->where(), "r.yaml:4");
}

TEST(Config, MistakesNameFileAndLine) {
  const auto refuses = [](const std::string& text, const std::string& fragment) {
    test::expect_error(ErrorCode::kRequest, {fragment}, [&] { parse_yaml(text, "r.yaml"); });
  };
  refuses("a: 1\na: 2\n", "r.yaml:2: a: duplicate key");
  refuses("a: [1\n", "r.yaml:");
  refuses("a: 1\n---\nb: 2\n", "more than one document");
  refuses("? [1]\n: 2\n", "r.yaml:1: keys must be plain words");
}

TEST(Config, BaseIsMergedUnderTheFile) {
  const test::TempDir dir;
  test::write_text(dir / "base.yaml", "model: {layers: 2, heads: 4}\nlist: [1, 2]\n");
  test::write_text(dir / "run.yaml", "base: base.yaml\nmodel: {layers: 8}\nlist: [3]\n");
  const Node node = load_yaml(dir / "run.yaml");
  EXPECT_EQ(node.find("model")->find("layers")->as_int(), 8);
  EXPECT_EQ(node.find("model")->find("heads")->as_int(), 4);
  EXPECT_EQ(node.find("list")->as_list().size(), 1u);
  EXPECT_EQ(node.find("base"), nullptr);
  EXPECT_NE(node.find("model")->find("heads")->where().find("base.yaml:1"), std::string::npos);
  test::write_text(dir / "loop.yaml", "base: loop.yaml\n");
  test::expect_error(ErrorCode::kRequest, {"circle"}, [&] { load_yaml(dir / "loop.yaml"); });
  test::expect_error(ErrorCode::kRequest, {"none.yaml", "cannot open"},
                     [&] { load_yaml(dir / "none.yaml"); });
}

TEST(Config, OverridesReachIntoMapsAndAreChecked) {
  Node node = parse_yaml("a: {b: 1}\nc: 2\n", "r.yaml");
  apply_overrides(node, {"a.b=2.5", "a.d=x", "e.f=[1, 2]"});
  EXPECT_EQ(node.find("a")->find("b")->as_double(), 2.5);
  EXPECT_EQ(node.find("a")->find("d")->as_string(), "x");
  EXPECT_EQ(node.find("e")->find("f")->as_list().size(), 2u);
  test::expect_error(ErrorCode::kRequest, {"--set c"}, [&] { apply_overrides(node, {"c"}); });
  test::expect_error(ErrorCode::kRequest, {"--set c.d=1", "not inside a map"},
                     [&] { apply_overrides(node, {"c.d=1"}); });
}

TEST(Config, WrittenYamlReadsBackEqual) {
  const std::string text =
      "a: 1\nb: {c: 1.0, d: 1.0e-5, e: 1.0e+20, f: ''}\ng: ['true', '1', 'a: b', \"x\\ny\"]\n"
      "h: ~\ni: true\nj: [[1, 2], [3]]\nk: {}\nl: []\n";
  const Node node = parse_yaml(text, "a");
  const std::string once = write_yaml(node);
  const Node again = parse_yaml(once, "b");
  EXPECT_EQ(write_yaml(again), once);
  EXPECT_TRUE(again.find("b")->find("c")->is_double());
  EXPECT_TRUE(again.find("b")->find("e")->is_double());
  EXPECT_TRUE(again.find("g")->as_list()[0].is_string());
  EXPECT_EQ(again.find("g")->as_list()[3].as_string(), "x\ny");
  EXPECT_TRUE(again.find("h")->is_null());
}

}  // namespace
}  // namespace ashlar
