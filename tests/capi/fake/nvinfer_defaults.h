// Every function behind TensorRT 10.14's runtime, engine and context, doing nothing, so that nvinfer.cc only says
// what it does.
#pragma once

#include <NvInferRuntime.h>

#include <cstdlib>

namespace fake {

using namespace nvinfer1;  // NOLINT(google-build-using-namespace)

struct NoRuntime : apiv::VRuntime {
  IRuntime* getPImpl() noexcept override { return {}; }
  ICudaEngine* deserializeCudaEngine(void const*, std::size_t) noexcept override { return {}; }
  ICudaEngine* deserializeCudaEngine(IStreamReader&) noexcept override { return {}; }
  void setDLACore(int32_t) noexcept override {}
  int32_t getDLACore() const noexcept override { return {}; }
  int32_t getNbDLACores() const noexcept override { return {}; }
  void setGpuAllocator(IGpuAllocator*) noexcept override {}
  void setErrorRecorder(IErrorRecorder*) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return {}; }
  ILogger* getLogger() const noexcept override { return {}; }
  bool setMaxThreads(int32_t) noexcept override { return {}; }
  int32_t getMaxThreads() const noexcept override { return {}; }
  void setTemporaryDirectory(char const*) noexcept override {}
  char const* getTemporaryDirectory() const noexcept override { return {}; }
  void setTempfileControlFlags(TempfileControlFlags) noexcept override {}
  TempfileControlFlags getTempfileControlFlags() const noexcept override { return {}; }
  IPluginRegistry& getPluginRegistry() noexcept override { std::abort(); }
  void setPluginRegistryParent(IPluginRegistry*) noexcept override {}
  IRuntime* loadRuntime(char const*) noexcept override { return {}; }
  void setEngineHostCodeAllowed(bool) noexcept override {}
  bool getEngineHostCodeAllowed() const noexcept override { return {}; }
  ICudaEngine* deserializeCudaEngineV2(IStreamReaderV2&) noexcept override { return {}; }
};

struct NoEngine : apiv::VCudaEngine {
  ICudaEngine* getPImpl() noexcept override { return {}; }
  int32_t getNbLayers() const noexcept override { return {}; }
  IHostMemory* serialize() const noexcept override { return {}; }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept override { return {}; }
  IExecutionContext* createExecutionContextWithoutDeviceMemory() noexcept override { return {}; }
  size_t getDeviceMemorySize() const noexcept override { return {}; }
  bool isRefittable() const noexcept override { return {}; }
  char const* getName() const noexcept override { return {}; }
  int32_t getNbOptimizationProfiles() const noexcept override { return {}; }
  int32_t const* getProfileTensorValues(char const*, int32_t, OptProfileSelector) const noexcept override { return {}; }
  EngineCapability getEngineCapability() const noexcept override { return {}; }
  void setErrorRecorder(IErrorRecorder*) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return {}; }
  bool hasImplicitBatchDimension() const noexcept override { return {}; }
  TacticSources getTacticSources() const noexcept override { return {}; }
  ProfilingVerbosity getProfilingVerbosity() const noexcept override { return {}; }
  IEngineInspector* createEngineInspector() const noexcept override { return {}; }
  Dims getTensorShape(char const*) const noexcept override { return {}; }
  DataType getTensorDataType(char const*) const noexcept override { return {}; }
  TensorLocation getTensorLocation(char const*) const noexcept override { return {}; }
  bool isShapeInferenceIO(char const*) const noexcept override { return {}; }
  TensorIOMode getTensorIOMode(char const*) const noexcept override { return {}; }
  int32_t getTensorBytesPerComponent(char const*) const noexcept override { return {}; }
  int32_t getTensorComponentsPerElement(char const*) const noexcept override { return {}; }
  TensorFormat getTensorFormat(char const*) const noexcept override { return {}; }
  char const* getTensorFormatDesc(char const*) const noexcept override { return {}; }
  int32_t getTensorVectorizedDim(char const*) const noexcept override { return {}; }
  Dims getProfileShape(char const*, int32_t, OptProfileSelector) const noexcept override { return {}; }
  int32_t getNbIOTensors() const noexcept override { return {}; }
  char const* getIOTensorName(int32_t) const noexcept override { return {}; }
  HardwareCompatibilityLevel getHardwareCompatibilityLevel() const noexcept override { return {}; }
  int32_t getNbAuxStreams() const noexcept override { return {}; }
  int32_t getTensorBytesPerComponentV2(char const*, int32_t) const noexcept override { return {}; }
  int32_t getTensorComponentsPerElementV2(char const*, int32_t) const noexcept override { return {}; }
  TensorFormat getTensorFormatV2(char const*, int32_t) const noexcept override { return {}; }
  char const* getTensorFormatDescV2(char const*, int32_t) const noexcept override { return {}; }
  int32_t getTensorVectorizedDimV2(char const*, int32_t) const noexcept override { return {}; }
  ISerializationConfig* createSerializationConfig() noexcept override { return {}; }
  IHostMemory* serializeWithConfig(ISerializationConfig&) const noexcept override { return {}; }
  size_t getDeviceMemorySizeForProfile(int32_t) const noexcept override { return {}; }
  IRefitter* createRefitter(ILogger&) noexcept override { return {}; }
  bool setWeightStreamingBudget(int64_t) noexcept override { return {}; }
  int64_t getWeightStreamingBudget() const noexcept override { return {}; }
  int64_t getMinimumWeightStreamingBudget() const noexcept override { return {}; }
  int64_t getStreamableWeightsSize() const noexcept override { return {}; }
  bool isDebugTensor(char const*) const noexcept override { return {}; }
  bool setWeightStreamingBudgetV2(int64_t) noexcept override { return {}; }
  int64_t getWeightStreamingBudgetV2() const noexcept override { return {}; }
  int64_t getWeightStreamingAutomaticBudget() const noexcept override { return {}; }
  int64_t getWeightStreamingScratchMemorySize() const noexcept override { return {}; }
  int64_t getDeviceMemorySizeV2() const noexcept override { return {}; }
  int64_t getDeviceMemorySizeForProfileV2(int32_t) const noexcept override { return {}; }
  int64_t const* getProfileTensorValuesV2(char const*, int32_t, OptProfileSelector) const noexcept
      override { return {}; }
  IExecutionContext* createExecutionContextWithRuntimeConfig(IRuntimeConfig*) noexcept override { return {}; }
  IRuntimeConfig* createRuntimeConfig() noexcept override { return {}; }
  int64_t getEngineStat(EngineStat) const noexcept override { return {}; }
};

