// The part of a pass that works on heads: rotate, append to the cache, attend, put together.
#include <algorithm>
#include <cmath>

#include "step.h"

namespace edge {

// Cosines and sines of `count` positions from `first` on. Source: Su et al., arXiv 2104.09864.
void Engine::turn(int first, int count, bool far) {
  const float* radians = far ? rope_far_ : rope_near_;
  const int half = spec_.rope_dims / 2;
  cos_.resize(size_t(count) * half);
  sin_.resize(cos_.size());
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < half; ++j) {
      const float angle = float(first + i) * radians[j];
      cos_[size_t(i) * half + j] = std::cos(angle) * spec_.rope_stretch;
      sin_[size_t(i) * half + j] = std::sin(angle) * spec_.rope_stretch;
    }
}

namespace {

// x (D,) → y (D,), its first 2 * half numbers turned in pairs, all of it times `scale`
void rotate(const float* x, const float* cos, const float* sin, int half, bool neighbours, int dim, float scale,
            float* y) {
  const int step = neighbours ? 2 : 1, apart = neighbours ? 1 : half;
  for (int j = 0; j < half; ++j) {
    const float a = x[step * j], b = x[step * j + apart];
    y[step * j] = (a * cos[j] - b * sin[j]) * scale;
    y[step * j + apart] = (b * cos[j] + a * sin[j]) * scale;
  }
  for (int j = 2 * half; j < dim; ++j) y[j] = x[j] * scale;
}

// Whether float16 holds all of LANES numbers: those from 65,520 on round to infinity.
bool in_f16(const float* x) {
  bool all = true;
  for (int i = 0; i < LANES; ++i) all &= std::fabs(x[i]) < 65520;
  return all;
}

}  // namespace

// Queries, keys turned to their positions; keys and values appended to the cache.
void Engine::place(int thread, const Layer& layer, int number) {
  const int d = spec_.head_dim, half = spec_.rope_dims / 2, kv = spec_.n_kv_heads;
  for (int unit; (unit = team_.take(thread, n_ * kv)) >= 0;) {
    const int t = unit / kv, g = unit % kv, i = t % per_row_, row = first_row_ + t / per_row_, at = used_ + i;
    const float *cos = cos_.data() + size_t(i) * half, *sin = sin_.data() + size_t(i) * half;
    for (int h = g * group_; h < (g + 1) * group_; ++h)
      rotate(q_ + t * ld_q_ + h * d, cos, sin, half, spec_.rope_neighbours, d, layer.scale,
             turned_ + (size_t(t) * spec_.n_heads + h) * dim_);
    float key[MAX_HEAD + 16] = {}, value[MAX_HEAD + 16] = {};
    rotate(k_ + t * ld_kv_ + g * d, cos, sin, half, spec_.rope_neighbours, d, 1, key);
    std::copy_n(v_ + t * ld_kv_ + g * d, d, value);
    const size_t to_k = (size_t(g) * room_ + at / LANES * LANES) * dim_ + at % LANES;  // [G][room/16][dim][16]
    char *ks = keys(number, row), *vs = values(number, row);                           // [G][dim/16][room][16]
    for (int j = 0; j < dim_; j += LANES) {
      const size_t to_v = (size_t(g) * dim_ + j) * room_ + size_t(at) * LANES;
      if (kv_item() == 2) {
        if (!in_f16(key + j) || !in_f16(value + j)) beyond_f16_.store(true, std::memory_order_relaxed);
        ops_->keep_f16(key + j, reinterpret_cast<uint16_t*>(ks) + to_k + size_t(j) * LANES, LANES, LANES);
        ops_->keep_f16(value + j, reinterpret_cast<uint16_t*>(vs) + to_v, LANES, 1);
      } else {
        for (int l = 0; l < LANES; ++l) reinterpret_cast<float*>(ks)[to_k + size_t(j + l) * LANES] = key[j + l];
        std::copy_n(value + j, LANES, reinterpret_cast<float*>(vs) + to_v);
      }
    }
  }
  team_.barrier();
}

// Up to TILE queries of a key head, counted token by token, over all their keys or one split of them.
void Engine::attend_unit(const Layer& layer, int number, int unit) {
  const int parts = splits(), kv = spec_.n_kv_heads, heads = spec_.n_heads;
  const int part = unit % parts, tile = unit / parts % tiles(), g = unit / parts / tiles() % kv;
  const int own = unit / parts / tiles() / kv;  // row within this pass
  const int first = tile * TILE, count = std::min(TILE, per_row_ * group_ - first);
  alignas(64) float q[TILE * MAX_HEAD], out[TILE * MAX_HEAD], top[TILE], sum[TILE];
  int from[TILE], to[TILE], low = room_, high = 0;
  for (int m = 0; m < count; ++m) {
    const int i = (first + m) / group_, h = g * group_ + (first + m) % group_;
    to[m] = used_ + i + 1;
    from[m] = layer.window ? std::max(0, to[m] - layer.window) : 0;
    if (parts > 1) {
      from[m] = std::max(from[m], part * LB_SPLIT);
      to[m] = std::min(to[m], (part + 1) * LB_SPLIT);
    }
    low = std::min(low, from[m]);
    high = std::max(high, to[m]);
    const int t = own * per_row_ + i;
    std::copy_n(turned_ + (size_t(t) * heads + h) * dim_, dim_, q + m * dim_);
  }
  const size_t head_bytes = size_t(room_) * dim_ * kv_item() * g;
  const int row = first_row_ + own;
  ops_->attend({kv_item() == 4, dim_, room_, keys(number, row) + head_bytes, values(number, row) + head_bytes,
                low / LANES * LANES, high, count, from, to, q, layer.cap, out, top, sum});
  for (int m = 0; m < count; ++m) {
    const int i = (first + m) / group_, h = g * group_ + (first + m) % group_;
    const size_t at = (size_t(own * per_row_ + i) * heads + h) * parts + part;
    std::copy_n(out + m * dim_, dim_, mixed_ + at * dim_);
    tops_[at] = top[m];
    sums_[at] = sum[m];
  }
}

void Engine::attend(int thread, const Layer& layer, int number) {
  const int units = (n_ / per_row_) * spec_.n_kv_heads * tiles() * splits();
  for (int unit; (unit = team_.take(thread, units)) >= 0;) attend_unit(layer, number, unit);
  team_.barrier();
}

// The heads' sums, their splits put together, as the input of the output projection.
void Engine::gather(int thread, unsigned wanted) {
  Inputs& in = copy(thread).of_heads;
  const int d = spec_.head_dim, heads = spec_.n_heads, parts = splits();
  for_tokens(thread, [&](int t) {
    for (int h = 0; h < heads; ++h) {
      float* out = in.f32 + long(t) * in.cols + h * d;
      const size_t at = (size_t(t) * heads + h) * parts;
      float top = tops_[at], total = 0;
      for (int p = 1; p < parts; ++p) top = std::max(top, tops_[at + p]);
      std::fill_n(out, d, 0.0f);
      for (int p = 0; p < parts; ++p) {
        if (sums_[at + p] == 0) continue;  // a split of which this query sees nothing
        const float share = parts == 1 ? 1 : std::exp(tops_[at + p] - top);
        total += sums_[at + p] * share;
        const float* from = mixed_ + (at + p) * dim_;
        for (int j = 0; j < d; ++j) out[j] += from[j] * share;
      }
      for (int j = 0; j < d; ++j) out[j] /= total;
    }
    to_inputs(in, t, heads * d, wanted);
  });
}

}  // namespace edge
