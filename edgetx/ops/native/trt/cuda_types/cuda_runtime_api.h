// Stands in for CUDA's header of this name where CUDA is not installed: TensorRT's headers need two opaque handles.
#pragma once

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
