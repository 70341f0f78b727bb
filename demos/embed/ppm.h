/* Binary PPM (P6, 8 bits) in and out: the simplest picture format, which every image tool writes. */
#ifndef PPM_H_
#define PPM_H_

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The next number of the header; skips white space and comments. -1 if there is none. */
static inline long ppm_number(FILE *file) {
  int c = fgetc(file);
  while (c == '#' || isspace(c)) {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = fgetc(file);
    }
    c = fgetc(file);
  }
  long value = -1;
  for (; isdigit(c) && value < 100000000; c = fgetc(file)) value = (value < 0 ? 0 : value) * 10 + (c - '0');
  return value;
}

/* Pixels to be freed with free(), or NULL with the reason on stderr. */
static inline uint8_t *ppm_read(const char *path, uint32_t *width, uint32_t *height) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    fprintf(stderr, "cannot open %s\n", path);
    return NULL;
  }
  uint8_t *pixels = NULL;
  long w = 0, h = 0;
  if (fgetc(file) == 'P' && fgetc(file) == '6') {
    w = ppm_number(file);
    h = ppm_number(file);
    if (w > 0 && h > 0 && ppm_number(file) == 255) {
      const size_t bytes = (size_t)3 * (size_t)w * (size_t)h;
      pixels = (uint8_t *)malloc(bytes);
      if (pixels != NULL && fread(pixels, 1, bytes, file) != bytes) {
        free(pixels);
        pixels = NULL;
      }
    }
  }
  fclose(file);
  if (pixels == NULL) {
    fprintf(stderr, "%s is not a whole 8-bit binary PPM; make one with: convert picture.png picture.ppm\n", path);
    return NULL;
  }
  *width = (uint32_t)w;
  *height = (uint32_t)h;
  return pixels;
}

/* 0 on success, else the reason is on stderr. */
static inline int ppm_write(const char *path, const uint8_t *pixels, uint32_t width, uint32_t height) {
  FILE *file = fopen(path, "wb");
  const size_t bytes = (size_t)3 * width * height;
  int failed = file == NULL;
  if (!failed) {
    failed = fprintf(file, "P6\n%lu %lu\n255\n", (unsigned long)width, (unsigned long)height) < 0 ||
             fwrite(pixels, 1, bytes, file) != bytes;
    failed = fclose(file) != 0 || failed;
  }
  if (failed) fprintf(stderr, "cannot write %s\n", path);
  return failed;
}

#endif /* PPM_H_ */