struct NoContext : apiv::VExecutionContext {
  IExecutionContext* getPImpl() noexcept override { return {}; }
  void setDebugSync(bool) noexcept override {}
  bool getDebugSync() const noexcept override { return {}; }
  void setProfiler(IProfiler*) noexcept override {}
  IProfiler* getProfiler() const noexcept override { return {}; }
  ICudaEngine const& getEngine() const noexcept override { std::abort(); }
  void setName(char const*) noexcept override {}
  char const* getName() const noexcept override { return {}; }
  void setDeviceMemory(void*) noexcept override {}
  int32_t getOptimizationProfile() const noexcept override { return {}; }
  bool allInputDimensionsSpecified() const noexcept override { return {}; }
  bool allInputShapesSpecified() const noexcept override { return {}; }
  void setErrorRecorder(IErrorRecorder*) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return {}; }
  bool executeV2(void* const*) noexcept override { return {}; }
  bool setOptimizationProfileAsync(int32_t, cudaStream_t) noexcept override { return {}; }
  void setEnqueueEmitsProfile(bool) noexcept override {}
  bool getEnqueueEmitsProfile() const noexcept override { return {}; }
  bool reportToProfiler() const noexcept override { return {}; }
  bool setInputShape(char const*, Dims const&) noexcept override { return {}; }
  Dims getTensorShape(char const*) const noexcept override { return {}; }
  Dims getTensorStrides(char const*) const noexcept override { return {}; }
  bool setTensorAddress(char const*, void*) noexcept override { return {}; }
  void const* getTensorAddress(char const*) const noexcept override { return {}; }
  bool setInputTensorAddress(char const*, void const*) noexcept override { return {}; }
  bool setOutputTensorAddress(char const*, void*) noexcept override { return {}; }
  int32_t inferShapes(int32_t, char const**) noexcept override { return {}; }
  bool setInputConsumedEvent(cudaEvent_t) noexcept override { return {}; }
  cudaEvent_t getInputConsumedEvent() const noexcept override { return {}; }
  void* getOutputTensorAddress(char const*) const noexcept override { return {}; }
  bool setOutputAllocator(char const*, IOutputAllocator*) noexcept override { return {}; }
  IOutputAllocator* getOutputAllocator(char const*) noexcept override { return {}; }
  int64_t getMaxOutputSize(char const*) const noexcept override { return {}; }
  bool setTemporaryStorageAllocator(IGpuAllocator*) noexcept override { return {}; }
  IGpuAllocator* getTemporaryStorageAllocator() const noexcept override { return {}; }
  bool enqueueV3(cudaStream_t) noexcept override { return {}; }
  void setPersistentCacheLimit(size_t) noexcept override {}
  size_t getPersistentCacheLimit() const noexcept override { return {}; }
  bool setNvtxVerbosity(ProfilingVerbosity) noexcept override { return {}; }
  ProfilingVerbosity getNvtxVerbosity() const noexcept override { return {}; }
  void setAuxStreams(cudaStream_t*, int32_t) noexcept override {}
  bool setDebugListener(IDebugListener*) noexcept override { return {}; }
  IDebugListener* getDebugListener() noexcept override { return {}; }
  bool setTensorDebugState(char const*, bool) noexcept override { return {}; }
  bool getDebugState(char const*) const noexcept override { return {}; }
  bool setAllTensorsDebugState(bool) noexcept override { return {}; }
  size_t updateDeviceMemorySizeForShapes() noexcept override { return {}; }
  void setDeviceMemoryV2(void*, int64_t) noexcept override {}
  IRuntimeConfig* getRuntimeConfig() const noexcept override { return {}; }
  bool setUnfusedTensorsDebugState(bool) noexcept override { return {}; }
  bool getUnfusedTensorsDebugState() const noexcept override { return {}; }
};

}  // namespace fake
