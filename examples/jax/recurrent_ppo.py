# SPDX-License-Identifier: Apache-2.0
"""Recurrent PPO (1707.06347) on a memory task, with gru_jax.gru and with a scan over steps.

The task: every step shows a random symbol, and the right action is the first symbol of the episode.
Episodes end at random, and nothing in the observation tells that a new one has begun: a policy can
only be right if its state is cleared there, in the middle of the sequences that it learns from.
Both kinds have the same weights and draw the same random numbers; a third one, not told where
episodes start, shows what clearing the state is worth.

    python examples/jax/recurrent_ppo.py [--chart recurrent_ppo.svg]

It needs optax, and the chart matplotlib.
"""

import argparse
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax

SYMBOLS, EMBEDDING = 8, 32
END_PROBABILITY = 1 / 32
DISCOUNT, TRACE_DECAY = 0.9, 0.95
CLIP, VALUE_WEIGHT, ENTROPY_WEIGHT = 0.2, 0.5, 0.003
EPOCHS, MINIBATCHES = 4, 4


class Environment(NamedTuple):
    """N environments at once, before the action of a step."""

    first: jax.Array  # [N], the first symbol of the episode
    observation: jax.Array  # [N]
    starts: jax.Array  # bool [N], whether this step begins an episode


def show(key, first, starts):
    observation = jax.random.randint(key, first.shape, 0, SYMBOLS)
    return Environment(jnp.where(starts, observation, first), observation, starts)


def begin(key, batch):
    return show(key, jnp.zeros(batch, jnp.int32), jnp.ones(batch, bool))


def advance(key, environment, action):
    """(the environment before the next action, the reward of this one)"""
    end, symbol = jax.random.split(key)
    starts = jax.random.bernoulli(end, END_PROBABILITY, action.shape)
    reward = (action == environment.first).astype(jnp.float32)
    return show(symbol, environment.first, starts), reward


# ---- The policy, on sequences [T, N] ----


def run_fused(params, x, state, starts):
    return gru_jax.gru(x, params, state, episode_starts=starts)


def run_scan(params, x, state, starts):
    def step(state, inputs):
        x, starts = inputs
        state = jnp.where(starts[:, None], 0, state)
        x_z, x_r, x_g = jnp.split(x @ params.kernel + params.bias, 3, axis=-1)
        product = state @ params.recurrent_kernel + params.recurrent_bias
        s_z, s_r, s_g = jnp.split(product, 3, axis=-1)
        z, r = jax.nn.sigmoid(x_z + s_z), jax.nn.sigmoid(x_r + s_r)
        state = z * state + (1 - z) * jnp.tanh(x_g + r * s_g)
        return state, state

    last, h = jax.lax.scan(step, state, (x, starts))
    return h, last


def run_without_starts(params, x, state, starts):
    del starts
    return gru_jax.gru(x, params, state)


KINDS = {
    "gru_jax.gru": run_fused,
    "lax.scan": run_scan,
    "gru_jax.gru without starts": run_without_starts,
}


class Policy(NamedTuple):
    embedding: jax.Array
    gru: gru_jax.Parameters
    actor: jax.Array
    critic: jax.Array


def make_policy(key, units):
    keys = jax.random.split(key, 5)
    uniform = functools.partial(jax.random.uniform, minval=-(units**-0.5), maxval=units**-0.5)
    zeros = jnp.zeros(3 * units)
    kernel = uniform(keys[1], (EMBEDDING, 3 * units))
    recurrent_kernel = uniform(keys[2], (units, 3 * units))
    return Policy(
        embedding=jax.random.normal(keys[0], (SYMBOLS, EMBEDDING)),
        gru=gru_jax.Parameters(kernel, recurrent_kernel, zeros, zeros),
        actor=uniform(keys[3], (units, SYMBOLS)),
        critic=uniform(keys[4], (units, 1)),
    )


def evaluate(run, policy, observation, state, starts):
    """(log probabilities [T, N, SYMBOLS], values [T, N], the state after them)"""
    h, state = run(policy.gru, policy.embedding[observation], state, starts)
    return jax.nn.log_softmax(h @ policy.actor), (h @ policy.critic)[..., 0], state


# ---- Acting and learning ----


class Records(NamedTuple):
    """What acting brought, each [T, N]."""

    observation: jax.Array
    starts: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array


def pick(log_probs, action):
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit, static_argnames=("run", "steps"))
def act(run, policy, key, environment, state, steps):
    """Acts for some steps: (records, the value after them, environment, state)."""

    def step(carry, key):
        environment, state = carry
        choice, world = jax.random.split(key)
        observation, starts = environment.observation[None], environment.starts[None]
        log_probs, value, state = evaluate(run, policy, observation, state, starts)
        action = jax.random.categorical(choice, log_probs[0])
        following, reward = advance(world, environment, action)
        log_prob = pick(log_probs[0], action)
        record = Records(
            environment.observation, environment.starts, action, log_prob, value[0], reward
        )
        return (following, state), record

    (environment, state), records = jax.lax.scan(
        step, (environment, state), jax.random.split(key, steps)
    )
    observation, starts = environment.observation[None], environment.starts[None]
    _, last_value, _ = evaluate(run, policy, observation, state, starts)
    return records, last_value[0], environment, state


