// Writes small demonstration files in LIBERO's and ALOHA's layouts, sound ones and spoilt ones.
#pragma once

#define H5_USE_110_API
#include <hdf5.h>

#include <filesystem>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "shallowpi/data/image.h"

namespace shallowpi::testing {

using Dims = std::vector<hsize_t>;

inline hid_t checked(hid_t id) {
  if (id < 0) throw std::runtime_error("an HDF5 call of a test fixture failed");
  return id;
}

inline std::size_t element_count(const Dims& dims) {
  return std::accumulate(dims.begin(), dims.end(), std::size_t{1}, std::multiplies<>());
}

/// How frames are stored. chunk_rows 0: contiguous. whole_frames false: chunks cut
/// through frames, as h5py guesses them.
struct Storage {
  hsize_t chunk_rows = 1;
  bool gzip = true;
  bool shuffle = false;
  bool whole_frames = true;
};

inline void write_dataset(hid_t parent, const std::string& name, hid_t type, const Dims& dims,
                          const void* data, Storage storage = {.chunk_rows = 0}) {
  const hid_t space = checked(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr));
  const hid_t plist = checked(H5Pcreate(H5P_DATASET_CREATE));
  if (storage.chunk_rows > 0 && element_count(dims) > 0) {
    Dims chunk = dims;
    chunk[0] = std::min(dims[0], storage.chunk_rows);
    if (!storage.whole_frames) chunk[1] = (chunk[1] + 1) / 2;
    H5Pset_chunk(plist, static_cast<int>(chunk.size()), chunk.data());
    if (storage.shuffle) H5Pset_shuffle(plist);
    if (storage.gzip) H5Pset_deflate(plist, 6);
  }
  const hid_t links = checked(H5Pcreate(H5P_LINK_CREATE));
  H5Pset_create_intermediate_group(links, 1);
  const hid_t set = checked(H5Dcreate2(parent, name.c_str(), type, space, links, plist, H5P_DEFAULT));
  if (data != nullptr && element_count(dims) > 0)
    checked(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
  H5Dclose(set);
  H5Pclose(links);
  H5Pclose(plist);
  H5Sclose(space);
}

inline void write_doubles(hid_t parent, const std::string& name, const Dims& dims,
                          const std::vector<double>& values) {
  write_dataset(parent, name, H5T_NATIVE_DOUBLE, dims, values.data());
}

inline void write_bytes(hid_t parent, const std::string& name, const Dims& dims,
                        const std::vector<std::uint8_t>& values, Storage storage = {}) {
  write_dataset(parent, name, H5T_NATIVE_UINT8, dims, values.data(), storage);
}

inline void write_text_attribute(hid_t object, const std::string& name, const std::string& text,
                                 bool variable_length = true) {
  const hid_t type = checked(H5Tcopy(H5T_C_S1));
  H5Tset_size(type, variable_length ? H5T_VARIABLE : std::max<std::size_t>(1, text.size()));
  const hid_t space = checked(H5Screate(H5S_SCALAR));
  const hid_t attribute = checked(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT));
  const char* pointer = text.c_str();
  H5Awrite(attribute, type, variable_length ? static_cast<const void*>(&pointer) : pointer);
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

/// A dataset of texts of variable length, as h5py writes them.
inline void write_texts(hid_t parent, const std::string& name, const std::vector<std::string>& texts) {
  const hid_t type = checked(H5Tcopy(H5T_C_S1));
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  std::vector<const char*> pointers;
  for (const std::string& text : texts) pointers.push_back(text.c_str());
  write_dataset(parent, name, type, {texts.size()}, pointers.data());
  H5Tclose(type);
}

/// The colour that fixtures give every stored pixel.
inline std::uint8_t fixture_pixel(std::int64_t demo, std::int64_t step, std::int64_t camera, std::int64_t y,
                                  std::int64_t x, std::int64_t channel) {
  return static_cast<std::uint8_t>(demo * 97 + step * 31 + camera * 53 + y * 7 + x * 3 + channel * 85);
}

inline std::vector<std::uint8_t> fixture_frames(std::int64_t demo, std::int64_t camera, std::int64_t steps,
                                                std::int64_t height, std::int64_t width) {
  std::vector<std::uint8_t> bytes;
  bytes.reserve(static_cast<std::size_t>(steps * height * width * 3));
  for (std::int64_t step = 0; step < steps; ++step)
    for (std::int64_t y = 0; y < height; ++y)
      for (std::int64_t x = 0; x < width; ++x)
        for (std::int64_t channel = 0; channel < 3; ++channel)
          bytes.push_back(fixture_pixel(demo, step, camera, y, x, channel));
  return bytes;
}

/// Values that tell demo, row and column: demo + row / 100 + column / 10000.
inline std::vector<double> fixture_table(std::int64_t demo, std::int64_t rows, std::int64_t columns) {
  std::vector<double> values;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t column = 0; column < columns; ++column)
      values.push_back(static_cast<double>(demo) + static_cast<double>(row) / 100 +
                       static_cast<double>(column) / 1e4);
  return values;
}

struct LiberoFixture {
  int demos = 2;
  int steps = 8;
  int height = 16, width = 12;
  Storage storage = {};
  std::string instruction = "pick up the cup";
  int control_hz = 0;  ///< 0: not said
  /// Replaces fixture_table(demo, steps, 7).
  std::function<std::vector<double>(int demo)> actions = nullptr;
  /// obs/drawn; empty: not written.
  std::vector<double> drawn = {};
  /// Called with the open file at the end, to spoil it.
  std::function<void(hid_t file)> spoil = nullptr;
};

