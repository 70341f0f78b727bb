#include "edgetx/capi/processor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "edgetx/capi/error.h"
#include "edgetx/capi/resize.h"

namespace edgetx::capi {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 27;  // that resizing makes, as in Python
constexpr int64_t kLongest = int64_t{1} << 30;

[[noreturn]] void Refuse(const std::string& message) { Fail(EDGETX_ERROR_ARGUMENT, message); }

std::string Sizes(int64_t width, int64_t height) { return std::to_string(width) + "x" + std::to_string(height); }

const TensorSpec& PictureInput(const Manifest& manifest) {
  const Processor& processor = manifest.processor;
  for (const TensorSpec& spec : manifest.inputs) {
    if (processor.input ? spec.name != *processor.input : manifest.inputs.size() != 1) continue;
    if (spec.shape.size() != 4 || spec.dtype != EDGETX_FLOAT32 ||
        (spec.shape[1].size != 0 && spec.shape[1].size != 3)) {
      Refuse("this library fills float32 inputs [batch, 3, height, width]; package " + manifest.name + " takes " +
             Show(spec) + ": fill the tensor yourself");
    }
    if (spec.shape[0].size > 1) {
      Refuse("package " + manifest.name + " takes batches of exactly " + std::to_string(spec.shape[0].size) +
             " pictures: fill the tensor yourself");
    }
    return spec;
  }
  Refuse("package " + manifest.name + " has no input that its processor fills");
}

Picture CopyPicture(const edgetx_image& image) {
  Picture picture{image.width, image.height, {}};
  const size_t row = size_t{3} * image.width;
  const size_t stride = image.stride != 0 ? image.stride : row;
  picture.rgb.resize(row * image.height);
  for (uint32_t y = 0; y < image.height; ++y) {
    std::memcpy(picture.rgb.data() + row * y, image.rgb + stride * y, row);
  }
  return picture;
}

// ---- photographs: edgetx/processors/classification.py

// Half to even, as Python's round.
int64_t Round(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

Picture ResizeChecked(const Picture& picture, int64_t width, int64_t height, const std::string& filter) {
  if (width > kLongest || height > kLongest || width * height > kMostPixels) {
    Refuse("a picture of " + Sizes(picture.width, picture.height) + " pixels would need " + Sizes(width, height) +
           " to keep its aspect ratio; crop it first");
  }
  return Resize(picture, width, height, filter);
}

Picture CentreCrop(const Picture& picture, int64_t width, int64_t height) {
  // Where the picture is smaller, black goes around it first: the left and top get the smaller half.
  const int64_t pad_left = std::max<int64_t>((width - picture.width) / 2, 0);
  const int64_t pad_top = std::max<int64_t>((height - picture.height) / 2, 0);
  const int64_t padded_width = std::max(picture.width, width);
  const int64_t padded_height = std::max(picture.height, height);
  const int64_t left = Round(static_cast<double>(padded_width - width) / 2.0) - pad_left;
  const int64_t top = Round(static_cast<double>(padded_height - height) / 2.0) - pad_top;
  return Crop(picture, left, top, width, height);
}

Picture ResizeAndCrop(const Picture& picture, const ImageSettings& settings) {
  const auto before_crop = [&](int64_t side) {
    const double resized = std::floor(static_cast<double>(side) / settings.crop_pct);
    if (resized > static_cast<double>(kLongest)) Refuse("the package's crop_pct is too small to be used");
    return static_cast<int64_t>(resized);
  };
  int64_t height = before_crop(settings.size[0]);
  int64_t width = before_crop(settings.size[1]);
  if (settings.crop_mode == "center") {
    if (settings.resize_size) height = width = *settings.resize_size;
    if (height == width) {
      const int64_t shorter = std::min(picture.width, picture.height);
      const int64_t longer = std::max(picture.width, picture.height);
      const auto resized =
          static_cast<int64_t>(static_cast<double>(height * longer) / static_cast<double>(shorter));
      (picture.width > picture.height ? width : height) = resized;
    } else {
      const double ratio = std::min(static_cast<double>(picture.height) / static_cast<double>(height),
                                    static_cast<double>(picture.width) / static_cast<double>(width));
      height = Round(static_cast<double>(picture.height) / ratio);
      width = Round(static_cast<double>(picture.width) / ratio);
    }
  }
  return CentreCrop(ResizeChecked(picture, width, height, settings.interpolation), settings.size[1],
                    settings.size[0]);
}

int64_t NearestAllowed(int64_t size, const SymbolRange& range) {
  const int64_t lowest = (range.min + range.step - 1) / range.step * range.step;
  const int64_t nearest = std::max((size + range.step / 2) / range.step * range.step, lowest);
  return range.max == 0 ? nearest : std::min(nearest, range.max / range.step * range.step);
}

Picture ResizeToAllowed(const Picture& picture, const Manifest& manifest, const TensorSpec& spec) {
  const ImageSettings& settings = manifest.processor.image;
  const auto side = [&](size_t axis, int64_t size, int64_t fixed) {
    const Dim& dim = spec.shape[axis];
    return dim.size != 0 ? fixed : NearestAllowed(size, manifest.Range(dim));
  };
  const int64_t height = side(2, picture.height, settings.size[0]);
  const int64_t width = side(3, picture.width, settings.size[1]);
  return ResizeChecked(picture, width, height, settings.interpolation);
}

void CheckPixels(int64_t width, int64_t height) {
  if (width * height > kMostPixels) {
    Refuse("the model would be run on " + Sizes(width, height) + " pixels; at most " + std::to_string(kMostPixels) +
           " are prepared at once: cut the picture into tiles");
  }
}

Tensor Normalise(const Picture& picture, const ImageSettings& settings, const std::string& name) {
  Tensor tensor = MakeFloats(name, {1, 3, picture.height, picture.width});
  auto* to = static_cast<float*>(tensor.data);
  const size_t pixels = static_cast<size_t>(picture.width * picture.height);
  for (size_t c = 0; c < 3; ++c) {
    const auto mean = static_cast<float>(settings.mean[c]);
    const auto deviation = static_cast<float>(settings.std[c]);
    for (size_t i = 0; i < pixels; ++i) {
      to[c * pixels + i] = (static_cast<float>(picture.rgb[3 * i + c]) / 255.0f - mean) / deviation;
    }
  }
  return tensor;
}

// ---- pictures to restore: edgetx/processors/restoration.py

void CheckRestoration(const Manifest& manifest) {
  const Processor& processor = manifest.processor;
  if (processor.kind != "image-restoration") {
    Refuse("package " + manifest.name + " does not restore pictures; its processor is " +
           (processor.kind.empty() ? "none" : processor.kind));
  }
  const RestorationSettings& settings = processor.restoration;
  if (settings.channels != 3 || settings.out_channels != 3 || settings.regions) {
    Refuse("this library restores pictures of 3 channels without regions; package " + manifest.name + " takes " +
           std::to_string(settings.channels) + " channels, gives " + std::to_string(settings.out_channels) +
           (settings.regions ? " and takes regions" : ""));
  }
}

// The side that the model is run at for a picture of `size` pixels.
int64_t RunSide(const Manifest& manifest, const Dim& dim, int64_t size) {
  if (dim.size != 0) {
    if (size > dim.size) {
      Refuse("the model takes " + std::to_string(dim.size) + " pixels a side, the picture has " +
             std::to_string(size) + ": cut it into tiles");
    }
    return dim.size;
  }
  const SymbolRange& range = manifest.Range(dim);
  const int64_t side = (std::max(size, range.min) + range.step - 1) / range.step * range.step;
  if (range.max != 0 && side > range.max) {
    Refuse("the model takes " + dim.symbol + " up to " + std::to_string(range.max) + ", the picture needs " +
           std::to_string(side) + ": cut it into tiles");
  }
  return side;
}

// The picture continued below and to the right by reflection, at the end of which its first row or column repeats.
Tensor Planes(const Picture& picture, int64_t width, int64_t height, float white, const std::string& name) {
  Tensor tensor = MakeFloats(name, {1, 3, height, width});
  auto* to = static_cast<float*>(tensor.data);
  const auto source = [](int64_t at, int64_t size) { return std::max<int64_t>(size - 1 - std::abs(at - (size - 1)), 0); };
  const int64_t pixels = width * height;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = picture.Row(source(y, picture.height));
    for (int64_t x = 0; x < width; ++x) {
      const uint8_t* pixel = row + 3 * source(x, picture.width);
      for (int64_t c = 0; c < 3; ++c) to[c * pixels + y * width + x] = static_cast<float>(pixel[c]) * white;
    }
  }
  return tensor;
}

const Tensor& Output(const Manifest& manifest, const Tensors& outputs) {
  const std::optional<std::string>& name = manifest.processor.output;
  for (const Tensor& tensor : outputs) {
    if (!name || tensor.name == *name) return tensor;
  }
  Refuse("the outputs have no tensor " + (name ? "'" + *name + "'" : std::string("at all")) + "; give what the run gave");
}

}  // namespace

