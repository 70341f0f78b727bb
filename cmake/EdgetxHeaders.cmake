# Sets EDGETX_ORT_INCLUDE (has onnxruntime_c_api.h), EDGETX_HWY_INCLUDE (has hwy/highway.h) and EDGETX_JSON_INCLUDE
# (has nlohmann/json.hpp). In this order: ORT_ROOT, HWY_ROOT and JSON_ROOT, as CMake or environment variables; the
# system; what fetch_headers.py unpacks.

function(edgetx_find root)
  set(hints)
  foreach(value IN ITEMS "${${root}}" "$ENV{${root}}")
    if(value)
      list(APPEND hints "${value}")
    endif()
  endforeach()
  if(hints)
    find_path(${ARGV1} ${ARGV2} HINTS ${hints} PATH_SUFFIXES ${ARGN} NO_DEFAULT_PATH)
    if(NOT ${ARGV1})
      message(FATAL_ERROR "${root} is ${hints}, which has no ${ARGV2}; give the folder that holds it "
                          "or that has it under include/")
    endif()
  else()
    find_path(${ARGV1} ${ARGV2} PATH_SUFFIXES ${ARGN})
  endif()
endfunction()

set(ort_suffixes include include/onnxruntime include/onnxruntime/core/session onnxruntime)
edgetx_find(ORT_ROOT EDGETX_ORT_INCLUDE onnxruntime_c_api.h ${ort_suffixes})
edgetx_find(HWY_ROOT EDGETX_HWY_INCLUDE hwy/highway.h include)
edgetx_find(JSON_ROOT EDGETX_JSON_INCLUDE nlohmann/json.hpp include)

if(NOT EDGETX_ORT_INCLUDE OR NOT EDGETX_HWY_INCLUDE OR NOT EDGETX_JSON_INCLUDE)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/fetch_headers.py"
                  OUTPUT_VARIABLE fetched OUTPUT_STRIP_TRAILING_WHITESPACE
                  ERROR_VARIABLE problem ERROR_STRIP_TRAILING_WHITESPACE
                  RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${problem}")
  endif()
  find_path(EDGETX_ORT_INCLUDE onnxruntime_c_api.h HINTS "${fetched}/usr/include/onnxruntime" NO_DEFAULT_PATH)
  find_path(EDGETX_HWY_INCLUDE hwy/highway.h HINTS "${fetched}/usr/include" NO_DEFAULT_PATH)
  find_path(EDGETX_JSON_INCLUDE nlohmann/json.hpp HINTS "${fetched}/usr/include" NO_DEFAULT_PATH)
endif()
if(NOT EDGETX_ORT_INCLUDE OR NOT EDGETX_HWY_INCLUDE OR NOT EDGETX_JSON_INCLUDE)
  message(FATAL_ERROR "the headers of ONNX Runtime, Highway or nlohmann-json are not where they should be in "
                      "'${fetched}'; remove that folder, or set ORT_ROOT, HWY_ROOT and JSON_ROOT")
endif()
message(STATUS "ONNX Runtime headers: ${EDGETX_ORT_INCLUDE}")
message(STATUS "Highway headers: ${EDGETX_HWY_INCLUDE}")
message(STATUS "nlohmann-json headers: ${EDGETX_JSON_INCLUDE}")
