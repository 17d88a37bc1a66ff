// SPDX-License-Identifier: Apache-2.0
#include "support/reference.hpp"

#include <cmath>
#include <cstdint>

#include "support/tolerance.hpp"

namespace gru::test {
namespace {

double logistic(double a) {
  return a >= 0 ? 1 / (1 + std::exp(-a)) : std::exp(a) / (1 + std::exp(a));
}

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

double or_zero(Values const& values, std::int64_t i) {
  return values.empty() ? 0 : values[at(i)];
}

/// Whether the word of a draw keeps its element.
bool kept(Layer const& layer, std::uint64_t counter, std::uint64_t word, double rate) {
  PhiloxWords const words = philox(layer.random.seed, layer.random.offset, counter);
  return static_cast<double>(words.word[word]) >= std::floor(rate * 4294967296.0);
}

bool is_on(Layer const& layer, Dropping const& option) {
  return layer.problem.stochastic && (option.rate > 0 || option.mask == MaskSource::kCaller);
}

/// The weight of the new state: m, or 1 - p in inference.
double zoneout_weight(Layer const& layer, std::int64_t t, std::int64_t n, std::int64_t unit) {
  Dropping const& option = layer.problem.zoneout;
  if (!layer.problem.stochastic) return 1 - option.rate;
  if (!is_on(layer, option)) return 1;
  std::int64_t const N = layer.N();
  std::int64_t const H = layer.H();
  if (option.mask == MaskSource::kCaller) return layer.zoneout_mask[at((t * N + n) * H + unit)];
  auto const i = static_cast<std::uint64_t>(((t / 4) * N + n) * H + unit);
  return kept(layer, i, static_cast<std::uint64_t>(t % 4), option.rate) ? 1 : 0;
}

/// M / (1 - p), the factor on an element of R; gates 0 z, 1 r, 2 g.
double weight_factor(Layer const& layer, std::int64_t k, std::int64_t gate, std::int64_t unit) {
  Dropping const& option = layer.problem.dropconnect;
  if (!is_on(layer, option)) return 1;
  auto const e = static_cast<std::uint64_t>((k * 3 + gate) * layer.H() + unit);
  bool const keep = option.mask == MaskSource::kCaller
                        ? layer.dropconnect_mask[e] != 0
                        : kept(layer, (1ULL << 63) + e / 4, e % 4, option.rate);
  return keep ? 1 / (1 - option.rate) : 0;
}

/// The factor on the state where it enters R.
double state_factor(Layer const& layer, std::int64_t n, std::int64_t unit) {
  Dropping const& option = layer.problem.recurrent_dropout;
  if (!is_on(layer, option)) return 1;
  auto const e = static_cast<std::uint64_t>(n * layer.H() + unit);
  bool const keep = option.mask == MaskSource::kCaller
                        ? layer.recurrent_dropout_mask[e] != 0
                        : kept(layer, (1ULL << 63) + (1ULL << 62) + e / 4, e % 4, option.rate);
  return keep ? 1 / (1 - option.rate) : 0;
}

/// Whether an episode boundary lies between step t and the step done before it.
bool is_cleared(Layer const& layer, std::int64_t t, std::int64_t n) {
  if (!layer.problem.episode_starts) return false;
  bool const reverse = layer.problem.direction == Direction::kReverse;
  std::int64_t const later = reverse ? t + 1 : t;
  return later < layer.length(n) && layer.episode_starts[at(later * layer.N() + n)] != 0;
}

/// What one step of one sample computes.
struct Step {
  std::int64_t t = 0;
  bool cleared = false;
  Values s;          // the state that enters
  Values e;          // the state as it enters R
  Values w;          // the weight of the new state
  Values z, r, g;    // the gates
  Values new_share;  // 1 - z, without cancellation
  Values q_g;        // reset after: the candidate's recurrent part
};

class Reference {
 public:
  explicit Reference(Layer const& layer) : layer_{layer}, factors_(at(3 * H() * H())) {
    for (std::int64_t k = 0; k < H(); ++k) {
      for (std::int64_t gate = 0; gate < 3; ++gate) {
        for (std::int64_t unit = 0; unit < H(); ++unit) {
          factors_[column(k, gate, unit)] = weight_factor(layer, k, gate, unit);
        }
      }
    }
  }