Tensor MakeFloats(const std::string& name, std::vector<int64_t> shape) {
  Tensor tensor;
  tensor.name = name;
  tensor.shape = std::move(shape);
  size_t count = 1;
  for (const int64_t size : tensor.shape) count *= static_cast<size_t>(size);
  std::shared_ptr<float> data(new float[count], std::default_delete<float[]>());
  tensor.data = data.get();
  tensor.bytes = count * sizeof(float);
  tensor.owner = std::move(data);
  return tensor;
}

Tensors Preprocess(const Manifest& manifest, const edgetx_image& image) {
  if (image.rgb == nullptr) Refuse("image.rgb is a null pointer; give 8-bit RGB pixels");
  if (image.width == 0 || image.height == 0 || image.width > kLongest || image.height > kLongest) {
    Refuse("the picture has " + Sizes(image.width, image.height) + " pixels; expected 1 to " +
           std::to_string(kLongest) + " a side");
  }
  if (image.stride != 0 && image.stride < size_t{3} * image.width) {
    Refuse("image.stride is " + std::to_string(image.stride) + "; a row of " + std::to_string(image.width) +
           " RGB pixels has " + std::to_string(size_t{3} * image.width) + " bytes (0 takes that)");
  }
  const Processor& processor = manifest.processor;
  if (processor.kind == "image-restoration") {
    CheckRestoration(manifest);
    const TensorSpec& spec = PictureInput(manifest);
    const int64_t height = RunSide(manifest, spec.shape[2], image.height);
    const int64_t width = RunSide(manifest, spec.shape[3], image.width);
    if (height > kLongest || width > kLongest) Refuse("the package's symbols ask for sides beyond any picture");
    CheckPixels(width, height);
    const auto white = static_cast<float>(processor.restoration.value_range / 255.0);
    return {Planes(CopyPicture(image), width, height, white, spec.name)};
  }
  if (processor.kind != "image-classification" && processor.kind != "image-features") {
    Refuse("package " + manifest.name + " takes no pictures; its processor is " +
           (processor.kind.empty() ? "none" : processor.kind));
  }
  const TensorSpec& spec = PictureInput(manifest);
  CheckPixels(processor.image.size[1], processor.image.size[0]);
  const Picture picture = CopyPicture(image);
  const Picture resized = processor.image.native_size ? ResizeToAllowed(picture, manifest, spec)
                                                      : ResizeAndCrop(picture, processor.image);
  return {Normalise(resized, processor.image, spec.name)};
}

