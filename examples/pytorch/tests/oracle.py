# SPDX-License-Identifier: Apache-2.0
"""The GRU as the papers have it, a plain PyTorch loop over steps, and the generator of the masks
(Philox4x32-10, Salmon et al. 2011), written from their papers and from gru's documentation of which
draw belongs to which element. Shares no code with the library."""

import numpy as np
import torch


def philox(seed, offset, counters):
    """The four words of each counter: uint64 [..., 4], each below 2**32."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    counters = np.asarray(counters, np.uint64)
    seed, offset = np.uint64(seed % 2**64), np.uint64(offset % 2**64)
    c = [counters & mask, counters >> shift]
    c += [np.full_like(counters, offset & mask), np.full_like(counters, offset >> shift)]
    key = [int(seed & mask), int(seed >> shift)]
    for _ in range(10):
        a = np.uint64(0xD2511F53) * c[0]
        b = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (b >> shift) ^ c[1] ^ np.uint64(key[0]),
            b & mask,
            (a >> shift) ^ c[3] ^ np.uint64(key[1]),
            a & mask,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, axis=-1)


def _pick(words, which, rate):
    """1 where the element's word keeps it, else 0."""
    which = np.broadcast_to(which, words.shape[:-1])[..., None]
    kept = np.take_along_axis(words, which, axis=-1)[..., 0] >= np.uint64(np.floor(rate * 2.0**32))
    return torch.tensor(kept, dtype=torch.float64)


def zoneout_mask(seed, steps, batch, units, rate):
    """[T, N, H], 1 where the new value is taken."""
    t, n, unit = np.ogrid[:steps, :batch, :units]
    return _pick(philox(*seed, ((t // 4) * batch + n) * units + unit), t % 4, rate)


def _dense_mask(seed, first, elements, rate):
    words = philox(*seed, np.uint64(first) + (elements // 4).astype(np.uint64))
    return _pick(words, elements % 4, rate)


def dropconnect_mask(seed, units, rate):
    """[3H, H], gates r, z, n, 1 where the weight is kept."""
    element = np.arange(units * 3 * units).reshape(units, 3, units)  # row of R, gate z r g, unit
    z, r, g = _dense_mask(seed, 2**63, element, rate).unbind(1)
    return torch.cat([r.T, z.T, g.T])


def recurrent_dropout_mask(seed, batch, units, rate):
    """[N, H], 1 where the unit is kept."""
    element = np.arange(batch * units).reshape(batch, units)
    return _dense_mask(seed, 2**63 + 2**62, element, rate)


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
):
    """As gru_torch.ops.gru, for float64."""
    if batch_first:
        x = x.transpose(0, 1)
        episode_starts = None if episode_starts is None else episode_starts.T
    steps, batch, _ = x.shape
    units = w_hh.shape[1]
    zeros = x.new_zeros(3 * units)
    b_ih = zeros if b_ih is None else b_ih
    b_hh = zeros if b_hh is None else b_hh
    lengths = torch.full([batch], steps) if lengths is None else lengths.clamp(0, steps)
    starts = torch.zeros(steps, batch).bool() if episode_starts is None else episode_starts

    mix = torch.full([steps, batch, units], 1 - zoneout, dtype=x.dtype)  # the new value's weight
    scale = x.new_ones(batch, units)
    if seed is not None:
        words = [int(v) for v in seed]
        mix = zoneout_mask(words, steps, batch, units, zoneout)
        w_hh = w_hh * dropconnect_mask(words, units, dropconnect) / (1 - dropconnect)
        scale = recurrent_dropout_mask(words, batch, units, recurrent_dropout)
        scale = scale / (1 - recurrent_dropout)

    s = x.new_zeros(batch, units) if h0 is None else h0
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        first = t + 1 if reverse else t  # the first step of an episode, in time
        if first < steps:
            cleared = starts[first] & (first < lengths)
            s = torch.where(cleared[:, None], 0.0, s)
        entering = s * scale
        p_r, p_z, p_n = (x[t] @ w_ih.T + b_ih).chunk(3, dim=-1)
        w_r, w_z, w_n = w_hh.chunk(3)
        b_r, b_z, b_n = b_hh.chunk(3)
        r = torch.sigmoid(p_r + entering @ w_r.T + b_r)
        z = torch.sigmoid(p_z + entering @ w_z.T + b_z)
        if reset_after:
            n = torch.tanh(p_n + r * (entering @ w_n.T + b_n))
        else:
            n = torch.tanh(p_n + (r * entering) @ w_n.T + b_n)
        new = mix[t] * (z * s + (1 - z) * n) + (1 - mix[t]) * s
        active = (t < lengths)[:, None]
        s = torch.where(active, new, s)
        outputs[t] = torch.where(active, s, 0.0)
    h = torch.stack(outputs)
    return (h.transpose(0, 1) if batch_first else h), s
