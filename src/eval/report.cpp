// How measurements are shown: JSON and the comparison table.
#include "shallowpi/base/text.h"
#include "shallowpi/eval/measure.h"

namespace shallowpi {
namespace {

std::string cell(const std::optional<double>& value) {
  return value ? significant(*value) : "-";
}

}  // namespace

Json PolicyReport::json() const {
  Json out;
  out["name"] = label;
  out["layers"] = layers > 0 ? Json(layers) : Json(nullptr);
  out["parameters"] = layers > 0 ? Json(parameters) : Json(nullptr);
  out["weight_bytes"] = layers > 0 ? Json(weight_bytes) : Json(nullptr);
  out["frames"] = frames.size();
  out["loss_task"] = optional_json(loss_task);
  out["loss_kd"] = optional_json(loss_kd);
  out["loss_attn"] = optional_json(loss_attn);
  out["velocity_error"] = optional_json(velocity_error);
  out["velocity_error_teacher"] = optional_json(velocity_error_teacher);
  out["action_error"] = optional_json(action_error);
  out["action_error_robot"] = optional_json(action_error_robot);
  out["action_error_robot_per_dim"] = action_error_robot_per_dim;
  out["latency_ms"] = optional_json(latency_ms);
  out["latency_min_ms"] = optional_json(latency_min_ms);
  return out;
}

std::string comparison_table(const std::vector<PolicyReport>& reports) {
  const std::vector<std::string> header = {"policy",         "layers",     "parameters",   "weights",
                                           "velocity error", "vs teacher", "action error", "in robot units",
                                           "ms per chunk",   "min"};
  std::vector<std::vector<std::string>> rows;
  for (const PolicyReport& report : reports) {
    const bool is_network = report.layers > 0;
    rows.push_back({report.label, is_network ? str(report.layers) : "-",
                    is_network ? human_count(static_cast<std::uint64_t>(report.parameters)) : "-",
                    is_network ? human_bytes(report.weight_bytes) : "-", cell(report.velocity_error),
                    cell(report.velocity_error_teacher), cell(report.action_error),
                    cell(report.action_error_robot), cell(report.latency_ms), cell(report.latency_min_ms)});
  }
  return text_table(header, rows);
}

}  // namespace shallowpi
