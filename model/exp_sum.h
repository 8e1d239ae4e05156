/* exp_sum - e^x and sums of it that have the same bits on every machine.
 *
 * libm's exp differs between cpus (with and without fused multiply-add), and a draw that falls on another token because of
 * the last bit is another completion. These use IEEE add, subtract, multiply and divide in a fixed order, nothing else. */
#ifndef ROUSE_MODEL_EXP_SUM_H
#define ROUSE_MODEL_EXP_SUM_H

#include <stdint.h>

/* e^x for x <= 0 to 1e-11 of its value; 0 below -708, where it would be subnormal. */
double model_exp(double x);

/* ln x for finite x >= 1, to 2e-16 of its value or of 1. */
double model_log(double x);

/* Sum over i of model_exp((scores[i] - max) * scale), scores[i] <= max, scale > 0. The second is the plain twin of what the
 * first uses on a cpu with AVX2: element i goes to partial sum i mod 8, what is left over behind them. */
double model_exp_sum(const float *scores, uint32_t n, float max, double scale);
double model_exp_sum_plain(const float *scores, uint32_t n, float max, double scale);

#endif