  Results operator()() {
    Results& out = results_;
    out.h.assign(at(T() * N() * H()), 0);
    out.final_state.assign(at(N() * H()), 0);
    out.dx.assign(at(T() * N() * C()), 0);
    out.dkernel.assign(at(C() * 3 * H()), 0);
    out.drecurrent_kernel.assign(at(H() * 3 * H()), 0);
    out.dbias.assign(at(3 * H()), 0);
    out.drecurrent_bias.assign(at(3 * H()), 0);
    out.dh0.assign(at(N() * H()), 0);
    for (std::int64_t n = 0; n < N(); ++n) {
      std::vector<Step> const steps = forward(n);
      if (layer_.problem.keep_for_backward) backward(n, steps);
    }
    finish();
    return out;
  }

 private:
  std::int64_t T() const { return layer_.T(); }
  std::int64_t N() const { return layer_.N(); }
  std::int64_t C() const { return layer_.C(); }
  std::int64_t H() const { return layer_.H(); }
  bool resets_after() const { return layer_.problem.variant == Variant::kResetAfter; }

  /// Index of a gate's unit in row k of W or R.
  std::size_t column(std::int64_t k, std::int64_t gate, std::int64_t unit) const {
    return at((k * 3 + gate) * H() + unit);
  }

  /// R * M / (1 - p).
  double recurrent_weight(std::int64_t k, std::int64_t gate, std::int64_t unit) const {
    std::size_t const i = column(k, gate, unit);
    return layer_.recurrent_kernel[i] * factors_[i];
  }

  /// (x W + bx) of a gate's unit.
  double input_part(std::int64_t t, std::int64_t n, std::int64_t gate, std::int64_t unit) const {
    double sum = or_zero(layer_.bias, gate * H() + unit);
    for (std::int64_t c = 0; c < C(); ++c) {
      sum += layer_.x[at((t * N() + n) * C() + c)] * layer_.kernel[column(c, gate, unit)];
    }
    return sum;
  }

  /// (v R + br) of a gate's unit.
  double recurrent_part(Values const& v, std::int64_t gate, std::int64_t unit) const {
    double sum = or_zero(layer_.recurrent_bias, gate * H() + unit);
    for (std::int64_t k = 0; k < H(); ++k) sum += v[at(k)] * recurrent_weight(k, gate, unit);
    return sum;
  }

  std::vector<Step> forward(std::int64_t n) {
    std::int64_t const length = layer_.length(n);
    bool const reverse = layer_.problem.direction == Direction::kReverse;
    Values state(at(H()));
    for (std::int64_t u = 0; u < H(); ++u) state[at(u)] = or_zero(layer_.h0, n * H() + u);
    std::vector<Step> steps;
    for (std::int64_t i = 0; i < length; ++i) {
      Step step;
      step.t = reverse ? length - 1 - i : i;
      step.cleared = is_cleared(layer_, step.t, n);
      step.s = step.cleared ? Values(at(H()), 0) : state;
      do_step(step, n);
      for (std::int64_t u = 0; u < H(); ++u) {
        double const c = step.z[at(u)] * step.s[at(u)] + step.new_share[at(u)] * step.g[at(u)];
        double const w = zoneout_weight(layer_, step.t, n, u);
        step.w.push_back(w);
        state[at(u)] = w * c + (1 - w) * step.s[at(u)];
        results_.h[at((step.t * N() + n) * H() + u)] = state[at(u)];
      }
      steps.push_back(std::move(step));
    }
    for (std::int64_t u = 0; u < H(); ++u) results_.final_state[at(n * H() + u)] = state[at(u)];
    return steps;
  }

  /// Fills e, z, r, g and q_g.
  void do_step(Step& step, std::int64_t n) const {
    for (std::int64_t u = 0; u < H(); ++u) {
      step.e.push_back(step.s[at(u)] * state_factor(layer_, n, u));
    }
    for (std::int64_t u = 0; u < H(); ++u) {
      double const a_z = input_part(step.t, n, 0, u) + recurrent_part(step.e, 0, u);
      step.z.push_back(logistic(a_z));
      step.new_share.push_back(logistic(-a_z));
      step.r.push_back(logistic(input_part(step.t, n, 1, u) + recurrent_part(step.e, 1, u)));
    }
    Values reset_state;
    for (std::int64_t u = 0; u < H(); ++u) reset_state.push_back(step.r[at(u)] * step.e[at(u)]);
    for (std::int64_t u = 0; u < H(); ++u) {
      double const p_g = input_part(step.t, n, 2, u);
      if (resets_after()) {
        step.q_g.push_back(recurrent_part(step.e, 2, u));
        step.g.push_back(std::tanh(p_g + step.r[at(u)] * step.q_g.back()));
      } else {
        step.g.push_back(std::tanh(p_g + recurrent_part(reset_state, 2, u)));
      }
    }
  }

