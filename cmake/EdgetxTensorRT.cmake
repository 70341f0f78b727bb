# Sets EDGETX_TRT_INCLUDE (has NvInferRuntime.h; empty where there is none) and EDGETX_CUDA_INCLUDE (has
# cuda_runtime_api.h). In this order: TENSORRT_ROOT, as a CMake or environment variable; the system; the wheel
# kernel-lens of the Python that builds, which carries TensorRT 10's headers (pip install --no-deps kernel-lens).

set(EDGETX_TRT_INCLUDE)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(suffixes include include/tensorrt include/x86_64-linux-gnu include/aarch64-linux-gnu x86_64-linux-gnu
               aarch64-linux-gnu)
  edgetx_find(TENSORRT_ROOT EDGETX_TRT_FOUND NvInferRuntime.h ${suffixes})
  if(NOT EDGETX_TRT_FOUND)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    execute_process(COMMAND "${Python3_EXECUTABLE}" -c
                            "import importlib.util as i; s = i.find_spec('kernel_lens'); print(s.submodule_search_locations[0] if s else '')"
                    OUTPUT_VARIABLE wheel OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(wheel)
      find_path(EDGETX_TRT_FOUND NvInferRuntime.h HINTS "${wheel}/include/tensorrt" NO_DEFAULT_PATH)
    endif()
  endif()
  if(EDGETX_TRT_FOUND)
    set(EDGETX_TRT_INCLUDE "${EDGETX_TRT_FOUND}")
    message(STATUS "TensorRT headers: ${EDGETX_TRT_INCLUDE}")
  else()
    message(STATUS "TensorRT headers: none, so no plugins are built; give TENSORRT_ROOT, or "
                   "pip install --no-deps kernel-lens")
  endif()
endif()

# The handles' declarations are all that TensorRT's headers take from CUDA's, so that CUDA need not be installed.
set(EDGETX_CUDA_INCLUDE "${CMAKE_CURRENT_SOURCE_DIR}/edgetx/ops/native/trt/cuda_types")