inline hid_t create_group(hid_t parent, const std::string& name) {
  return checked(H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}

/// actions = fixture_table(demo, steps, 7), ee_states and gripper_states =
/// fixture_table(demo, steps, 6 and 2).
inline void write_libero(const std::filesystem::path& path, const LiberoFixture& fixture = {}) {
  const hid_t file = checked(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  const hid_t data = create_group(file, "data");
  write_text_attribute(data, "problem_info", "{\"language_instruction\": \"" + fixture.instruction + "\"}");
  if (fixture.control_hz > 0)
    write_text_attribute(data, "env_args",
                         "{\"env_kwargs\": {\"control_freq\": " + std::to_string(fixture.control_hz) + "}}");
  const auto steps = static_cast<hsize_t>(fixture.steps);
  const Dims frames = {steps, static_cast<hsize_t>(fixture.height), static_cast<hsize_t>(fixture.width), 3};
  for (int demo = 0; demo < fixture.demos; ++demo) {
    const hid_t group = create_group(data, "demo_" + std::to_string(demo));
    write_doubles(group, "actions", {steps, 7},
                  fixture.actions ? fixture.actions(demo) : fixture_table(demo, fixture.steps, 7));
    write_doubles(group, "obs/ee_states", {steps, 6}, fixture_table(demo, fixture.steps, 6));
    write_doubles(group, "obs/gripper_states", {steps, 2}, fixture_table(demo, fixture.steps, 2));
    if (!fixture.drawn.empty()) write_doubles(group, "obs/drawn", {fixture.drawn.size(), 1}, fixture.drawn);
    const char* const cameras[] = {"obs/agentview_rgb", "obs/eye_in_hand_rgb"};
    for (int camera = 0; camera < 2; ++camera) {
      write_bytes(group, cameras[camera], frames,
                  fixture_frames(demo, camera, fixture.steps, fixture.height, fixture.width),
                  fixture.storage);
    }
    H5Gclose(group);
  }
  H5Gclose(data);
  if (fixture.spoil) fixture.spoil(file);
  H5Fclose(file);
}

enum class JpegStorage { kNone, kPadded, kRagged };

struct AlohaFixture {
  int steps = 6;
  int state_dim = 14, action_dim = 14;
  int height = 16, width = 24;
  std::vector<std::string> cameras = {"cam_high", "cam_left_wrist", "cam_right_wrist", "cam_low"};
  JpegStorage jpeg = JpegStorage::kNone;
  Storage storage = {.chunk_rows = 0};
  std::string prompt = "fold the towel";
  std::function<void(hid_t file)> spoil = nullptr;
};

inline std::vector<std::uint8_t> encode_jpeg(const std::vector<std::uint8_t>& rgb, int height, int width) {
  const std::string jpeg = shallowpi::encode_jpeg({height, width, rgb});
  return {jpeg.begin(), jpeg.end()};
}

inline void write_jpegs(hid_t file, const std::string& name,
                        const std::vector<std::vector<std::uint8_t>>& jpegs, bool ragged) {
  const Dims steps = {jpegs.size()};
  if (ragged) {
    std::vector<hvl_t> rows;
    for (const auto& jpeg : jpegs) rows.push_back({jpeg.size(), const_cast<std::uint8_t*>(jpeg.data())});
    const hid_t type = checked(H5Tvlen_create(H5T_NATIVE_UINT8));
    write_dataset(file, name, type, steps, rows.data());
    H5Tclose(type);
    return;
  }
  std::size_t longest = 0;
  for (const auto& jpeg : jpegs) longest = std::max(longest, jpeg.size());
  std::vector<std::uint8_t> padded(jpegs.size() * longest, 0);
  for (std::size_t i = 0; i < jpegs.size(); ++i)
    std::copy(jpegs[i].begin(), jpegs[i].end(), padded.begin() + static_cast<std::ptrdiff_t>(i * longest));
  write_bytes(file, name, {steps[0], longest}, padded, {.chunk_rows = 0});
}

/// One episode; action and qpos = fixture_table(0, steps, dims), camera c's
/// frames = fixture_frames(0, c, ...).
inline void write_aloha(const std::filesystem::path& path, const AlohaFixture& fixture = {}) {
  const hid_t file = checked(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  if (!fixture.prompt.empty()) write_text_attribute(file, "language_instruction", fixture.prompt);
  const auto steps = static_cast<hsize_t>(fixture.steps);
  write_doubles(file, "action", {steps, static_cast<hsize_t>(fixture.action_dim)},
                fixture_table(0, fixture.steps, fixture.action_dim));
  write_doubles(file, "observations/qpos", {steps, static_cast<hsize_t>(fixture.state_dim)},
                fixture_table(0, fixture.steps, fixture.state_dim));
  const std::int64_t frame_bytes = std::int64_t{3} * fixture.height * fixture.width;
  for (std::size_t camera = 0; camera < fixture.cameras.size(); ++camera) {
    const std::string name = "observations/images/" + fixture.cameras[camera];
    const auto frames =
        fixture_frames(0, static_cast<std::int64_t>(camera), fixture.steps, fixture.height, fixture.width);
    if (fixture.jpeg == JpegStorage::kNone) {
      const Dims dims = {steps, static_cast<hsize_t>(fixture.height), static_cast<hsize_t>(fixture.width), 3};
      write_bytes(file, name, dims, frames, fixture.storage);
      continue;
    }
    std::vector<std::vector<std::uint8_t>> jpegs;
    for (auto at = frames.begin(); at != frames.end(); at += frame_bytes)
      jpegs.push_back(encode_jpeg({at, at + frame_bytes}, fixture.height, fixture.width));
    write_jpegs(file, name, jpegs, fixture.jpeg == JpegStorage::kRagged);
  }
  if (fixture.spoil) fixture.spoil(file);
  H5Fclose(file);
}

}  // namespace shallowpi::testing
