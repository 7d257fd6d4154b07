/* The C API from a program that a C compiler compiled: the quickstart's policy on made-up observations. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shallowpi/runtime/shallowpi.h"

#define CHECK(condition)                                                                         \
  do {                                                                                           \
    if (!(condition)) {                                                                          \
      fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, shallowpi_last_error()); \
      exit(1);                                                                                   \
    }                                                                                            \
  } while (0)

enum { kSide = 64, kMaxDims = 32 };

static int says(const char *text) {
  return strstr(shallowpi_last_error(), text) != NULL;
}

static void nap(void) {
  const struct timespec period = {0, 5 * 1000 * 1000};
  nanosleep(&period, NULL);
}

/* What `serve` refuses is refused here too, at once, and no action is written. */
static void check_refused(shallowpi_controller *controller, const shallowpi_observation *observation,
                          const char *why) {
  float action[kMaxDims] = {0};
  const float untouched[kMaxDims] = {0};
  CHECK(shallowpi_controller_tick(controller, observation, action, 7, NULL) == SHALLOWPI_USAGE);
  CHECK(says(why) && memcmp(action, untouched, sizeof action) == 0);
}

static void check_observations(shallowpi_controller *controller, const shallowpi_observation *good) {
  shallowpi_observation wrong = *good;
  shallowpi_image images[2] = {good->images[0], good->images[1]};
  float state[8] = {0};
  wrong.images = images;
  wrong.state = state;
  wrong.image_count = 1;
  check_refused(controller, &wrong, "camera left_wrist_0_rgb is missing");
  wrong.image_count = 0;
  check_refused(controller, &wrong, "no image");
  wrong.image_count = 2;
  images[0].camera = "the moon";
  check_refused(controller, &wrong, "the moon");
  images[0].camera = images[1].camera;
  check_refused(controller, &wrong, "camera left_wrist_0_rgb is there twice");
  images[0].camera = NULL;
  check_refused(controller, &wrong, "camera is NULL");
  images[0].camera = good->images[0].camera;
  images[1].height = 0;
  check_refused(controller, &wrong, "0 x 64");
  images[1].height = kSide;
  state[3] = NAN;
  check_refused(controller, &wrong, "not finite: value 3");
  state[3] = 0;
  wrong.prompt = NULL;
  check_refused(controller, &wrong, "prompt is empty");
}

static void check_errors(const shallowpi_policy *policy, shallowpi_controller *controller,
                         shallowpi_observation observation) {
  shallowpi_controller_options options;
  shallowpi_controller *other = NULL;
  shallowpi_policy_options how;
  shallowpi_policy *missing = NULL;
  float action[kMaxDims];
  CHECK(shallowpi_policy_load("/nowhere", NULL, &missing) == SHALLOWPI_USAGE);
  CHECK(says("/nowhere") && missing == NULL);
  CHECK(shallowpi_policy_load(NULL, NULL, &missing) == SHALLOWPI_USAGE && says("checkpoint is NULL"));
  memset(&how, 0, sizeof how);
  how.device = "tpu";
  CHECK(shallowpi_policy_load("/nowhere", &how, &missing) == SHALLOWPI_USAGE && says("tpu"));
  how.device = NULL;
  how.horizon = -1;
  CHECK(shallowpi_policy_load("/nowhere", &how, &missing) == SHALLOWPI_USAGE && says("horizon -1"));
  how.horizon = 10001;
  CHECK(shallowpi_policy_load("/nowhere", &how, &missing) == SHALLOWPI_USAGE && says("from 1 to 10000"));

  CHECK(shallowpi_controller_defaults(policy, &options) == SHALLOWPI_OK);
  options.expected_delay = 1000;
  CHECK(shallowpi_controller_create(policy, &options, &other) == SHALLOWPI_USAGE && says("too short"));
  options.expected_delay = 0;
  options.noise_scale = 3;
  CHECK(shallowpi_controller_create(policy, &options, &other) == SHALLOWPI_USAGE && says("noise_scale 3"));
  options.noise_scale = 0;
  options.mode = 7;
  CHECK(shallowpi_controller_create(policy, &options, &other) == SHALLOWPI_USAGE && says("mode 7"));
  CHECK(other == NULL);

  CHECK(shallowpi_controller_tick(controller, NULL, action, 7, NULL) == SHALLOWPI_USAGE);
  CHECK(says("observation is NULL"));
  CHECK(shallowpi_controller_tick(controller, &observation, action, 6, NULL) == SHALLOWPI_USAGE);
  CHECK(says("room for 6"));
  CHECK(shallowpi_controller_reset(controller, action, 3) == SHALLOWPI_USAGE && says("3 dims"));
  observation.state_dim = 5;
  CHECK(shallowpi_controller_tick(controller, &observation, action, 7, NULL) == SHALLOWPI_USAGE);
  CHECK(says("the state has 5 dims"));
}

