#pragma once

namespace ashlar {

/// One Python file that an exported folder carries; export/python holds them.
struct PythonFile {
  const char* name;
  const char* text;
};
extern const PythonFile kHfPythonFiles[2];

}  // namespace ashlar
