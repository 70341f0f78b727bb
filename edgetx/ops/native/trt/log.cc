#include "edgetx/ops/native/trt/log.h"

#include <atomic>
#include <cstdio>

namespace edgetx::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};

}  // namespace

void SetLoggerFinder(nvinfer1::ILoggerFinder* finder) { g_finder = finder; }

void LogError(const std::string& message) noexcept {
  nvinfer1::ILoggerFinder* finder = g_finder;
  nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
  if (logger == nullptr) {
    std::fprintf(stderr, "edgetx: %s\n", message.c_str());
    return;
  }
  try {
    logger->log(nvinfer1::ILogger::Severity::kERROR, ("edgetx: " + message).c_str());
  } catch (const std::exception&) {
    std::fprintf(stderr, "edgetx: %s\n", message.c_str());
  }
}

}  // namespace edgetx::trt
