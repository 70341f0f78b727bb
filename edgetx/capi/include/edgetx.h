/* edgetx in C: open a package, run it, and what goes before and after: pixels to tensors, tensors to an answer.
 *
 *   edgetx_package *package = NULL;
 *   edgetx_session *session = NULL;
 *   edgetx_tensors *inputs = NULL, *outputs = NULL;
 *   edgetx_class top[5];
 *   size_t count = 0;
 *   if (edgetx_package_open("swin_tiny.edgetx", 0, &package) == EDGETX_OK &&
 *       edgetx_session_open(package, NULL, &session) == EDGETX_OK &&
 *       edgetx_preprocess_rgb(package, &image, &inputs) == EDGETX_OK &&
 *       edgetx_session_run_tensors(session, inputs, &outputs) == EDGETX_OK &&
 *       edgetx_top_classes(package, outputs, top, 5, &count) == EDGETX_OK) {
 *     printf("%s %f\n", top[0].label, top[0].probability);
 *   } else {
 *     fprintf(stderr, "%s\n", edgetx_last_error());
 *   }
 *
 * C99. Every function that can fail returns an edgetx_status, never throws, and on failure leaves its outputs as they
 * were; edgetx_last_error() then says in one line what happened, what was given and what is accepted. Handles are
 * opaque; each is freed by the function named beside it, all of which take NULL. Text and tensors that a handle gives
 * live as long as that handle. A session may be used by several threads at once, and keeps what it needs of its
 * package; every other handle by one thread at a time, unless it is only read.
 */
#ifndef EDGETX_H_
#define EDGETX_H_

#include <stddef.h>
#include <stdint.h>

#if defined(EDGETX_BUILDING_LIBRARY)
#define EDGETX_API __attribute__((visibility("default")))
#else
#define EDGETX_API
#endif

/* Grows when a program that was compiled before would not work any more. */
#define EDGETX_ABI_VERSION 1
#define EDGETX_MAX_RANK 8

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edgetx_status {
  EDGETX_OK = 0,
  EDGETX_ERROR_ARGUMENT = 1,      /* a null pointer, an index, a shape, a size: the caller can mend it */
  EDGETX_ERROR_PACKAGE = 2,       /* no package there, a damaged one, or one of a newer schema */
  EDGETX_ERROR_UNAVAILABLE = 3,   /* an engine or a library that this machine lacks; the text says how to get it */
  EDGETX_ERROR_ENGINE = 4,        /* the engine refused the model or failed while running it */
  EDGETX_ERROR_OUT_OF_MEMORY = 5,
  EDGETX_ERROR_INTERNAL = 6
} edgetx_status;

typedef enum edgetx_dtype {
  EDGETX_FLOAT32 = 1,
  EDGETX_FLOAT16 = 2,
  EDGETX_BFLOAT16 = 3,
  EDGETX_FLOAT64 = 4,
  EDGETX_INT8 = 5,
  EDGETX_UINT8 = 6,
  EDGETX_INT32 = 7,
  EDGETX_INT64 = 8,
  EDGETX_BOOL = 9
} edgetx_dtype;

/* A dimension of an input or output: `size`, or where that is 0 a symbol with the sizes it may take. */
typedef struct edgetx_dim {
  int64_t size;
  const char *symbol; /* NULL where the size is fixed */
  int64_t min;
  int64_t max; /* 0: no limit but memory */
  int64_t step;
} edgetx_dim;

typedef struct edgetx_tensor_spec {
  const char *name;
  edgetx_dtype dtype;
  uint32_t rank;
  edgetx_dim dims[EDGETX_MAX_RANK];
} edgetx_tensor_spec;

/* Elements in row-major order, without gaps. The library only reads the data of inputs. */
typedef struct edgetx_tensor {
  const char *name; /* NULL for an input: inputs are then taken in the package's order */
  edgetx_dtype dtype;
  uint32_t rank;
  int64_t shape[EDGETX_MAX_RANK];
  void *data;
  size_t bytes; /* of data */
} edgetx_tensor;

/* 8-bit RGB, rows from top to bottom, `stride` bytes from one to the next (0: 3 * width). */
typedef struct edgetx_image {
  const uint8_t *rgb;
  uint32_t width;
  uint32_t height;
  size_t stride;
} edgetx_image;

typedef struct edgetx_class {
  const char *label; /* NULL where the package has no labels */
  int64_t index;
  double probability;
} edgetx_class;

typedef struct edgetx_package edgetx_package;
typedef struct edgetx_session edgetx_session;
typedef struct edgetx_tensors edgetx_tensors; /* a list of tensors that owns their data */

/* ---- about the library */

EDGETX_API uint32_t edgetx_abi_version(void);
EDGETX_API const char *edgetx_version(void);
EDGETX_API const char *edgetx_status_name(edgetx_status status);
/* Of the last failure in this thread; "" before the first. Valid until the next failure in this thread. */
EDGETX_API const char *edgetx_last_error(void);

