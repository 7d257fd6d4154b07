// The frame of our HTML pages, which need no other file.
#pragma once

#include <string>
#include <string_view>

namespace shallowpi {

/// Text as HTML shows it.
std::string escaped(std::string_view text);

/// `body` is HTML; its charts are SVG.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace shallowpi