std::vector<edgetx_class> TopClasses(const Manifest& manifest, const Tensors& outputs, size_t capacity) {
  const Processor& processor = manifest.processor;
  if (processor.kind != "image-classification") {
    Refuse("package " + manifest.name + " does not classify; its processor is " +
           (processor.kind.empty() ? "none" : processor.kind));
  }
  const Tensor& tensor = Output(manifest, outputs);
  if (tensor.dtype != EDGETX_FLOAT32 || tensor.shape.size() != 2 || tensor.shape[0] != 1 || tensor.shape[1] < 1) {
    Refuse("output '" + tensor.name + "' is not float32 [1, classes]; classify one picture at a time");
  }
  const auto* logits = static_cast<const float*>(tensor.data);
  const auto count = static_cast<size_t>(tensor.shape[1]);
  if (processor.image.has_labels && processor.image.labels.size() != count) {
    Refuse("output '" + tensor.name + "' has " + std::to_string(count) + " classes and the package has " +
           std::to_string(processor.image.labels.size()) + " labels; export again with one label per class");
  }
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) Refuse("output '" + tensor.name + "' holds NaN; run `edgetx verify` on the package");
  }
  const double largest = *std::max_element(logits, logits + count);
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i) sum += std::exp(static_cast<double>(logits[i]) - largest);
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<edgetx_class> classes;
  for (size_t i = 0; i < std::min(capacity, count); ++i) {
    const size_t index = order[i];
    classes.push_back({processor.image.has_labels ? processor.image.labels[index].c_str() : nullptr,
                       static_cast<int64_t>(index), std::exp(static_cast<double>(logits[index]) - largest) / sum});
  }
  return classes;
}

