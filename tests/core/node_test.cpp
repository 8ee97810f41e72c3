#include "core/base/node.h"

#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace ashlar {
namespace {

Node located(Node node, int line) {
  node.set_origin({std::make_shared<const std::string>("run.yaml"), line});
  return node;
}

Node sample() {
  Node map = located(Node::map(), 1);
  map.set("layers", located(4, 2));
  map.set("kind", located("gqa", 3));
  map.set("rate", located(0.5, 4));
  return map;
}

TEST(Node, TypedAccessNamesFileLineAndKinds) {
  const Node node = sample();
  EXPECT_EQ(node.find("layers")->as_int(), 4);
  EXPECT_EQ(node.find("layers")->as_double(), 4.0);
  EXPECT_EQ(node.find("absent"), nullptr);
  test::expect_error(ErrorCode::kRequest, {"run.yaml:3", "expected an integer", "a string"},
                     [&] { node.find("kind")->as_int(); });
}

TEST(NodeReader, ReadsAndBoundsValues) {
  const Node node = sample();
  NodeReader reader(node, "model");
  EXPECT_EQ(reader.integer("layers", 1, 10), 4);
  EXPECT_EQ(reader.integer_or("heads", 8, 1, 10), 8);
  EXPECT_EQ(reader.choice("kind", {"mha", "gqa"}), 1u);
  EXPECT_EQ(reader.number("rate", 0, 1), 0.5);
  reader.finish();
}

TEST(NodeReader, EveryMistakeNamesLineAndKey) {
  const Node node = sample();
  NodeReader reader(node, "model");
  test::expect_error(ErrorCode::kRequest, {"run.yaml:2: model.layers: 4 is not between 5 and 9"},
                     [&] { reader.integer("layers", 5, 9); });
  test::expect_error(ErrorCode::kRequest, {"run.yaml:3: model.kind: 'gqa' is not one of mha, mqa"},
                     [&] {
                       reader.choice("kind", {"mha", "mqa"});
                     });
  test::expect_error(ErrorCode::kRequest, {"run.yaml:1: model.depth: missing required key"},
                     [&] { reader.required("depth"); });
  NodeReader other(node);
  other.optional("layer");
  other.optional("kind");
  other.optional("rate");
  test::expect_error(ErrorCode::kRequest,
                     {"run.yaml:2: layers: unknown key (did you mean 'layer'?)"},
                     [&] { other.finish(); });
}

TEST(NodeReader, RefusesWhatIsNoMap) {
  const Node node = located(3, 9);
  test::expect_error(ErrorCode::kRequest, {"run.yaml:9: model: expected a map, found an integer"},
                     [&] { NodeReader reader(node, "model"); });
}

}  // namespace
}  // namespace ashlar
