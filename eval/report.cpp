#include "eval/report.h"

namespace ashlar {

Node to_node(const std::vector<EvalRow>& rows) {
  Node list = Node::list();
  for (const EvalRow& row : rows) {
    Node node = Node::map();
    node.set("task", row.task);
    node.set("metric", row.metric);
    node.set("value", row.value);
    node.set("n", row.n);
    node.set("low", row.low);
    node.set("high", row.high);
    list.push(std::move(node));
  }
  return list;
}

}  // namespace ashlar
