# SPDX-License-Identifier: Apache-2.0
"""The GRU as the papers have it, a plain TensorFlow loop over steps, and the generator of the masks
(Philox4x32-10, Salmon et al. 2011), written from their papers and from gru's documentation of which
draw belongs to which element. Shares no code with the library."""

import numpy as np
import tensorflow as tf


def philox(seed, offset, counters):
    """The four words of each counter: uint32 [..., 4]."""
    mask = np.uint64(0xFFFFFFFF)
    counters = np.asarray(counters, np.uint64)
    seed, offset = np.uint64(seed % 2**64), np.uint64(offset % 2**64)
    shift = np.uint64(32)
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


def _kept(words, rate):
    return words >= np.uint64(np.floor(rate * 2.0**32))


def zoneout_mask(seed, steps, batch, units, rate):
    """[T, N, H], True where the new value is taken."""
    t, n, unit = np.ogrid[:steps, :batch, :units]
    words = philox(*seed, ((t // 4) * batch + n) * units + unit)
    word = np.broadcast_to(t % 4, words.shape[:-1])[..., None]
    return _kept(np.take_along_axis(words, word, axis=-1)[..., 0], rate)


def _dense_mask(seed, first, elements, rate):
    words = philox(*seed, np.uint64(first) + (elements // 4).astype(np.uint64))
    return _kept(np.take_along_axis(words, (elements % 4)[..., None], axis=-1)[..., 0], rate)


def dropconnect_mask(seed, units, rate):
    """[H, 3H], True where the weight is kept."""
    elements = np.arange(units * 3 * units).reshape(units, 3 * units)
    return _dense_mask(seed, 2**63, elements, rate)


def recurrent_dropout_mask(seed, batch, units, rate):
    """[N, H], True where the unit is kept."""
    elements = np.arange(batch * units).reshape(batch, units)
    return _dense_mask(seed, 2**63 + 2**62, elements, rate)


def gru(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    recurrent_bias=None,
    initial_state=None,
    lengths=None,
    episode_starts=None,
    *,
    training=False,
    zoneout=0.0,
    dropconnect=0.0,
    recurrent_dropout=0.0,
    seed=(0, 0),
    reset_after=True,
    reverse=False,
):
    """As gru_tf.ops.gru for x [N, T, C]; all tensors of one floating type."""
    x = tf.convert_to_tensor(x)
    batch, steps = x.shape[:2]
    units = recurrent_kernel.shape[0]
    dtype = x.dtype
    zeros = tf.zeros([3 * units], dtype)
    bias = zeros if bias is None else bias
    recurrent_bias = zeros if recurrent_bias is None else recurrent_bias
    if lengths is None:
        lengths = np.full(batch, steps)
    lengths = np.clip(np.asarray(lengths), 0, steps)
    starts = np.zeros([batch, steps], bool) if episode_starts is None else episode_starts

    R = recurrent_kernel
    state_scale = tf.ones([batch, units], dtype)
    mix = tf.ones([steps, batch, units], dtype) * (1 - zoneout)  # the weight of the new value
    if training:
        mix = tf.cast(zoneout_mask(seed, steps, batch, units, zoneout), dtype)
        R = R * tf.cast(dropconnect_mask(seed, units, dropconnect), dtype) / (1 - dropconnect)
        kept = recurrent_dropout_mask(seed, batch, units, recurrent_dropout)
        state_scale = tf.cast(kept, dtype) / (1 - recurrent_dropout)

    s = tf.zeros([batch, units], dtype) if initial_state is None else initial_state
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        first = t + 1 if reverse else t  # the first step of an episode, in time
        if first < steps:
            cleared = starts[:, first] & (first < lengths)
            s = tf.where(cleared[:, None], tf.zeros([], dtype), s)
        entering = s * state_scale
        p_z, p_r, p_g = tf.split(x[:, t] @ kernel + bias, 3, axis=-1)
        R_z, R_r, R_g = tf.split(R, 3, axis=-1)
        b_z, b_r, b_g = tf.split(recurrent_bias, 3, axis=-1)
        z = tf.sigmoid(p_z + entering @ R_z + b_z)
        r = tf.sigmoid(p_r + entering @ R_r + b_r)
        if reset_after:
            g = tf.tanh(p_g + r * (entering @ R_g + b_g))
        else:
            g = tf.tanh(p_g + (r * entering) @ R_g + b_g)
        new = mix[t] * (z * s + (1 - z) * g) + (1 - mix[t]) * s
        active = (t < lengths)[:, None]
        s = tf.where(active, new, s)
        outputs[t] = tf.where(active, s, tf.zeros([], dtype))
    h = tf.stack(outputs, axis=1) if steps > 0 else tf.zeros([batch, 0, units], dtype)
    return h, s
