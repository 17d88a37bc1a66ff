# SPDX-License-Identifier: Apache-2.0
"""Recurrent PPO (1707.06347) on a memory task, with gru_torch.GRU and with torch.nn.GRU.

The task: every step shows a random symbol, and the right action is the first symbol of the episode.
Episodes end at random, and nothing in the observation tells that a new one has begun: a policy can
only be right if its state is cleared there, in the middle of the sequences that it learns from.
gru_torch.GRU is told so by `episode_starts`; torch.nn.GRU is run from start to start, the batch cut
wherever any of its episodes begins. Both have the same weights and draw the same random numbers. A
third policy, not told where episodes start, shows what clearing the state is worth.

    python examples/pytorch/recurrent_ppo.py [--device cuda] [--chart recurrent_ppo.svg]

The chart needs matplotlib.
"""

import argparse
import itertools
import time

import torch
from torch import nn

import gru_torch

SYMBOLS = 8
END_PROBABILITY = 1 / 32
DISCOUNT, TRACE_DECAY = 0.9, 0.95
CLIP, VALUE_WEIGHT, ENTROPY_WEIGHT = 0.2, 0.5, 0.003
EPOCHS, MINIBATCHES = 4, 4


class FirstSymbol:
    """N environments at once."""

    def __init__(self, batch, device):
        self.batch, self.device = batch, device
        self.first = torch.zeros(batch, dtype=torch.int64, device=device)

    def begin(self):
        """(observation, starts) of the first step."""
        return self._show(torch.ones(self.batch, dtype=torch.bool, device=self.device))

    def step(self, action):
        """(reward, observation, starts): for the action, and of the step that follows it."""
        reward = (action == self.first).float()
        return reward, *self._show(torch.rand(self.batch, device=self.device) < END_PROBABILITY)

    def _show(self, starts):
        observation = torch.randint(SYMBOLS, (self.batch,), device=self.device)
        self.first = torch.where(starts, observation, self.first)
        return observation, starts


def run_from_start_to_start(gru, x, state, starts):
    """torch.nn.GRU, with its state cleared where an episode starts. Waits for the GPU, to learn
    where that is."""
    cuts = [0, *(1 + starts[1:].any(dim=1).nonzero()[:, 0]).tolist(), len(x)]
    outputs = []
    for begin, end in itertools.pairwise(cuts):
        state = state.masked_fill(starts[begin, :, None], 0)
        output, state = gru(x[begin:end], state)
        outputs.append(output)
    return torch.cat(outputs), state


def run_at_once(gru, x, state, starts):
    return gru(x, state, episode_starts=starts)


def run_without_starts(gru, x, state, starts):
    return gru(x, state)


KINDS = {
    "gru_torch.GRU": (gru_torch.GRU, run_at_once),
    "torch.nn.GRU": (nn.GRU, run_from_start_to_start),
    "gru_torch.GRU without starts": (gru_torch.GRU, run_without_starts),
}


class Policy(nn.Module):
    def __init__(self, kind, units):
        super().__init__()
        make, self.run = KINDS[kind]
        self.embedding = nn.Embedding(SYMBOLS, 32)
        self.gru = make(32, units)
        self.actor = nn.Linear(units, SYMBOLS)
        self.critic = nn.Linear(units, 1)

    def forward(self, observation, state, starts):
        """(actions, values, state) of observations [T, N], from a state [1, N, H] on."""
        h, state = self.run(self.gru, self.embedding(observation), state, starts)
        actions = torch.distributions.Categorical(logits=self.actor(h))
        return actions, self.critic(h)[..., 0], state


@torch.no_grad()
def act(policy, environment, steps, observation, starts, state):
    """Acts for some steps. Returns what they brought, each [T, N], and where the next begin."""
    records = []
    for _ in range(steps):
        actions, value, state = policy(observation[None], state, starts[None])
        action = actions.sample()
        before = (observation, starts, action[0], actions.log_prob(action)[0], value[0])
        reward, observation, starts = environment.step(action[0])
        records.append((*before, reward))
    _, last_value, _ = policy(observation[None], state, starts[None])
    return map(torch.stack, zip(*records, strict=True)), last_value[0], observation, starts, state


def advantages_of(reward, value, last_value, starts, last_starts):
    """Generalized advantage estimation (1506.02438)."""
    advantage = torch.zeros_like(last_value)
    advantages = []
    values, all_starts = [*value, last_value], [*starts, last_starts]
    for t in reversed(range(len(reward))):
        goes_on = DISCOUNT * ~all_starts[t + 1]
        error = reward[t] + goes_on * values[t + 1] - value[t]
        advantage = error + goes_on * TRACE_DECAY * advantage
        advantages.append(advantage)
    return torch.stack(advantages[::-1])


def learn(policy, optimizer, state, observation, starts, action, log_prob, advantage, target):
    """PPO's epochs over what `act` brought. A minibatch is a part of the environments."""
    for _ in range(EPOCHS):
        for part in torch.randperm(starts.shape[1], device=starts.device).chunk(MINIBATCHES):
            actions, value, _ = policy(observation[:, part], state[:, part], starts[:, part])
            ratio = (actions.log_prob(action[:, part]) - log_prob[:, part]).exp()
            gain = advantage[:, part]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy_loss = -torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            value_loss = (value - target[:, part]).square().mean()
            entropy = actions.entropy().mean()
            optimizer.zero_grad()
            (policy_loss + VALUE_WEIGHT * value_loss - ENTROPY_WEIGHT * entropy).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()


def seconds_now(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def train(kind, seed, settings):
    """(the reward a step of each update, the median seconds of acting and of learning)"""
    device = torch.device(settings.device)
    torch.manual_seed(seed)
    policy = Policy(kind, settings.units).to(device)
    optimizer = torch.optim.Adam(policy.parameters(), settings.learning_rate)
    environment = FirstSymbol(settings.environments, device)
    observation, starts = environment.begin()
    state = torch.zeros(1, settings.environments, settings.units, device=device)
    rewards, seconds = [], []
    for _ in range(settings.updates):
        times, first_state = [seconds_now(device)], state
        records, last_value, observation, starts, state = act(
            policy, environment, settings.steps, observation, starts, state
        )
        times.append(seconds_now(device))
        *seen, value, reward = records
        advantage = advantages_of(reward, value, last_value, seen[1], starts)
        learn(policy, optimizer, first_state, *seen, advantage, advantage + value)
        times.append(seconds_now(device))
        rewards.append(reward.mean().item())
        seconds.append(times)
    return rewards, *torch.tensor(seconds, dtype=torch.float64).diff().quantile(0.5, dim=0).tolist()


def draw(path, curves, settings):
    """Mean and range over the seeds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "gru", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = range(1, settings.updates + 1)
    for (kind, runs), style in zip(curves.items(), ("-", (0, (4, 3)), ":"), strict=True):
        runs = torch.tensor(runs)
        (line,) = axes.plot(steps, runs.mean(0), label=kind, linestyle=style)
        axes.fill_between(steps, runs.amin(0), runs.amax(0), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="update", ylabel="reward a step (at most 1)", ylim=(0, 1.02))
    axes.legend(loc="center right")
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--environments", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128, help="steps of an environment an update")
    parser.add_argument("--units", type=int, default=64)
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
                f"{kind:28} seed {seed}: reward a step {rewards[0]:.3f} at first, "
                f"{rewards[-1]:.3f} in the end; an update takes {1e3 * acting:.0f} ms of acting, "
                f"{1e3 * learning:.0f} ms of learning",
                flush=True,
            )
    if settings.chart:
        draw(settings.chart, curves, settings)


if __name__ == "__main__":
    main()
