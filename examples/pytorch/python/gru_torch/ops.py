# SPDX-License-Identifier: Apache-2.0
"""The op: one GRU layer and direction over a batch of sequences, and its gradient."""

import torch
from torch.autograd import forward_ad

from . import _library  # noqa: F401  (registers torch.ops.gru_torch)

# How many tensors an op begins with (x to seed), how many of them have a gradient (x to h0), and how
# many options follow.
_TENSORS = 9
_DIFFERENTIABLE = 6
_OPTIONS = 7


def gru(
    x,
    w_ih,
    w_hh,
    b_ih=None,
    b_hh=None,
    h0=None,
    *,
    lengths=None,
    episode_starts=None,
    seed=None,
    zoneout=0.0,
    dropconnect=0.0,
    recurrent_dropout=0.0,
    reset_after=True,
    reverse=False,
    batch_first=False,
    recompute=False,
):
    """Runs a GRU over `x`.

    Args:
      x: [T, N, C], or [N, T, C] where `batch_first`; float16, bfloat16, float32 or float64.
      w_ih: [3H, C], gates in the order r, z, n, of x's type as all that follow.
      w_hh: [3H, H].
      b_ih, b_hh: [3H], or None for zeros.
      h0: [N, H], or None for zeros. It may be of float32 where x is of 16 bits; the final state is
        then too, and single steps carry what the whole sequence does.
      lengths: [N] int32 or int64, clamped to [0, T], or None. On x's device they stay there; on the
        CPU, or as a list, the product of x and w_ih may leave out what is past them.
      episode_starts: bool, as x without its last dimension, a list of such rows, or None: no state
        passes into a step that is marked.
      seed: int64 [2] on x's device, what masks are drawn from; None for inference.
      zoneout, dropconnect, recurrent_dropout: rates in [0, 1).
      reset_after: whether the reset gate acts after the recurrent product (as nn.GRU) or before.
      reverse: whether the steps are done from each sequence's end; outputs stay in time order.
      recompute: whether the backward pass computes the gates again, to save memory.

    Returns:
      (h, final_state): as x with H for C, zero beyond the lengths; [N, H].
    """
    if torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        # Dynamo does not see which inputs torch.func.grad is asked about, and would give zeros.
        torch._dynamo.graph_break(
            msg="gru_torch runs inside torch.func's transforms, but not in a graph of torch.compile"
        )
    lengths, episode_starts = _as_tensor(lengths, "cpu"), _as_tensor(episode_starts, x.device)
    if lengths is not None and lengths.dtype == torch.int64:
        # Before the cast, in which a value beyond int32 would wrap around.
        lengths = lengths.clamp(0, x.shape[1 if batch_first else 0]).to(torch.int32)
    tensors = _autocast(x, w_ih, w_hh, b_ih, b_hh, h0)
    needs_gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
    # Where a gradient is wanted all the same (under torch.vmap this cannot be seen), the backward
    # pass computes the gates again.
    keep_reserve = needs_gradient and not recompute
    rates = (zoneout, dropconnect, recurrent_dropout)
    options = (*rates, reset_after, reverse, batch_first, keep_reserve)
    inputs = (*tensors, lengths, episode_starts, seed)
    if needs_gradient or _is_traced():
        h, final_state, _ = _Gru.apply(*inputs, options)
    else:  # a Function costs 45 us a call
        with torch._C._AutoDispatchBelowAutograd():
            h, final_state, _ = torch.ops.gru_torch.forward(*inputs, *options)
    return h, final_state


def _as_tensor(value, device):
    """A list as a tensor on a device; a tensor, or None, as it is."""
    if value is None or isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(value, device=device)


