// A package's processor: pixels to tensors, tensors to an answer. What edgetx/processors does, bit for bit.
#pragma once

#include <vector>

#include "edgetx.h"
#include "edgetx/capi/manifest.h"
#include "edgetx/capi/tensors.h"

namespace edgetx::capi {

// All throw Error with EDGETX_ERROR_ARGUMENT where the package's processor or the input does not fit.
Tensors Preprocess(const Manifest& manifest, const edgetx_image& image);
std::vector<edgetx_class> TopClasses(const Manifest& manifest, const Tensors& outputs, size_t capacity);
void RestoredSize(const Manifest& manifest, uint32_t width, uint32_t height, uint32_t* to_width, uint32_t* to_height);
void RestoredRgb(const Manifest& manifest, const Tensors& outputs, uint32_t width, uint32_t height, size_t stride,
                 uint8_t* rgb);

}  // namespace edgetx::capi
