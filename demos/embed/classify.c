/* classify PKG PICTURE.ppm: the five most probable classes of a picture. C99. */
#include <edgetx.h>

#include "ppm.h"

static int failed(const char *doing) {
  fprintf(stderr, "%s: %s\n", doing, edgetx_last_error());
  return 1;
}

static int classify(const edgetx_package *package, edgetx_session *session, const edgetx_image *image) {
  edgetx_tensors *inputs = NULL, *outputs = NULL;
  edgetx_class top[5];
  size_t count = 0;
  int status = 0;
  if (edgetx_preprocess_rgb(package, image, &inputs) != EDGETX_OK) {
    status = failed("preprocess");
  } else if (edgetx_session_run_tensors(session, inputs, &outputs) != EDGETX_OK) {
    status = failed("run");
  } else if (edgetx_top_classes(package, outputs, top, 5, &count) != EDGETX_OK) {
    status = failed("classify");
  }
  for (size_t i = 0; i < count; ++i) {
    printf("%5ld  %.6f  %s\n", (long)top[i].index, top[i].probability, top[i].label != NULL ? top[i].label : "");
  }
  edgetx_tensors_free(outputs);
  edgetx_tensors_free(inputs);
  return status;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: classify PKG PICTURE.ppm\n");
    return 2;
  }
  if (edgetx_abi_version() != EDGETX_ABI_VERSION) {
    fprintf(stderr, "libedgetx has ABI %u, this program was compiled for %d\n", (unsigned)edgetx_abi_version(),
            EDGETX_ABI_VERSION);
    return 1;
  }
  edgetx_image image = {NULL, 0, 0, 0};
  uint8_t *pixels = ppm_read(argv[2], &image.width, &image.height);
  if (pixels == NULL) return 1;
  image.rgb = pixels;

  edgetx_package *package = NULL;
  edgetx_session *session = NULL;
  int status = 0;
  if (edgetx_package_open(argv[1], 0, &package) != EDGETX_OK) {
    status = failed("open package");
  } else if (edgetx_session_open(package, NULL, &session) != EDGETX_OK) {
    status = failed("open session");
  } else {
    printf("%s on %s\n", edgetx_package_name(package), edgetx_session_describe(session));
    status = classify(package, session, &image);
  }
  edgetx_session_close(session);
  edgetx_package_close(package);
  free(pixels);
  return status;
}
