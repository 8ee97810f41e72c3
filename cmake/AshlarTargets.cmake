# ashlar_library(NAME SOURCES a.cpp ... USES target ...)
# One folder, one static library, named ashlar_<name>. USES lists its direct dependencies.
function(ashlar_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES" ${ARGN})
  add_library(ashlar_${name} STATIC ${ARG_SOURCES})
  target_include_directories(ashlar_${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(ashlar_${name} PUBLIC ${ARG_USES})
endfunction()

# ashlar_test(NAME SOURCES a.cpp ... USES target ... [LABELS fast|slow|cuda ...] [TIMEOUT seconds])
# One GoogleTest binary, run whole as one ctest test. Default label: fast. A binary whose every test
# skipped, and none failed, counts as skipped.
function(ashlar_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;USES;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(test_${name} ${ARG_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${ARG_USES} ashlar_test_support)
  set_target_properties(test_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND test_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    SKIP_REGULAR_EXPRESSION "\\[  PASSED  \\] 0 tests\\.\n\\[  SKIPPED \\][^\n]*\n(\\[  SKIPPED \\][^\n]*\n?)+$")
endfunction()