  void backward(std::int64_t n, std::vector<Step> const& steps) {
    Values carried(at(H()));  // the gradient of the state that a step leaves
    for (std::int64_t u = 0; u < H(); ++u) {
      carried[at(u)] = or_zero(layer_.dfinal_state, n * H() + u);
    }
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      for (std::int64_t u = 0; u < H(); ++u) {
        carried[at(u)] += or_zero(layer_.dh, (step->t * N() + n) * H() + u);
      }
      carried = step_backward(*step, n, carried);
      if (step->cleared) carried.assign(at(H()), 0);
    }
    for (std::int64_t u = 0; u < H(); ++u) results_.dh0[at(n * H() + u)] = carried[at(u)];
  }

  /// Adds to the gradients of x and the weights; gives the gradient of the entering state.
  Values step_backward(Step const& step, std::int64_t n, Values const& dnew) {
    std::int64_t const H = this->H();
    Values da_z, da_r(at(H)), da_g;
    Values ds;            // of s, besides what goes through R
    Values de(at(H), 0);  // of e
    Values dq_g(at(H));   // of the candidate's product with R
    Values v_g = step.e;  // what that product multiplies
    for (std::int64_t i = 0; i < H; ++i) {
      std::size_t const u = at(i);
      double const dc = step.w[u] * dnew[u];
      ds.push_back((1 - step.w[u]) * dnew[u] + dc * step.z[u]);
      da_z.push_back(dc * (step.s[u] - step.g[u]) * step.z[u] * step.new_share[u]);
      da_g.push_back(dc * step.new_share[u] * (1 - step.g[u] * step.g[u]));
    }
    for (std::int64_t i = 0; i < H; ++i) {
      std::size_t const u = at(i);
      double const slope = step.r[u] * (1 - step.r[u]);
      if (resets_after()) {
        da_r[u] = da_g[u] * step.q_g[u] * slope;
        dq_g[u] = da_g[u] * step.r[u];
      } else {
        double du = 0;  // of r * e
        for (std::int64_t j = 0; j < H; ++j) du += da_g[at(j)] * recurrent_weight(i, 2, j);
        da_r[u] = du * step.e[u] * slope;
        de[u] += du * step.r[u];
        dq_g[u] = da_g[u];
        v_g[u] = step.r[u] * step.e[u];
      }
    }
    Values const* const dp[3] = {&da_z, &da_r, &da_g};
    Values const* const dq[3] = {&da_z, &da_r, &dq_g};
    for (std::int64_t gate = 0; gate < 3; ++gate) {
      for (std::int64_t j = 0; j < H; ++j) {
        double const p = (*dp[gate])[at(j)];
        double const q = (*dq[gate])[at(j)];
        results_.dbias[at(gate * H + j)] += p;
        results_.drecurrent_bias[at(gate * H + j)] += q;
        for (std::int64_t c = 0; c < C(); ++c) {
          std::size_t const x = at((step.t * N() + n) * C() + c);
          results_.dkernel[column(c, gate, j)] += layer_.x[x] * p;
          results_.dx[x] += layer_.kernel[column(c, gate, j)] * p;
        }
        bool const through_reset_state = gate == 2 && !resets_after();
        for (std::int64_t k = 0; k < H; ++k) {
          double const v = gate == 2 ? v_g[at(k)] : step.e[at(k)];
          results_.drecurrent_kernel[column(k, gate, j)] += v * q * factors_[column(k, gate, j)];
          if (!through_reset_state) de[at(k)] += recurrent_weight(k, gate, j) * q;
        }
      }
    }
    for (std::int64_t u = 0; u < H; ++u) ds[at(u)] += de[at(u)] * state_factor(layer_, n, u);
    return ds;
  }

  /// Accumulates where asked, and drops what is not wanted.
  void finish() {
    Wanted const& wanted = layer_.wanted;
    Accumulate const& add = layer_.problem.accumulate;
    bool const backward = layer_.problem.keep_for_backward;
    auto const settle = [](Values& values, bool keep, bool adds, Values const& held) {
      if (!keep) values.clear();
      if (!adds || held.empty()) return;
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += held[i];
    };
    Results const& held = layer_.held;
    Results& out = results_;
    settle(out.final_state, wanted.final_state, false, {});
    settle(out.dx, backward && wanted.dx, add.dx, held.dx);
    settle(out.dkernel, backward && wanted.dkernel, add.dkernel, held.dkernel);
    settle(out.drecurrent_kernel, backward && wanted.drecurrent_kernel, add.drecurrent_kernel,
           held.drecurrent_kernel);
    settle(out.dbias, backward && wanted.dbias, add.dbias, held.dbias);
    settle(out.drecurrent_bias, backward && wanted.drecurrent_bias, add.drecurrent_bias,
           held.drecurrent_bias);
    settle(out.dh0, backward && wanted.dh0, add.dh0, held.dh0);
  }

