// Finds where in a file the rows of a dataset of bytes lie. Calls libhdf5: only in the child of hdf5_child.h.
#pragma once

#include "data/hdf5_file.h"
#include "data/hdf5_rows.h"

namespace shallowpi::hdf5 {

/// Throws CorruptError where the dataset is missing, not of bytes, of unreasonable
/// size, or beyond the file's end.
RowIndex find_rows(const File& file, const std::string& name);

}  // namespace shallowpi::hdf5