void RestoredSize(const Manifest& manifest, uint32_t width, uint32_t height, uint32_t* to_width,
                  uint32_t* to_height) {
  CheckRestoration(manifest);
  const int64_t scale = manifest.processor.restoration.scale;
  if (width == 0 || height == 0 || scale > kLongest || width * scale > kLongest || height * scale > kLongest) {
    Refuse("the picture has " + Sizes(width, height) + " pixels; expected 1 to " +
           std::to_string(kLongest / std::min(scale, kLongest)) + " a side");
  }
  *to_width = static_cast<uint32_t>(width * scale);
  *to_height = static_cast<uint32_t>(height * scale);
}

void RestoredRgb(const Manifest& manifest, const Tensors& outputs, uint32_t width, uint32_t height, size_t stride,
                 uint8_t* rgb) {
  CheckRestoration(manifest);
  const Tensor& tensor = Output(manifest, outputs);
  if (tensor.dtype != EDGETX_FLOAT32 || tensor.shape.size() != 4 || tensor.shape[0] != 1 || tensor.shape[1] != 3) {
    Refuse("output '" + tensor.name + "' is not float32 [1, 3, height, width]; restore one picture at a time");
  }
  if (width == 0 || height == 0 || width > tensor.shape[3] || height > tensor.shape[2]) {
    Refuse("a picture of " + Sizes(width, height) + " was asked for, output '" + tensor.name + "' has " +
           Sizes(tensor.shape[3], tensor.shape[2]) + "; edgetx_restored_size tells the size");
  }
  const size_t row = size_t{3} * width;
  if (stride == 0) stride = row;
  if (stride < row) {
    Refuse("stride is " + std::to_string(stride) + "; a row of " + std::to_string(width) + " RGB pixels has " +
           std::to_string(row) + " bytes (0 takes that)");
  }
  const auto* planes = static_cast<const float*>(tensor.data);
  const auto pixels = static_cast<size_t>(tensor.shape[2] * tensor.shape[3]);
  const auto range = static_cast<float>(manifest.processor.restoration.value_range);
  for (uint32_t y = 0; y < height; ++y) {
    for (uint32_t x = 0; x < width; ++x) {
      const size_t at = static_cast<size_t>(y) * static_cast<size_t>(tensor.shape[3]) + x;
      for (size_t c = 0; c < 3; ++c) {
        float value = planes[c * pixels + at];
        if (std::isnan(value)) Refuse("the restored picture holds NaN; run `edgetx verify` on the package");
        if (range != 1.0f) value /= range;
        value = std::min(std::max(value * 255.0f, 0.0f), 255.0f);
        rgb[stride * y + 3 * x + c] = static_cast<uint8_t>(std::nearbyint(value));
      }
    }
  }
}

}  // namespace edgetx::capi