  Layer const& layer_;
  Values factors_;  // on the elements of R
  Results results_;
};

}  // namespace

Results reference(Layer const& layer) {
  return Reference{layer}();
}

std::vector<Differentiable> const& differentiable_inputs() {
  static std::vector<Differentiable> const all = [] {
    std::vector<Values Layer::*> const inputs{
        &Layer::x,    &Layer::kernel,         &Layer::recurrent_kernel,
        &Layer::bias, &Layer::recurrent_bias, &Layer::h0};
    std::vector<Differentiable> made;
    for (NamedResult const& result : named_results()) {
      if (result.is_gradient) made.push_back({result, inputs[made.size()]});
    }
    return made;
  }();
  return all;
}

Layer prepared_for_slopes(Layer layer) {
  layer.problem.keep_for_backward = false;
  layer.wanted = {};
  auto const fill = [](Values& values, std::int64_t size) {
    if (values.empty()) values.assign(at(size), 0);
  };
  fill(layer.h0, layer.N() * layer.H());
  fill(layer.bias, 3 * layer.H());
  fill(layer.recurrent_bias, 3 * layer.H());
  return layer;
}

double slope(Layer const& layer, Values Layer::*input, Values const& direction, double distance,
             Forward const& forward) {
  auto const loss = [&](double steps) {
    Layer moved = layer;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      (moved.*input)[i] += steps * distance * direction[i];
    }
    Results const results = forward(moved);
    long double sum = 0;  // in double its rounding would outweigh that of the values
    for (std::int64_t n = 0; n < layer.N(); ++n) {
      for (std::int64_t u = 0; u < layer.H(); ++u) {
        for (std::int64_t t = 0; t < layer.length(n); ++t) {
          std::int64_t const i = (t * layer.N() + n) * layer.H() + u;
          sum += or_zero(layer.dh, i) * results.h[at(i)];
        }
        std::int64_t const i = n * layer.H() + u;
        sum += or_zero(layer.dfinal_state, i) * results.final_state[at(i)];
      }
    }
    return static_cast<double>(sum);
  };
  double const near = loss(1) - loss(-1);
  double const far = loss(2) - loss(-2);
  return (8 * near - far) / (12 * distance);
}

Results finite_differences(Layer const& layer, Forward const& forward) {
  Layer const point = prepared_for_slopes(layer);
  Results results;
  for (Differentiable const& d : differentiable_inputs()) {
    Values direction((point.*d.input).size(), 0);
    for (double& element : direction) {
      element = 1;
      (results.*d.gradient.values)
          .push_back(slope(point, d.input, direction, finite_difference_distance(DataType::kDouble),
                           forward));
      element = 0;
    }
  }
  return results;
}

Layer with_masks_brought(Layer const& layer) {
  Layer out = layer;
  std::int64_t const H = layer.H();
  auto const bring = [](Dropping& option, Bytes& mask) {
    option.mask = MaskSource::kCaller;
    mask.clear();
  };
  bring(out.problem.zoneout, out.zoneout_mask);
  bring(out.problem.dropconnect, out.dropconnect_mask);
  bring(out.problem.recurrent_dropout, out.recurrent_dropout_mask);
  for (std::int64_t t = 0; t < layer.T(); ++t) {
    for (std::int64_t n = 0; n < layer.N(); ++n) {
      for (std::int64_t u = 0; u < H; ++u) {
        out.zoneout_mask.push_back(zoneout_weight(layer, t, n, u) != 0);
      }
    }
  }
  for (std::int64_t k = 0; k < H; ++k) {
    for (std::int64_t gate = 0; gate < 3; ++gate) {
      for (std::int64_t u = 0; u < H; ++u) {
        out.dropconnect_mask.push_back(weight_factor(layer, k, gate, u) != 0);
      }
    }
  }
  for (std::int64_t n = 0; n < layer.N(); ++n) {
    for (std::int64_t u = 0; u < H; ++u) {
      out.recurrent_dropout_mask.push_back(state_factor(layer, n, u) != 0);
    }
  }
  return out;
}

}  // namespace gru::test
