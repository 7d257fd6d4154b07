/* The control loop in C: load a policy, feed raw observations at the control rate, get one action per tick.
 *
 *   shallowpi_policy *policy;
 *   shallowpi_controller *controller;
 *   shallowpi_controller_options options;
 *   if (shallowpi_policy_load("runs/l6/last", NULL, &policy)) fail(shallowpi_last_error());
 *   shallowpi_controller_defaults(policy, &options);
 *   if (shallowpi_controller_create(policy, &options, &controller)) fail(shallowpi_last_error());
 *   shallowpi_controller_reset(controller, current_command, dims);  // sent until the first chunk is there
 *   while (running) {
 *     if (shallowpi_controller_tick(controller, &observation, action, dims, NULL)) fail(...);
 *     ... send `action`, wait for the next control period ...
 *   }
 *
 * Functions that return int return 0, or else one of the codes below, and shallowpi_last_error() says what is
 * wrong. No exception crosses this boundary. Handles may be used from any thread, each from one at a time.
 * What the fields mean in detail: runtime/action_chunking.h. */
#ifndef SHALLOWPI_RUNTIME_SHALLOWPI_H_
#define SHALLOWPI_RUNTIME_SHALLOWPI_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  SHALLOWPI_OK = 0,
  SHALLOWPI_FAILED = 1,  /* such as no memory */
  SHALLOWPI_USAGE = 2,   /* an argument, an observation or an option is wrong */
  SHALLOWPI_CORRUPT = 3  /* the checkpoint's files are damaged */
};

typedef struct shallowpi_policy shallowpi_policy;
typedef struct shallowpi_controller shallowpi_controller;

/* What the last failed call of this thread had to say; "" where none has failed. Valid until the next one
 * fails. */
const char *shallowpi_last_error(void);

/* Zeros are the defaults. */
typedef struct {
  const char *device;    /* "cpu", "cuda:0"; NULL: "auto" */
  const char *dtype;     /* "float32", "bfloat16"; NULL: "auto" */
  int32_t horizon;       /* actions per chunk, 1 to 10000, where the folder does not say it (openpi's); 0: the folder's */
  const char *tokenizer; /* a SentencePiece file; NULL: the folder's, else openpi's or Hugging Face's copy */
} shallowpi_policy_options;

/* Loads our, openpi's or LeRobot's checkpoint folder. `options` may be NULL. */
int shallowpi_policy_load(const char *checkpoint, const shallowpi_policy_options *options,
                          shallowpi_policy **policy);
/* Controllers of the policy may live on. NULL is allowed, here and below. */
void shallowpi_policy_free(shallowpi_policy *policy);
int32_t shallowpi_policy_horizon(const shallowpi_policy *policy);    /* actions per chunk */
int32_t shallowpi_policy_state_dim(const shallowpi_policy *policy);  /* of raw states */
int32_t shallowpi_policy_action_dim(const shallowpi_policy *policy); /* of actions in robot units */
int32_t shallowpi_policy_camera_count(const shallowpi_policy *policy);
/* The name of a camera that observations have, 0 to count - 1, such as "base_0_rgb"; NULL where there is no such one. Valid as
 * long as the policy. */
const char *shallowpi_policy_camera(const shallowpi_policy *policy, int32_t index);

enum { SHALLOWPI_ENSEMBLE = 0, SHALLOWPI_RECEDING = 1, SHALLOWPI_RTC = 2 };

typedef struct {
  int32_t mode;            /* SHALLOWPI_ENSEMBLE, ... */
  int32_t execute;         /* ticks from one request to the next, at least 1 */
  int32_t expected_delay;  /* ticks from a request to its answer; 0: not known */
  double control_hz;       /* only converts latencies */
  double ensemble_decay;   /* ACT's m */
  int32_t steps;           /* Euler steps, 1 to 1000 */
  uint64_t seed;           /* of the noise */
  double noise_scale;      /* times the noise, 0 to 2: at 0 chunks are steadiest */
  /* [action_dim] 1 where an action is a displacement or a velocity, which is held at 0 when no chunk has an action, and
   * not at its last value; NULL: as the policy's robot has it (LIBERO's displacements; positions of any other). Copied. */
  const uint8_t *relative_dims;
} shallowpi_controller_options;

/* Options that suit the policy. */
int shallowpi_controller_defaults(const shallowpi_policy *policy, shallowpi_controller_options *options);
/* Starts the inference thread. SHALLOWPI_USAGE with the numbers where chunks are too short for the delay. */
int shallowpi_controller_create(const shallowpi_policy *policy, const shallowpi_controller_options *options,
                                shallowpi_controller **controller);
/* Waits for the inference under way. */
void shallowpi_controller_free(shallowpi_controller *controller);

/* A new episode. `initial` [dims]: the action until the first chunk arrives; NULL: there is none. */
int shallowpi_controller_reset(shallowpi_controller *controller, const float *initial, size_t dims);

typedef struct {
  const char *camera;    /* "base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb", or the policy's own */
  const uint8_t *pixels; /* height x width x 3, RGB, top row first */
  int32_t height, width; /* 1 to 16384 */
} shallowpi_image;

typedef struct {
  const shallowpi_image *images;
  size_t image_count;
  const float *state; /* [state_dim] raw robot units */
  size_t state_dim;
  const char *prompt; /* UTF-8; NULL or "": the policy's default */
} shallowpi_observation;

enum { SHALLOWPI_WAITING = 0, SHALLOWPI_ACTING = 1, SHALLOWPI_HOLDING = 2 };

typedef struct {
  int64_t tick;
  int32_t status;     /* SHALLOWPI_WAITING: no chunk has arrived yet; SHALLOWPI_HOLDING: none has an action */
  int32_t new_chunk;  /* 1 at the first tick of a chunk */
  int64_t age;        /* ticks since the newest observation behind the action; -1: none */
  double latency_ms;  /* of the last answer; 0 before the first */
} shallowpi_tick;

/* Call once per control period; never waits for inference. Everything is copied before it returns. Writes
 * `action` [dims]; dims must be the policy's action_dim. While waiting without an initial action, `action` is
 * left untouched: look at tick->status. `tick` may be NULL. A wrong observation (an unknown or a missing
 * camera, a state of another width or not finite, no prompt, or one that is too long with the state that it holds: then raise
 * the policy's max_token_len) is refused with SHALLOWPI_USAGE: no action is
 * written and the tick does not count. A failed inference is not an error here, but counted. */
int shallowpi_controller_tick(shallowpi_controller *controller, const shallowpi_observation *observation,
                              float *action, size_t dims, shallowpi_tick *tick);

typedef struct {
  int64_t requests, accepted, late, expired, failed, invalid, unknown, waiting_ticks, held_ticks;
} shallowpi_counters;

int shallowpi_controller_counters(const shallowpi_controller *controller, shallowpi_counters *counters);
/* Why the last answer could not be used; "" where it could, or there was none. Valid until the next tick. */
const char *shallowpi_controller_fault(const shallowpi_controller *controller);

#ifdef __cplusplus
}
#endif

#endif /* SHALLOWPI_RUNTIME_SHALLOWPI_H_ */