def _is_traced():
    """Whether the call may be seen by what asks for more than its value."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _autocast(x, w_ih, w_hh, b_ih, b_hh, h0):
    """The tensors in the type of the autocast that is in force: on a GPU all of them in that type,
    as by nn.GRU; on the CPU, where layers stay in their own, x and h0 in the weights'. float64 is
    left alone."""
    tensors = (x, w_ih, w_hh, b_ih, b_hh, h0)
    kind = x.device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return tensors
    if kind == "cuda":
        return tuple(_cast(tensor, torch.get_autocast_dtype(kind)) for tensor in tensors)
    return _cast(x, w_ih.dtype), *tensors[1:5], _cast(h0, w_ih.dtype)


def _cast(tensor, dtype):
    if tensor is None or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor
    return tensor.to(dtype)


# Both Functions name every argument: dynamo tells by their number that there is no ctx among them.


class _Gru(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, episode_starts, seed, options):
        return torch.ops.gru_torch.forward(
            x, w_ih, w_hh, b_ih, b_hh, h0, lengths, episode_starts, seed, *options
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        _keep(ctx, inputs[:_TENSORS], inputs[_TENSORS], output)

    @staticmethod
    def backward(ctx, dh, dfinal_state, _):
        return *_gradients(ctx, dh, dfinal_state), None


def _keep(ctx, tensors, options, output):
    """Keeps what the gradients of an op's call need."""
    h, _, reserve = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(reserve)
    ctx.save_for_backward(*tensors, h, reserve)
    ctx.options = options


def _gradients(ctx, dh, dfinal_state):
    """The gradient of each tensor that the op was given, or None."""
    nothing = (None,) * (_TENSORS - _DIFFERENTIABLE)
    if dh is None and dfinal_state is None:
        return (None,) * _DIFFERENTIABLE + nothing
    *tensors, h, reserve = ctx.saved_tensors
    wanted = tuple(ctx.needs_input_grad[:_DIFFERENTIABLE])
    gradients = _GruBackward.apply(*tensors, ctx.options, h, reserve, dh, dfinal_state, wanted)
    return tuple(g if w else None for g, w in zip(gradients, wanted, strict=True)) + nothing


class _GruBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x, w_ih, w_hh, b_ih, b_hh, h0, lengths, starts, seed, options, h, reserve, dh, dh_n, wanted
    ):
        layer = (x, w_ih, w_hh, b_ih, b_hh, h0, lengths, starts, seed, *options)
        return torch.ops.gru_torch.backward(*layer, h, reserve, dh, dh_n, wanted)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(
            "gru_torch has no second derivative. Where one is needed, torch.nn.GRU has it (on a "
            "GPU under torch.backends.cudnn.flags(enabled=False))."
        )


# The op has gradients of its own for where it stands alone: torch.export leaves no Function.
torch.library.register_autograd(
    "gru_torch::forward",
    lambda ctx, dh, dfinal_state, _: (*_gradients(ctx, dh, dfinal_state), *(None,) * _OPTIONS),
    setup_context=lambda ctx, inputs, output: _keep(
        ctx, inputs[:_TENSORS], inputs[_TENSORS:], output
    ),
)


@torch.library.register_fake("gru_torch::forward")
def _forward_shapes(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, episode_starts, seed, *options):
    given = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "h0": h0}
    given |= {"lengths": lengths, "episode_starts": episode_starts, "seed": seed}
    for name, tensor in given.items():
        if name == "lengths" and tensor is not None and tensor.device.type == "cpu":
            continue
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, but x is on {x.device}")
    batch_first, keep_reserve = options[-2:]
    first, second, _ = x.shape
    units = w_hh.shape[1]
    batch = first if batch_first else second
    # The closed formula of gru::reserve_values.
    reserve = first * second * 4 * units if keep_reserve else 0
    final_state = (x if h0 is None else h0).new_empty(batch, units)
    return x.new_empty(first, second, units), final_state, x.new_empty(reserve)


@torch.library.register_fake("gru_torch::backward")
def _backward_shapes(x, w_ih, w_hh, b_ih, b_hh, h0, lengths, episode_starts, seed, *options):
    batch_first, wanted = options[5], options[-1]
    units = w_hh.shape[1]
    batch = x.shape[0 if batch_first else 1]
    gates = (3 * units,)
    shapes = (x.shape, w_ih.shape, w_hh.shape, gates, gates, (batch, units))
    types = (x.dtype,) * 5 + (x.dtype if h0 is None else h0.dtype,)
    return tuple(
        x.new_empty(shape if want else (0,), dtype=dtype)
        for shape, dtype, want in zip(shapes, types, wanted, strict=True)
    )
