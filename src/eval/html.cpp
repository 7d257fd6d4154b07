#include "eval/html.h"

#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

constexpr const char* kStyle = R"(
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}
h1 b{color:#2a7a4b}table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .8em;text-align:left;
border-bottom:1px solid #ddd}svg{width:100%}svg text{font-size:12px;fill:#444}.bar{fill:#7fb894}
.whisker{stroke:#222;stroke-width:1.5}.grid{stroke:#ddd}.success{fill:#2a7a4b}.failure{fill:#c0504d}
polyline{fill:none;stroke-width:1}.demo{stroke:#222;stroke-width:1.8}.p0{stroke:#2a7a4b}.p1{stroke:#c0504d}
.p2{stroke:#3b6fb5}.p3{stroke:#b8860b}.p4{stroke:#7d4fa3}.p5{stroke:#1f9ba8}
)";

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string html_page(std::string_view title, std::string_view body) {
  return str("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>", escaped(title),
             "</title><style>", kStyle, "</style>", body, "</html>\n");
}

}  // namespace shallowpi
