# SPDX-License-Identifier: Apache-2.0
"""The GRU as the papers have it, a scan over steps, and the generator of the masks (Philox4x32-10,
Salmon et al. 2011), written from their papers and from gru's documentation of which draw belongs to
which element. Shares no code with the library."""

import jax
import jax.numpy as jnp
import numpy as np


def philox(seed, offset, counters):
    """The four words of each counter: uint32 [..., 4]."""
    mask = np.uint64(0xFFFFFFFF)
    counters = np.asarray(counters, np.uint64)
    seed, offset = np.uint64(seed), np.uint64(offset)
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


def seed_of(key):
    """(seed, offset) as gru draws them from a key."""
    words = np.asarray(jax.random.bits(key, (4,), jnp.uint32)).astype(np.uint64)
    return words[0] | words[1] << np.uint64(32), words[2] | words[3] << np.uint64(32)


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
    params,
    h0=None,
    *,
    lengths=None,
    episode_starts=None,
    zoneout=0.0,
    dropconnect=0.0,
    recurrent_dropout=0.0,
    key=None,
    reset_after=True,
    reverse=False,
    time_major=True,
):
    """As gru_jax.gru."""
    if not time_major:
        x = jnp.swapaxes(x, 0, 1)
        episode_starts = None if episode_starts is None else jnp.swapaxes(episode_starts, 0, 1)
    kernel, R, bias, recurrent_bias = params
    steps, batch, _ = x.shape
    units = R.shape[0]
    zeros = jnp.zeros(3 * units, x.dtype)
    bias = zeros if bias is None else bias
    recurrent_bias = zeros if recurrent_bias is None else recurrent_bias
    lengths = jnp.full(batch, steps) if lengths is None else jnp.clip(lengths, 0, steps)
    starts = jnp.zeros((steps, batch), bool) if episode_starts is None else episode_starts

    state_scale = jnp.ones((batch, units), x.dtype)
    mix = jnp.full((steps, batch, units), 1 - zoneout, x.dtype)  # the weight of the new value
    if key is not None:
        seed = seed_of(key)
        mix = jnp.asarray(zoneout_mask(seed, steps, batch, units, zoneout), x.dtype)
        R = R * dropconnect_mask(seed, units, dropconnect) / (1 - dropconnect)
        kept = recurrent_dropout_mask(seed, batch, units, recurrent_dropout)
        state_scale = jnp.asarray(kept, x.dtype) / (1 - recurrent_dropout)

    # A step clears the state that enters it where an episode starts; backwards in time it is the
    # step after it, in time, that tells.
    times = jnp.arange(steps)
    if reverse:
        cleared = jnp.concatenate([starts[1:], jnp.zeros((1, batch), bool)])[:steps]
        cleared &= (times + 1)[:, None] < lengths
    else:
        cleared = starts & (times[:, None] < lengths)

    def step(s, at):
        t, x_t, mix_t, cleared_t = at
        s = jnp.where(cleared_t[:, None], 0, s)
        entering = s * state_scale
        p_z, p_r, p_g = jnp.split(x_t @ kernel + bias, 3, axis=-1)
        R_z, R_r, R_g = jnp.split(R, 3, axis=-1)
        b_z, b_r, b_g = jnp.split(recurrent_bias, 3)
        z = jax.nn.sigmoid(p_z + entering @ R_z + b_z)
        r = jax.nn.sigmoid(p_r + entering @ R_r + b_r)
        if reset_after:
            g = jnp.tanh(p_g + r * (entering @ R_g + b_g))
        else:
            g = jnp.tanh(p_g + (r * entering) @ R_g + b_g)
        new = mix_t * (z * s + (1 - z) * g) + (1 - mix_t) * s
        active = (t < lengths)[:, None]
        s = jnp.where(active, new, s)
        return s, jnp.where(active, s, 0)

    s = jnp.zeros((batch, units), x.dtype) if h0 is None else h0
    h_last, h = jax.lax.scan(step, s, (times, x, mix, cleared), reverse=reverse)
    return (h if time_major else jnp.swapaxes(h, 0, 1)), h_last
