// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "layer.hpp"

namespace gru_torch {

using ForwardResults = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using BackwardResults =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// The kernels of both ops for one kind of device. `Backend` is made for the time of a call:
///
///   Backend(at::Tensor const& x)      makes x's device the current one
///   place(gru::adapter::Allocate)     where the launchers run
///   forward(...), backward(...)       the launchers
template <typename Backend>
struct Kernels {
  static ForwardResults forward(at::Tensor const& x, at::Tensor const& w_ih, at::Tensor const& w_hh,
                                OptionalTensor const& b_ih, OptionalTensor const& b_hh,
                                OptionalTensor const& h0, OptionalTensor const& lengths,
                                OptionalTensor const& episode_starts, OptionalTensor const& seed,
                                double zoneout, double dropconnect, double recurrent_dropout,
                                bool reset_after, bool reverse, bool batch_first,
                                bool keep_reserve) {
    return translated([&] {
      Backend const backend{x};
      Scratch scratch{x};
      Layer layer{{x, w_ih, w_hh, b_ih, b_hh, h0, lengths, episode_starts, seed, zoneout,
                   dropconnect, recurrent_dropout, reset_after, reverse, batch_first}};
      gru::Problem& p = layer.problem();
      p.keep_for_backward = keep_reserve;
      at::TensorOptions const options = x.options();
      at::Tensor h = at::empty(layer.sequence_shape(p.hidden_size), options);
      at::Tensor final_state = at::empty(layer.state_shape(), options.dtype(layer.state_type()));
      at::Tensor reserve = at::empty({gru::reserve_values(p)}, options);
      gru::adapter::ForwardOutputs outputs;
      outputs.h = h.data_ptr();
      outputs.final_state = final_state.data_ptr();
      outputs.reserve = keep_reserve ? reserve.data_ptr() : nullptr;
      Backend::forward(layer.type(), p, layer.weights(), layer.inputs(), outputs,
                       backend.place(scratch.allocate()));
      return ForwardResults{h, final_state, reserve};
    });
  }

  static BackwardResults backward(at::Tensor const& x, at::Tensor const& w_ih,
                                  at::Tensor const& w_hh, OptionalTensor const& b_ih,
                                  OptionalTensor const& b_hh, OptionalTensor const& h0,
                                  OptionalTensor const& lengths,
                                  OptionalTensor const& episode_starts, OptionalTensor const& seed,
                                  double zoneout, double dropconnect, double recurrent_dropout,
                                  bool reset_after, bool reverse, bool batch_first,
                                  bool keep_reserve, at::Tensor const& h, at::Tensor const& reserve,
                                  OptionalTensor const& dh, OptionalTensor const& dfinal_state,
                                  std::array<bool, 6> wanted) {
    return translated([&] {
      Backend const backend{x};
      Scratch scratch{x};
      Layer layer{{x, w_ih, w_hh, b_ih, b_hh, h0, lengths, episode_starts, seed, zoneout,
                   dropconnect, recurrent_dropout, reset_after, reverse, batch_first}};
      gru::Problem& p = layer.problem();
      p.keep_for_backward = true;
      p.reserve = keep_reserve ? gru::ReservePolicy::kKeep : gru::ReservePolicy::kRecompute;
      auto const sequence = layer.sequence_shape(p.hidden_size);
      auto const state = layer.state_shape();
      at::Tensor const used_h = layer.checked("h", h, sequence);
      at::Tensor const used_reserve = layer.checked("reserve", reserve, {gru::reserve_values(p)});
      OptionalTensor const used_dh = layer.checked("dh", dh, sequence);
      OptionalTensor const used_dfinal_state =
          layer.checked("dfinal_state", dfinal_state, state, layer.state_type());
      gru::adapter::BackwardInputs const incoming{
          used_h.const_data_ptr(), keep_reserve ? used_reserve.const_data_ptr() : nullptr,
          data_of(used_dh), data_of(used_dfinal_state)};

      auto const gradient = [&](int index, at::IntArrayRef shape, at::ScalarType type) {
        return at::empty(wanted[index] ? shape : at::IntArrayRef{0}, x.options().dtype(type));
      };
      at::ScalarType const type = x.scalar_type();
      at::Tensor dx = gradient(0, layer.sequence_shape(p.input_size), type);
      at::Tensor dw_ih = gradient(1, layer.weight_shape(p.input_size), type);
      at::Tensor dw_hh = gradient(2, layer.weight_shape(p.hidden_size), type);
      at::Tensor db_ih = gradient(3, {3 * p.hidden_size}, type);
      at::Tensor db_hh = gradient(4, {3 * p.hidden_size}, type);
      at::Tensor dh0 = gradient(5, state, layer.state_type());
      auto const target = [&](int index, at::Tensor const& tensor) {
        return wanted[index] ? tensor.data_ptr() : nullptr;
      };
      gru::adapter::Gradients const gradients{target(0, dx),    target(1, dw_ih), target(2, dw_hh),
                                              target(3, db_ih), target(4, db_hh), target(5, dh0)};
      Backend::backward(layer.type(), p, layer.weights(), layer.inputs(), incoming, gradients,
                        backend.place(scratch.allocate()));
      return BackwardResults{dx, dw_ih, dw_hh, db_ih, db_hh, dh0};
    });
  }
};

}  // namespace gru_torch
