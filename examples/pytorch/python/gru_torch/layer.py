# SPDX-License-Identifier: Apache-2.0
"""`gru_torch.GRU`: torch.nn.GRU, and what it lacks."""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import ops

_INT64 = torch.iinfo(torch.int64)


class GRU(nn.RNNBase):
    """Layers of Gated Recurrent Units: parameters, initialisation, state_dict and function of
    torch.nn.GRU, with zoneout, DropConnect, recurrent dropout, lengths and episode starts."""

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        device=None,
        dtype=None,
        *,
        zoneout=0.0,
        dropconnect=0.0,
        recurrent_dropout=0.0,
        reset_after=True,
        recompute=False,
    ):
        """Makes the layers; the arguments before the star are those of torch.nn.GRU.

        Args:
          dropout: the rate of dropout on the outputs of each layer but the last, in training.
          zoneout: the rate at which units keep their state (1606.01305), in training; in inference
            the old state and the new are mixed by this rate.
          dropconnect: the rate at which weights of weight_hh are dropped, in training.
          recurrent_dropout: the rate of dropout on the state that enters the recurrent product, one
            mask a sequence (1512.05287), in training.
          reset_after: whether the reset gate acts after the recurrent product (as torch.nn.GRU) or
            before (1406.1078v3).
          recompute: whether the backward pass computes the gates again, to save memory.
        """
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        for name, rate in (
            ("zoneout", zoneout),
            ("dropconnect", dropconnect),
            ("recurrent_dropout", recurrent_dropout),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}, outside [0, 1)")
        self.zoneout = zoneout
        self.dropconnect = dropconnect
        self.recurrent_dropout = recurrent_dropout
        self.reset_after = reset_after
        self.recompute = recompute

    def forward(self, input, hx=None, *, lengths=None, episode_starts=None, generator=None):
        """Runs the layers.

        Args:
          input: [T, N, C], or [N, T, C] where batch_first, or [T, C] without a batch, or
            a PackedSequence; output is one too then.
          hx: [layers * directions, N, H], or [layers * directions, H] without a batch, or None for
            zeros. It may be of float32 in a layer of 16 bits; then h_n is too.
          lengths: [N] int32 or int64, clamped to [0, T]. On input's device they stay there; on the
            CPU, or as a list, the products with input may leave out what is past them.
          episode_starts: bool, as input without its last dimension, or a list of such rows: no
            state passes into a step that is marked.
          generator: what masks, those of dropout among them, are drawn from; None for the device's
            default generator.

        Returns:
          (output, h_n): as torch.nn.GRU. With lengths, output is zero beyond them, and h_n is the
          state at each sequence's true end.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None or episode_starts is not None:
                raise ValueError("a PackedSequence takes neither lengths nor episode_starts")
            return self._run_packed(input, hx, generator)
        if input.dim() == 2:
            return self._run_unbatched(input, hx, lengths, episode_starts, generator)
        if input.dim() != 3:
            raise ValueError(f"input has {input.dim()} dimensions, must have 2 or 3")
        return self._run(input, hx, lengths, episode_starts, generator)

    def step(self, input, hx=None, *, episode_starts=None, generator=None):
        """Runs a single step, as policies do that act. It may be captured in a torch.cuda.graph.

        Args:
          input: [N, C].
          hx: [layers, N, H], or None for zeros. Of float32 in a layer of 16 bits, it is carried as
            exactly as within a sequence.
          episode_starts: [N] bool: no state passes into the step where it is set.
          generator: as forward's.

        Returns:
          (output, h_n): [N, H], the last layer's, and [layers, N, H], the next step's hx.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional layer has no single step")
        if input.dim() != 2:
            raise ValueError(f"input has {input.dim()} dimensions, must have 2")
        time = 1 if self.batch_first else 0
        starts = None if episode_starts is None else episode_starts.unsqueeze(time)
        output, h_n = self._run(input.unsqueeze(time), hx, None, starts, generator)
        return output.squeeze(time), h_n

    def _run_packed(self, packed, hx, generator):
        padded, lengths = pad_packed_sequence(packed, self.batch_first)
        output, h_n = self._run(padded, hx, lengths, None, generator)
        order = packed.sorted_indices
        if order is not None:
            output = output.index_select(0 if self.batch_first else 1, order)
            lengths = lengths[order.cpu()]
        data = pack_padded_sequence(output, lengths, self.batch_first).data
        unsorted = packed.unsorted_indices
        return PackedSequence(data, packed.batch_sizes, order, unsorted), h_n

    def _run_unbatched(self, input, hx, lengths, episode_starts, generator):
        if lengths is not None:
            raise ValueError("lengths are for a batch, but input has 2 dimensions")
        if hx is not None and hx.dim() != 2:
            raise ValueError(f"hx has {hx.dim()} dimensions, must have 2 as input has")
        batch = 0 if self.batch_first else 1
        output, h_n = self._run(
            input.unsqueeze(batch),
            None if hx is None else hx.unsqueeze(1),
            None,
            None if episode_starts is None else episode_starts.unsqueeze(batch),
            generator,
        )
        return output.squeeze(batch), h_n.squeeze(1)

    def _run(self, input, hx, lengths, episode_starts, generator):
        directions = 2 if self.bidirectional else 1
        rows = self.num_layers * directions
        if hx is not None and (hx.dim() != 3 or hx.shape[0] != rows):
            raise ValueError(
                f"hx has shape {tuple(hx.shape)}, must be [{rows}, N, {self.hidden_size}]"
            )
        seeds = self._seeds(rows, input.device, generator)
        finals = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in (False, True)[:directions]:
                row = len(finals)
                h, final_state = ops.gru(
                    input,
                    *self._weights(layer, reverse),
                    None if hx is None else hx[row],
                    lengths=lengths,
                    episode_starts=episode_starts,
                    seed=None if seeds is None else seeds[row],
                    zoneout=self.zoneout,
                    dropconnect=self.dropconnect,
                    recurrent_dropout=self.recurrent_dropout,
                    reset_after=self.reset_after,
                    reverse=reverse,
                    batch_first=self.batch_first,
                    recompute=self.recompute,
                )
                outputs.append(h)
                finals.append(final_state)
            input = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
            if layer + 1 < self.num_layers:
                input = self._dropout(input, generator)
        return input, torch.stack(finals)

    def _dropout(self, input, generator):
        if generator is None or not self.training or not self.dropout:
            return nn.functional.dropout(input, self.dropout, self.training)
        kept = 1 - self.dropout
        mask = torch.empty_like(input).bernoulli_(kept, generator=generator)
        return input * (mask / kept if kept > 0 else mask)

    def _weights(self, layer, reverse):
        """weight_ih, weight_hh, bias_ih, bias_hh. By name, so that parametrizations, weight tying
        and torch.func.functional_call have their way."""
        suffix = f"_l{layer}_reverse" if reverse else f"_l{layer}"
        weights = [getattr(self, name + suffix) for name in ("weight_ih", "weight_hh")]
        if not self.bias:
            return *weights, None, None
        return *weights, *(getattr(self, name + suffix) for name in ("bias_ih", "bias_hh"))

    def _seeds(self, rows, device, generator):
        """What the masks of each layer and direction are drawn from, or None where none is."""
        if not self.training or not (self.zoneout or self.dropconnect or self.recurrent_dropout):
            return None
        return torch.randint(_INT64.min, _INT64.max, (rows, 2), generator=generator, device=device)

    def flatten_parameters(self):
        """Does nothing: the weights are read where they lie."""

    def extra_repr(self):
        parts = [super().extra_repr()]
        for name, default in (
            ("zoneout", 0.0),
            ("dropconnect", 0.0),
            ("recurrent_dropout", 0.0),
            ("reset_after", True),
            ("recompute", False),
        ):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value}")
        return ", ".join(parts)