/* openpi's folders do not say the horizon, and have no tokenizer. */
static void check_policy_options(const char *checkpoint) {
  shallowpi_policy_options how;
  shallowpi_policy *policy = NULL;
  memset(&how, 0, sizeof how);
  how.device = "cpu";
  how.horizon = 7;
  CHECK(shallowpi_policy_load(checkpoint, &how, &policy) == SHALLOWPI_OK);
  CHECK(shallowpi_policy_horizon(policy) == 7);
  shallowpi_policy_free(policy);
  how.tokenizer = "/nowhere/tokenizer.model";
  CHECK(shallowpi_policy_load(checkpoint, &how, &policy) != SHALLOWPI_OK && says("/nowhere/tokenizer.model"));
  CHECK(policy == NULL);
}

int main(int argc, char **argv) {
  shallowpi_policy *policy = NULL;
  shallowpi_policy_options how;
  shallowpi_controller *controller = NULL;
  shallowpi_controller_options options;
  shallowpi_counters counters;
  shallowpi_tick tick;
  float state[kMaxDims] = {0}, action[kMaxDims];
  const float initial[7] = {0, 0, 0, 0, 0, 0, -1};
  const uint8_t velocities[7] = {1, 1, 1, 1, 1, 1, 0};
  int acting = 0, dim, ticks;
  uint8_t *pixels = malloc(kSide * kSide * 3);
  shallowpi_image images[2];
  shallowpi_observation observation;

  CHECK(argc == 2);
  CHECK(pixels != NULL);
  memset(pixels, 100, kSide * kSide * 3);
  CHECK(strcmp(shallowpi_last_error(), "") == 0);
  check_policy_options(argv[1]);
  memset(&how, 0, sizeof how);
  how.device = "cpu";
  how.dtype = "float32";
  CHECK(shallowpi_policy_load(argv[1], &how, &policy) == SHALLOWPI_OK);
  CHECK(shallowpi_policy_camera_count(policy) == 2 && shallowpi_policy_camera_count(NULL) == 0);
  CHECK(strcmp(shallowpi_policy_camera(policy, 0), "base_0_rgb") == 0);
  CHECK(shallowpi_policy_camera(policy, 2) == NULL && shallowpi_policy_camera(policy, -1) == NULL);
  CHECK(shallowpi_policy_state_dim(policy) == 8 && shallowpi_policy_action_dim(policy) == 7);
  CHECK(shallowpi_controller_defaults(policy, &options) == SHALLOWPI_OK);
  CHECK(options.execute >= 1 && options.execute <= shallowpi_policy_horizon(policy));
  options.steps = 2;
  options.relative_dims = velocities;
  CHECK(shallowpi_controller_create(policy, &options, &controller) == SHALLOWPI_OK);

  images[0].camera = "base_0_rgb";
  images[1].camera = "left_wrist_0_rgb";
  images[0].pixels = images[1].pixels = pixels;
  images[0].height = images[1].height = images[0].width = images[1].width = kSide;
  observation.images = images;
  observation.image_count = 2;
  observation.state = state;
  observation.state_dim = 8;
  observation.prompt = "pick up the butter";
  check_errors(policy, controller, observation);
  check_observations(controller, &observation);

  CHECK(shallowpi_controller_reset(controller, initial, 7) == SHALLOWPI_OK);
  shallowpi_policy_free(policy); /* the controller keeps what it needs */
  for (ticks = 0; ticks < 12000 && acting < 10; ++ticks) {
    CHECK(shallowpi_controller_tick(controller, &observation, action, 7, &tick) == SHALLOWPI_OK);
    CHECK(tick.tick == ticks);
    if (tick.status == SHALLOWPI_WAITING) CHECK(memcmp(action, initial, sizeof initial) == 0);
    for (dim = 0; dim < 7; ++dim) CHECK(isfinite(action[dim]));
    acting += tick.status == SHALLOWPI_ACTING;
    nap();
  }
  CHECK(acting == 10);
  CHECK(tick.latency_ms > 0);
  CHECK(memcmp(action, initial, sizeof initial) != 0);

  CHECK(shallowpi_controller_counters(controller, &counters) == SHALLOWPI_OK);
  CHECK(counters.failed == 0 && counters.accepted > 0);
  CHECK(strcmp(shallowpi_controller_fault(controller), "") == 0);

  shallowpi_controller_free(controller);
  shallowpi_controller_free(NULL);
  shallowpi_policy_free(NULL);
  free(pixels);
  puts("the C API works");
  return 0;
}