/* ---- packages */

/* Compare only sizes with the manifest, not the CRC-32 of every file (SHA-256 in packages of schema 1). */
#define EDGETX_OPEN_WITHOUT_HASHES 1u

EDGETX_API edgetx_status edgetx_package_open(const char *folder, uint32_t flags, edgetx_package **package);
EDGETX_API void edgetx_package_close(edgetx_package *package);
EDGETX_API const char *edgetx_package_name(const edgetx_package *package);
EDGETX_API const char *edgetx_package_architecture(const edgetx_package *package);
EDGETX_API const char *edgetx_package_precision(const edgetx_package *package);
/* "image-classification", "image-restoration", ...; "" where the package has no processor. */
EDGETX_API const char *edgetx_package_processor(const edgetx_package *package);
EDGETX_API size_t edgetx_package_input_count(const edgetx_package *package);
EDGETX_API size_t edgetx_package_output_count(const edgetx_package *package);
EDGETX_API edgetx_status edgetx_package_input(const edgetx_package *package, size_t index, edgetx_tensor_spec *spec);
EDGETX_API edgetx_status edgetx_package_output(const edgetx_package *package, size_t index, edgetx_tensor_spec *spec);

/* ---- sessions */

typedef struct edgetx_session_options {
  size_t struct_size;     /* sizeof(edgetx_session_options); edgetx_session_options_init sets it */
  const char *backend;    /* NULL or "onnxruntime"; "tensorrt": an engine that `edgetx build` left in the package */
  const char *library;    /* the engine's shared library; NULL: the variable EDGETX_ONNXRUNTIME or EDGETX_TENSORRT,
                             then the system's */
  const char *operators;  /* libedgetx_ort.so or, for TensorRT, libedgetx_trt.so; NULL: the variable EDGETX_OPS_LIBRARY
                             or EDGETX_PLUGIN_LIBRARY, then beside this library; "": none, operators run as standard
                             ONNX */
  int32_t threads;        /* 0: the engine's choice; of "onnxruntime" */
  int32_t device;         /* index of the GPU; of "tensorrt" */
} edgetx_session_options;

EDGETX_API void edgetx_session_options_init(edgetx_session_options *options);
/* `options` may be NULL. */
EDGETX_API edgetx_status edgetx_session_open(const edgetx_package *package, const edgetx_session_options *options,
                                             edgetx_session **session);
EDGETX_API void edgetx_session_close(edgetx_session *session);
/* One line: engine, version, threads, kernels. */
EDGETX_API const char *edgetx_session_describe(const edgetx_session *session);
/* Runs the model once. Names, types, ranks and sizes of the inputs are checked; values are not. */
EDGETX_API edgetx_status edgetx_session_run(edgetx_session *session, const edgetx_tensor *inputs, size_t count,
                                            edgetx_tensors **outputs);
/* The same with the tensors of a preprocessor. */
EDGETX_API edgetx_status edgetx_session_run_tensors(edgetx_session *session, const edgetx_tensors *inputs,
                                                    edgetx_tensors **outputs);

EDGETX_API size_t edgetx_tensors_count(const edgetx_tensors *tensors);
EDGETX_API edgetx_status edgetx_tensors_get(const edgetx_tensors *tensors, size_t index, edgetx_tensor *tensor);
EDGETX_API void edgetx_tensors_free(edgetx_tensors *tensors);

/* ---- before and after: what the package's processor does, bit for bit what `edgetx run` computes */

/* Resizes, crops and normalises a picture as the model was trained. Packages that classify, give features or restore
 * pictures of 3 channels; a picture to restore is continued by reflection to a size that the model takes. */
EDGETX_API edgetx_status edgetx_preprocess_rgb(const edgetx_package *package, const edgetx_image *image,
                                               edgetx_tensors **inputs);
/* The most probable classes, at most `capacity`, by softmax in float64; `count` says how many. Labels belong to the
 * package. */
EDGETX_API edgetx_status edgetx_top_classes(const edgetx_package *package, const edgetx_tensors *outputs,
                                            edgetx_class *classes, size_t capacity, size_t *count);
/* Width and height of the picture that a picture of this size becomes. */
EDGETX_API edgetx_status edgetx_restored_size(const edgetx_package *package, uint32_t width, uint32_t height,
                                              uint32_t *restored_width, uint32_t *restored_height);
/* The restored picture of that size, 8-bit RGB; `stride` bytes from row to row (0: 3 * width). */
EDGETX_API edgetx_status edgetx_restored_rgb(const edgetx_package *package, const edgetx_tensors *outputs,
                                             uint32_t width, uint32_t height, size_t stride, uint8_t *rgb);

#ifdef __cplusplus
}
#endif

#endif /* EDGETX_H_ */