def advantages_of(records, last_value, last_starts):
    """Generalized advantage estimation (1506.02438)."""

    def step(following, at):
        advantage, following_value, following_starts = following
        starts, value, reward = at
        goes_on = DISCOUNT * ~following_starts
        error = reward + goes_on * following_value - value
        advantage = error + goes_on * TRACE_DECAY * advantage
        return (advantage, value, starts), advantage

    after = (jnp.zeros_like(last_value), last_value, last_starts)
    sequence = (records.starts, records.value, records.reward)
    return jax.lax.scan(step, after, sequence, reverse=True)[1]


def loss_of(policy, run, state, records, advantage, target):
    log_probs, value, _ = evaluate(run, policy, records.observation, state, records.starts)
    ratio = jnp.exp(pick(log_probs, records.action) - records.log_prob)
    gain = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    policy_loss = -jnp.minimum(ratio * gain, clipped * gain).mean()
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
    value_loss = jnp.square(value - target).mean()
    return policy_loss + VALUE_WEIGHT * value_loss - ENTROPY_WEIGHT * entropy


@functools.partial(jax.jit, static_argnames=("run", "optimizer"))
def learn(run, optimizer, learner, key, state, records, last_value, last_starts):
    """PPO's epochs over what `act` brought; a minibatch is a part of the environments. `learner` is
    the policy and the optimizer's state."""
    advantage = advantages_of(records, last_value, last_starts)
    target = advantage + records.value

    def step(learner, part):
        policy, moments = learner
        of_part = jax.tree.map(lambda v: v[:, part], (records, advantage, target))
        gradients = jax.grad(loss_of)(policy, run, state[part], *of_part)
        updates, moments = optimizer.update(gradients, moments)
        return (optax.apply_updates(policy, updates), moments), None

    batch = state.shape[0]
    orders = [jax.random.permutation(own, batch) for own in jax.random.split(key, EPOCHS)]
    parts = jnp.reshape(jnp.stack(orders), (EPOCHS * MINIBATCHES, batch // MINIBATCHES))
    return jax.lax.scan(step, learner, parts)[0]


def train(kind, seed, settings):
    """(the reward a step of each update, the median seconds of acting and of learning)"""
    run = KINDS[kind]
    init, start, key = jax.random.split(jax.random.key(seed), 3)
    policy = make_policy(init, settings.units)
    adam = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(settings.learning_rate))
    learner = policy, adam.init(policy)
    environment = begin(start, settings.environments)
    state = jnp.zeros((settings.environments, settings.units))
    rewards, seconds = [], []
    for _ in range(settings.updates):
        key, acting, learning = jax.random.split(key, 3)
        times, first = [time.perf_counter()], state
        records, last_value, environment, state = jax.block_until_ready(
            act(run, learner[0], acting, environment, state, settings.steps)
        )
        times.append(time.perf_counter())
        learner = jax.block_until_ready(
            learn(run, adam, learner, learning, first, records, last_value, environment.starts)
        )
        times.append(time.perf_counter())
        rewards.append(float(records.reward.mean()))
        seconds.append(np.diff(times))
    return rewards, *np.median(seconds, axis=0)


def draw(path, curves, settings):
    """Mean and range over the seeds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "gru", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = range(1, settings.updates + 1)
    for (kind, runs), style in zip(curves.items(), ("-", (0, (4, 3)), ":"), strict=True):
        (line,) = axes.plot(steps, np.mean(runs, axis=0), label=kind, linestyle=style)
        low, high = np.min(runs, axis=0), np.max(runs, axis=0)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
    axes.set(xlabel="update", ylabel="reward a step (at most 1)", ylim=(0, 1.02))
    axes.legend(loc="center right")
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--environments", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128, help="steps of an environment an update")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--chart", metavar="FILE", help="draw the reward of all kinds")
    settings = parser.parse_args()

    curves = {kind: [] for kind in KINDS}
    for seed in range(settings.seeds):
        for kind in KINDS:
            rewards, acting, learning = train(kind, seed, settings)
            curves[kind].append(rewards)
            print(
                f"{kind:26} seed {seed}: reward a step {rewards[0]:.3f} at first, "
                f"{rewards[-1]:.3f} in the end; an update takes {1e3 * acting:.0f} ms of acting, "
                f"{1e3 * learning:.0f} ms of learning",
                flush=True,
            )
    if settings.chart:
        draw(settings.chart, curves, settings)


if __name__ == "__main__":
    main()
