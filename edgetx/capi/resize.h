// Pictures resized as Pillow 13 resizes them, byte for byte.
//
// The semantics are those of Pillow's Image.resize for 8-bit images (src/libImaging/Resample.c and, for "nearest",
// Geometry.c): separable, with the filter widened when a side shrinks, weights in fixed point, and 8-bit values
// between the two passes. The pass along the rows comes first, except where the height shrinks by more than twice the
// pixels of the width (since Pillow 13; older ones differ there by a rounding).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgetx::capi {

struct Picture {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> rgb;  // rows without gaps

  const uint8_t* Row(int64_t y) const { return rgb.data() + static_cast<size_t>(y * width) * 3; }
  uint8_t* Row(int64_t y) { return rgb.data() + static_cast<size_t>(y * width) * 3; }
};

// `filter` is nearest, bilinear, bicubic, lanczos, box or hamming. Width and height are positive.
Picture Resize(const Picture& picture, int64_t width, int64_t height, const std::string& filter);

// The rectangle of that origin and size; black outside the picture.
Picture Crop(const Picture& picture, int64_t left, int64_t top, int64_t width, int64_t height);

}  // namespace edgetx::capi
