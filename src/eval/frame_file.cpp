#include "eval/frame_file.h"

#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

/// One frame of one policy; the keys are the columns.
Json frame_json(const Dataset& dataset, const PolicyReport& report, const FrameReport& frame) {
  const EpisodeFile& file = dataset.file(frame.sample);
  const auto when_network = [&](double value) { return report.layers > 0 ? Json(value) : Json(nullptr); };
  Json line;
  line["policy"] = report.label;
  line["file"] = file.path().string();
  line["episode"] = file.episodes()[static_cast<std::size_t>(frame.sample.episode)].name;
  line["step"] = frame.sample.step;
  line["loss_task"] = when_network(frame.loss_task);
  line["velocity_error"] = when_network(frame.velocity_error);
  line["loss_kd"] = optional_json(frame.loss_kd);
  line["velocity_error_teacher"] = optional_json(frame.velocity_error_teacher);
  line["loss_attn"] = optional_json(frame.loss_attn);
  line["action_error"] = frame.action_error;
  line["action_error_robot"] = frame.action_error_robot;
  return line;
}

std::string csv_cell(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string quoted = "\"";
  for (char c : value.get<std::string>()) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string frame_file(const Dataset& dataset, const std::vector<PolicyReport>& reports, bool csv) {
  std::string out;
  for (const PolicyReport& report : reports)
    for (const FrameReport& frame : report.frames) {
      const Json line = frame_json(dataset, report, frame);
      std::vector<std::string> names, cells;
      for (const auto& [name, value] : line.items()) {
        names.push_back(name);
        cells.push_back(csv_cell(value));
      }
      if (csv && out.empty()) out = join(names, ",") + "\n";
      out += (csv ? join(cells, ",") : line.dump()) + "\n";
    }
  return out;
}

}  // namespace shallowpi
